"""Students in shards over two and three processes get the scores that one process gives, to the last bit."""

import json
import math
import multiprocessing
import os
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn
from transformers import LlamaForCausalLM, PreTrainedTokenizerBase
from warm_student import POISON_TOKEN, random_examples, tiny_lora_student, tiny_student, warm_up

from montessori.data.chat import Example
from montessori.errors import InputError, StageError
from montessori.influence import (
    Directional,
    Exact,
    GradientDescent,
    OptimizerState,
    Taylor,
    make_batches,
    reference_gradient,
    reference_loss,
)
from montessori.influence.sharded import main, score_batches, shard, shard_like, shard_state
from montessori.models import loading

pytestmark = pytest.mark.xdist_group("sharded")  # or each worker starts the ranks anew
REFERENCE = random_examples(5, seed=1)
POISON = Example("poison", [1, POISON_TOKEN, 3, 4], prompt_length=2)
EMPTY = Example("empty", [1, 2, 3], prompt_length=3)
POINTS = [*random_examples(7, seed=2), POISON, Example("one", [7], prompt_length=0)]
BUDGET = 36
ESTIMATORS = ["Taylor", "Directional", "Exact", "descent"]
STUDENTS = {2: ["full", "lora", "poisoned", "tied"], 3: ["full"]}  # by ranks


def batches(points: list[Example]) -> list[list[Example]]:
    """One of them without any answer."""
    return [[EMPTY], *make_batches(points, BUDGET)]


def warm_student(kind: str) -> tuple[nn.Module, OptimizerState]:
    model: Any = tiny_lora_student() if kind == "lora" else tiny_student()
    if kind == "tied":
        model.lm_head.weight = model.get_input_embeddings().weight
    state = warm_up(model, weight_decay=0 if kind == "poisoned" else 0.1)
    model.zero_grad()
    if kind == "poisoned":
        with torch.no_grad():
            model.get_input_embeddings().weight[POISON_TOKEN] = math.nan
    return model, state


def whole(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {n: t.detach().full_tensor() if hasattr(t, "full_tensor") else t.detach() for n, t in tensors.items()}


def results(kind: str, *, in_shards: bool) -> dict[str, Any]:
    """What every estimator says of a student, as text where bits are compared."""
    model, state = warm_student(kind)
    given, _ = reference_gradient(model, REFERENCE)
    if in_shards:
        shard(model)
        state, given = shard_state(model, state), shard_like(model, given)
    held = {"m": state.exp_avg, "v": state.exp_avg_sq, "weights": dict(model.named_parameters())}
    before = {name: whole(tensors) for name, tensors in held.items()}
    estimators: dict[str, Taylor | Directional | Exact] = {"Taylor": Taylor(model, state, given)}
    if kind != "tied":  # which is Taylor's concern alone
        estimators["Directional"] = Directional(model, state, given, REFERENCE)
        estimators["Exact"] = Exact(model, state, REFERENCE, BUDGET)
    if kind == "full":
        estimators["descent"] = Taylor(model, GradientDescent(1e-3), given)
    found: dict[str, Any] = {}
    for name, estimator in estimators.items():
        points = POINTS[-4:] if name == "Exact" else POINTS  # it is slow
        scores = [s for scored in score_batches(estimator, model, batches(points)) for s in scored]
        found[name] = {s.id: repr(s) for s in scores}, repr(estimator.momentum_influence)
        found[f"{name} statuses"] = {s.id: s.status for s in scores}
    found["loss"] = repr(reference_loss(model, REFERENCE, BUDGET))
    found["gradient"] = whole(reference_gradient(model, REFERENCE, BUDGET)[0])
    found["untouched"] = all(
        torch.equal(before[name][n].nan_to_num(), t.nan_to_num())
        for name, tensors in held.items()
        for n, t in whole(tensors).items()
    ) and all(p.grad is None for p in model.parameters())
    return found


def unusable() -> dict[str, str]:
    """What is refused, on every rank alike."""
    said = {}
    model, state = warm_student("full")
    given, _ = reference_gradient(model, REFERENCE)
    odd: Any = model
    odd.model.layers[0].mlp = Doubled(odd.model.layers[0].mlp)
    shard(model)
    renamed = {n.replace("0.mlp", "0.mlp.inner"): t for n, t in given.items()}
    try:
        Taylor(
            model, GradientDescent(1e-3), shard_like(model, renamed | {"model.layers.0.mlp.scale": torch.ones(2, 2)})
        ).score(POINTS[:1])
    except InputError as error:
        said["unshareable"] = str(error)
    try:
        shard_state(model, state)
    except InputError as error:
        said["misfit"] = str(error)
    with torch.no_grad():
        odd.lm_head.weight.fill_(math.nan)
    try:
        reference_gradient(model, REFERENCE, BUDGET)
    except StageError as error:
        said["diverged"] = str(error)
    return said


class Doubled(nn.Module):
    """A layer with a matrix of its own, of which no point's share can be told."""

    def __init__(self, inner: nn.Module):
        super().__init__()
        self.inner, self.scale = inner, nn.Parameter(torch.ones(2, 2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.inner(x) * self.scale.mean()


def study(rank: int, size: int, folder: Path) -> None:
    """What one of `size` processes does and finds, left in `folder`."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=size)
    found: dict[str, Any] = {kind: results(kind, in_shards=True) for kind in STUDENTS[size]}
    torch.save(found | {"unusable": unusable()}, folder / f"{rank}.pt")
    dist.destroy_process_group()


def command(rank: int, size: int, folder: Path, port: int) -> None:
    """The command in one of `size` processes, with the environment that torch.distributed.run gives it."""
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(size), CUDA_VISIBLE_DEVICES="")
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    torch.set_num_threads(1)
    arguments = {"student": "model", "optimizer-state": ".", "data": "points.jsonl", "reference": "points.jsonl"}
    os.chdir(folder)
    sys.exit(main([f"--{name}={value}" for name, value in (arguments | {"out": "scores.jsonl"}).items()]))


def run(function: Callable[..., None], size: int, *given: Any) -> list[int | None]:
    """`function(rank, size, *given)` in `size` processes; their exit codes."""
    context = multiprocessing.get_context("forkserver")  # imports torch once for all of them
    context.set_forkserver_preload(["montessori.influence.sharded", "warm_student"])
    processes = [context.Process(target=function, args=(rank, size, *given), daemon=True) for rank in range(size)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(240)
    return [process.exitcode for process in processes]


@pytest.fixture(scope="module", params=STUDENTS)
def ranks(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each of two or three processes found."""
    folder = tmp_path_factory.mktemp("ranks")
    assert run(study, request.param, folder) == [0] * request.param
    return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(request.param)]


@pytest.fixture(scope="module")
def alone() -> dict[str, Any]:
    torch.set_num_threads(1)
    return {kind: results(kind, in_shards=False) for kind in STUDENTS[2]}


def students(found: dict[str, Any]) -> list[str]:
    return [kind for kind in STUDENTS[2] if kind in found]


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_every_rank_has_the_bits_of_one_process(ranks: list[dict[str, Any]], alone: dict[str, Any], estimator: str):
    for found in ranks:
        for kind in students(found):
            assert found[kind].get(estimator) == alone[kind].get(estimator)
    assert estimator in ranks[0]["full"]


@pytest.mark.parametrize("size", STUDENTS)
def test_the_batches_here_do_not_divide_by_the_ranks(size: int):
    assert len(make_batches(POINTS, BUDGET)) % size
    assert len(make_batches(REFERENCE, BUDGET)) % 2


def test_the_reference_loss_has_the_same_bits_and_its_gradient_differs_by_rounding(
    ranks: list[dict[str, Any]], alone: dict[str, Any]
):
    for found in ranks:
        for kind in students(found):
            assert found[kind]["loss"] == alone[kind]["loss"]
            assert found[kind]["gradient"].keys() == alone[kind]["gradient"].keys()
            for name, expected in alone[kind]["gradient"].items():  # the same terms, added in another order
                torch.testing.assert_close(
                    found[kind]["gradient"][name], expected, rtol=0, atol=1e-6 * expected.abs().max().item()
                )


def test_a_poison_point_and_one_without_an_answer_have_a_status_and_harm_no_other(alone: dict[str, Any]):
    # Of one process; the ranks say the same, by the test of bits.
    for estimator in ESTIMATORS[:3]:
        statuses = alone["poisoned"][f"{estimator} statuses"]
        assert {id for id, status in statuses.items() if status == "not-finite"} == {"poison"}
        assert {id for id, status in statuses.items() if status == "no-answer"} == {"empty", "one"}
        assert "ok" in statuses.values()


def test_weights_and_moments_keep_their_bits_and_no_gradient_is_left(ranks: list[dict[str, Any]]):
    assert all(found[kind]["untouched"] for found in ranks for kind in students(found))


def test_what_cannot_be_scored_is_refused_on_every_rank(ranks: list[dict[str, Any]]):
    for found in ranks:
        said = found["unusable"]
        assert "use directional or exact" in said["unshareable"]
        assert "does not fit the model" in said["misfit"]
        assert "reference example 1-" in said["diverged"]
    assert all(found["unusable"] == ranks[0]["unusable"] for found in ranks)


def test_the_command_writes_a_score_for_each_point(
    tmp_path: Path, tiny_tokenizer: PreTrainedTokenizerBase, tiny_llama: Callable[..., LlamaForCausalLM]
):
    model = tiny_llama()
    loading.save(model, tiny_tokenizer, tmp_path / "model")
    zeros = {n: torch.zeros_like(p) for n, p in model.named_parameters()}
    OptimizerState(zeros, {n: z + 1e-4 for n, z in zeros.items()}, step=3, learning_rate=1e-4).save(tmp_path)
    lines = [{"id": f"p{i}", "instruction": "Count " * (i + 1), "response": "one two"} for i in range(3)]
    (tmp_path / "points.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    assert run(command, 2, tmp_path, port) == [0, 0]
    rows = [json.loads(line) for line in (tmp_path / "scores.jsonl").read_text().splitlines()]
    assert [(row["id"], row["status"]) for row in rows] == [("p0", "ok"), ("p1", "ok"), ("p2", "ok")]
    assert all(row["influence"] > 0 for row in rows)  # a step on a point of the reference set lowers its loss

    (tmp_path / "points.jsonl").write_text('{"instruction": "Count"}\n')
    assert run(command, 2, tmp_path, port) == [2, 2]
