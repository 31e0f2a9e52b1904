"""Students too large for one GPU: weights, moments and ∇L in shards over several processes (FSDP2).

Every estimator then works as it does in one process, and every process has to make the same calls. By command, one
process a GPU (or a few on a CPU, where they only share the memory):

    python -m torch.distributed.run --nproc-per-node 8 -m montessori.influence.sharded --student warm/model \\
        --optimizer-state warm --data points.jsonl --reference reference.jsonl --out scores.jsonl

By hand, after `torch.distributed.init_process_group()`:

    model = shard(load_model("warm/model", place="cpu"))
    state = shard_state(model, OptimizerState.load(Path("warm")))
    gradient, _ = reference_gradient(model, reference)  # comes in shards
    scores = score(Taylor(model, state, gradient), model, plan(points))  # all of them, in every process

A process holds its share of the weights, moments and ∇L, one layer whole while that is at work, and for `Taylor` also
m, v and ∇L of one parameter. Taylor and Directional share the points out by batches, Exact the reference set. The
traffic of a batch, received by each process: the weights twice, and m, v and ∇L once, for Taylor (of a float32 model
with P parameters 20P bytes; a larger token budget spreads it over more points); the weights twice for Directional;
and for Exact, of a point, 3 times the weights and then once for each turn of the reference set. While the student is
loaded every process holds it whole, on its GPU if it has one; moments are read from the file share by share.
Source: Zhao et al. 2023 (arXiv 2304.11277), as `torch.distributed.fsdp.fully_shard`.
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
from montessori.influence.adamw import OptimizerState, require_alike, trainable_parameters
from montessori.influence.batches import TOKEN_BUDGET, Batch, answer_tokens, plan
from montessori.influence.directional import Directional
from montessori.influence.exact import Exact
from montessori.influence.ranks import Ranks
from montessori.influence.reference import reference_gradient
from montessori.influence.score import Estimator, Score
from montessori.influence.taylor import Taylor
from montessori.models import loading
from montessori.settings.schema import DataSource

M = TypeVar("M", bound=nn.Module)


def shard(model: M, mesh: DeviceMesh | None = None) -> M:
    """`model` itself, its parameters in shards over `mesh` (default: all processes), each layer gathered apart.

    A model that lies on the CPU moves to the mesh's device layer by layer. Dtypes stay as they are; gradients are
    summed over the processes in float32, not averaged. A layer is what transformers calls one that is not split.
    """
    if mesh is None:
        kind = "cuda" if torch.cuda.is_available() else "cpu"
        mesh = init_device_mesh(kind, (dist.get_world_size(),))
    layers: set[str] = set(getattr(model, "_no_split_modules", None) or ())
    # Weights are freed after every forward pass, the root's too: estimators write them between passes.
    how: dict[str, Any] = {
        "mesh": mesh,
        "reshard_after_forward": True,
        "mp_policy": MixedPrecisionPolicy(reduce_dtype=torch.float32),
    }
    for module in [m for m in model.modules() if type(m).__name__ in layers]:
        fully_shard(module, **how)
    fully_shard(model, **how)
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(True)  # or dividing by one asks for what gloo has not
    return model


def shard_like(model: nn.Module, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """`tensors`, which have the names and shapes of the trainable parameters, in shards as those are.

    Each process cuts its share out of its own copy; nothing is sent. Raises InputError where they do not fit.
    """
    parameters = trainable_parameters(model)
    require_alike(tensors, parameters, "the state or gradient to shard")
    return {name: _shard_like(parameter, tensors[name]) for name, parameter in parameters.items()}


def shard_state(model: nn.Module, state: OptimizerState) -> OptimizerState:
    """`state` with its moments in shards, as the parameters of `model` are."""
    return replace(state, exp_avg=shard_like(model, state.exp_avg), exp_avg_sq=shard_like(model, state.exp_avg_sq))


def _shard_like(parameter: Tensor, tensor: Tensor) -> Tensor:
    assert isinstance(parameter, DTensor)
    return distribute_tensor(tensor, parameter.device_mesh, parameter.placements, src_data_rank=None)


def score(estimator: Estimator, model: nn.Module, batches: Sequence[Batch]) -> Iterator[list[Score]]:
    """The scores of each batch, on every process; batches without any answer come last.

    Without shards it is `estimator.score` of one batch after the other.
    """
    if isinstance(estimator, Exact):  # all processes at one point, each with its part of the reference set
        yield from map(estimator.score, batches)
        return
    answered = [batch for batch in batches if any(map(answer_tokens, batch))]
    yield from Ranks.of(model).each(estimator.score, answered)
    yield from (estimator.score(batch) for batch in batches if not any(map(answer_tokens, batch)))


def main(arguments: Sequence[str] | None = None) -> int:
    """Score the points of a file, one of the processes that `torch.distributed.run` started; the exit code."""
    parser = argparse.ArgumentParser(prog="montessori.influence.sharded", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--student", required=True, help="model folder")
    parser.add_argument("--optimizer-state", required=True, type=Path, help="folder of optimizer.safetensors")
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
    """A row for each point that could be encoded, in the file's order; null where there is no number."""
    tokenizer = loading.load_tokenizer(options.student)

    def examples(name: str) -> list[Example]:
        source = DataSource(source=getattr(options, name))
        return encode_pairs(tokenizer, data.read(source, name), options.max_length).examples

    points, reference = examples("data"), examples("reference")
    model = shard(loading.load_model(options.student, options.dtype, place="cpu"))
    state = shard_state(model, OptimizerState.load(options.optimizer_state))
    estimator: Estimator
    if options.estimator == "exact":
        estimator = Exact(model, state, reference, options.token_budget)
    else:
        gradient, _ = reference_gradient(model, reference, options.token_budget)
        if options.estimator == "taylor":
            estimator = Taylor(model, state, gradient)
        else:
            estimator = Directional(model, state, gradient, reference)
    found = {s.id: asdict(s) for batch in score(estimator, model, plan(points, options.token_budget)) for s in batch}
    return [
        {k: None if isinstance(v, float) and math.isnan(v) else v for k, v in found[point.id].items()}
        for point in points
    ]


if __name__ == "__main__":
    sys.exit(main())
