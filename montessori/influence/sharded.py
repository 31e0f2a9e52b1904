"""Score with students too large for one GPU, with weights, moments and ∇L in shards over several processes (FSDP2).

Every estimator works as in one process, and every process has to make the same calls. Start one process for each GPU
(or a few on a CPU, where they only share the memory):

    python -m torch.distributed.run --nproc-per-node 8 -m montessori.influence.sharded --student warm/model \\
        --optimizer-state warm --data points.jsonl --reference reference.jsonl --out scores.jsonl

From Python, after `torch.distributed.init_process_group()`:

    model = shard(load_model("warm/model", device_name="cpu"))
    state = shard_state(model, OptimizerState.load(Path("warm")))
    gradient, _ = reference_gradient(model, reference)  # sharded
    scores = score_batches(Taylor(model, state, gradient), model, make_batches(points))  # all, in every process

A process holds its share of the weights, moments and ∇L, and one whole layer while that layer computes. `Taylor` also
holds m, v and ∇L of one whole parameter. While the student is loaded every process holds all of it, on its GPU if it
has one. Moments are read from the file one share at a time.

Taylor and Directional divide the batches of points among the processes, Exact the reference set. Each process receives
this traffic:

| estimator | for each | tensors received |
| --- | --- | --- |
| taylor | batch of points | the weights twice, m, v and ∇L once; 20P bytes for P float32 parameters |
| directional | batch of points | the weights twice |
| exact | point | the weights three times, and once more for each wave of the reference set |

A larger token budget spreads taylor's traffic over more points. Source: Zhao et al. 2023 (arXiv 2304.11277), as
`torch.distributed.fsdp.fully_shard`.
"""

import argparse
import json
import math
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from montessori.data import rows as data
from montessori.data.chat import Example, encode_pairs
from montessori.errors import InputError, MontessoriError
from montessori.influence.adamw import OptimizerState, require_same_shapes, trainable_parameters
from montessori.influence.batches import TOKEN_BUDGET, Batch, answer_tokens, make_batches
from montessori.influence.checkpoint import read_state
from montessori.influence.directional import Directional
from montessori.influence.distributed import RankGroup
from montessori.influence.exact import Exact
from montessori.influence.reference import reference_gradient
from montessori.influence.score import Estimator, Score
from montessori.influence.taylor import Taylor
from montessori.models import loading
from montessori.settings.data import DataSource

M = TypeVar("M", bound=nn.Module)


def shard(model: M, mesh: DeviceMesh | None = None) -> M:
    """Shard the parameters of `model` in place over `mesh` (default: all processes), and return the model.

    Each layer is gathered separately. A model on the CPU moves to the mesh's device layer by layer. Dtypes do not
    change. Gradients are summed over the processes in float32, not averaged. A layer is a module that transformers
    lists as not to be split.
    """
    if mesh is None:
        kind = "cuda" if torch.cuda.is_available() else "cpu"
        mesh = init_device_mesh(kind, (dist.get_world_size(),))
    layers: set[str] = set(getattr(model, "_no_split_modules", None) or ())
    # Free gathered weights after every forward pass, the root module's too: estimators write the shards between passes.
    options: dict[str, Any] = {
        "mesh": mesh,
        "reshard_after_forward": True,
        "mp_policy": MixedPrecisionPolicy(reduce_dtype=torch.float32),
    }
    for module in [m for m in model.modules() if type(m).__name__ in layers]:
        fully_shard(module, **options)
    fully_shard(model, **options)
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(True)  # gloo has no averaging reduction
    return model


def shard_like(model: nn.Module, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return `tensors`, which have the names and shapes of the trainable parameters, sharded like those parameters.

    Each process cuts its share from its own copy, and nothing is sent. Raises InputError where names or shapes differ.
    """
    parameters = trainable_parameters(model)
    require_same_shapes(tensors, parameters, "the state or gradient to shard")
    return {name: _shard_like(parameter, tensors[name]) for name, parameter in parameters.items()}


def shard_state(model: nn.Module, state: OptimizerState) -> OptimizerState:
    """Return `state` with its moments sharded like the parameters of `model`."""
    return replace(state, exp_avg=shard_like(model, state.exp_avg), exp_avg_sq=shard_like(model, state.exp_avg_sq))


def _shard_like(parameter: Tensor, tensor: Tensor) -> Tensor:
    assert isinstance(parameter, DTensor)
    return distribute_tensor(tensor, parameter.device_mesh, parameter.placements, src_data_rank=None)


def score_batches(estimator: Estimator, model: nn.Module, batches: Sequence[Batch]) -> Iterator[list[Score]]:
    """Yield the scores of each batch, on every process. Batches without any answer come last.

    For a model without shards this is `estimator.score` of one batch after the other.
    """
    if isinstance(estimator, Exact):  # all ranks work on one point, each with its part of the reference set
        yield from map(estimator.score, batches)
        return
    answered = [batch for batch in batches if any(map(answer_tokens, batch))]
    yield from RankGroup.of(model).map(estimator.score, answered)
    yield from (estimator.score(batch) for batch in batches if not any(map(answer_tokens, batch)))


def main(arguments: Sequence[str] | None = None) -> int:
    """Score the points of a file in one of the processes of `torch.distributed.run`, and return the exit code."""
    parser = argparse.ArgumentParser(prog="montessori.influence.sharded", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--student", required=True, help="model folder")
    parser.add_argument("--optimizer-state", required=True, type=Path, help="folder of the state, as for score")
    parser.add_argument("--data", required=True, help="points to score: a JSONL, JSON or Parquet file, or a hub name")
    parser.add_argument("--reference", required=True, help="reference set, likewise")
    parser.add_argument("--estimator", choices=("taylor", "directional", "exact"), default="taylor")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32", help="of the weights")
    parser.add_argument("--max-length", type=int, default=1024, help="tokens of a point")
    parser.add_argument("--token-budget", type=int, default=TOKEN_BUDGET, help="padded tokens of a batch")
    parser.add_argument("--out", required=True, type=Path, help="JSON lines to write: id, influence, training_loss, …")
    options = parser.parse_args(arguments)
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    try:
        rows = _score_files(options)
    except MontessoriError as error:
        sys.stderr.write(f"{error}\n" if dist.get_rank() == 0 else "")
        return 2 if isinstance(error, InputError) else 1
    finally:
        dist.destroy_process_group()
    if int(os.environ["RANK"]) == 0:
        partial = options.out.with_name(f".{options.out.name}.partial")
        partial.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        partial.replace(options.out)
    return 0


def _score_files(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Return a row for each encoded point, in the file's order. Missing numbers are null."""
    tokenizer = loading.load_tokenizer(options.student)

    def examples(name: str) -> list[Example]:
        source = DataSource(source=getattr(options, name))
        return encode_pairs(tokenizer, data.read(source, name), options.max_length).examples

    points, reference = examples("data"), examples("reference")
    model = shard(loading.load_model(options.student, options.dtype, device_name="cpu"))
    state = shard_state(model, read_state(options.optimizer_state, model))
    estimator: Estimator
    if options.estimator == "exact":
        estimator = Exact(model, state, reference, options.token_budget)
    else:
        gradient, _ = reference_gradient(model, reference, options.token_budget)
        if options.estimator == "taylor":
            estimator = Taylor(model, state, gradient)
        else:
            estimator = Directional(model, state, gradient, reference)
    batches = make_batches(points, options.token_budget)
    rows = {score.id: asdict(score) for scores in score_batches(estimator, model, batches) for score in scores}
    return [
        {k: None if isinstance(v, float) and math.isnan(v) else v for k, v in rows[point.id].items()}
        for point in points
    ]


if __name__ == "__main__":
    sys.exit(main())
