"""The optimiser step of `montessori score`: other people's states, states without a step, and no state at all."""

import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from test_score_command import POINTS, here, jsonl, nothing, refused, rows, score, summary

from montessori.influence import OptimizerState
from montessori.models import loading
from montessori.settings.score import Scoring

__all__ = ["here"]


def checkpoint(optimizer_class: Any = torch.optim.AdamW, last_rate: float = 1e-5, **options: Any) -> None:
    """Write checkpoint/ as a Trainer does, with two groups, and state/ with the same state by name."""
    model = loading.load_model("student")
    parameters = [*model.parameters()]
    decay = {} if optimizer_class is torch.optim.SGD else {"weight_decay": 0.0}
    groups = [
        {"params": [p for p in parameters if p.ndim > 1]},
        {"params": [p for p in parameters if p.ndim == 1], **decay},
    ]
    optimizer = optimizer_class(groups, lr=1e-5, **options)
    for seed in range(3):
        torch.manual_seed(seed)
        for parameter in parameters:
            parameter.grad = torch.randn_like(parameter) * 1e-2
        optimizer.step()
    for group in optimizer.param_groups:
        group["lr"] = last_rate
    Path("checkpoint").mkdir()
    torch.save(optimizer.state_dict(), "checkpoint/optimizer.pt")
    Path("checkpoint/trainer_state.json").write_text("{}")
    if optimizer_class is torch.optim.AdamW:
        OptimizerState.of(optimizer, model).save("state")


def test_a_trainer_s_checkpoint_gives_the_scores_of_the_same_state_by_name(here: Path) -> None:
    checkpoint(weight_decay=0.1)
    assert score(optimizer_state="state") == 0
    expected, step = Path("scores.jsonl").read_bytes(), summary()["step"]
    assert score(optimizer_state="checkpoint") == 0
    assert Path("scores.jsonl").read_bytes() == expected
    assert summary()["step"] == step | {"words": step["words"].replace("in state", "in checkpoint")}
    manifests = {m: m.stat().st_mtime_ns for m in Path("store").glob("*/*/manifest.json")}
    assert score(optimizer_state="checkpoint") == 0
    assert {m: m.stat().st_mtime_ns for m in Path("store").glob("*/*/manifest.json")} == manifests


def test_the_rate_of_a_finished_schedule_is_refused_and_can_be_given(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint(last_rate=0.0)
    with monkeypatch.context() as patched:
        patched.setattr("tasks.runtime.local.open_place", nothing)
        for state in ("checkpoint", "state"):
            message = refused(capsys, optimizer_state=state)
            assert f"--optimizer-state: {state}: the learning rate in the optimiser state is 0" in message
            assert message.endswith("give the rate of the step with --learning-rate")
    assert score(optimizer_state="checkpoint", learning_rate=2e-5) == 0
    assert summary()["step"]["learning_rate"] == 2e-5 and any(row["influence"] for row in rows())


@pytest.mark.parametrize(
    ("scalar", "value", "message"),
    [
        ("learning_rate", math.nan, "the learning rate in the optimiser state is nan"),
        ("learning_rate", -1.0, "the learning rate in the optimiser state is -1"),
        ("learning_rate", None, "not the scalars of an optimiser state"),
        ("step", 0, "has taken no step"),
    ],
)
def test_scalars_that_make_no_step_are_refused_before_anything_starts(
    here: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    scalar: str,
    value: float | None,
    message: str,
) -> None:
    monkeypatch.setattr("tasks.runtime.local.open_place", nothing)
    file = Path("state/optimizer.json")
    file.write_text(json.dumps(json.loads(file.read_text()) | {scalar: value}))
    assert message in refused(capsys, optimizer_state="state")


@pytest.mark.parametrize(
    ("optimizer", "options", "named"),
    [
        (torch.optim.RAdam, {}, "RAdam"),
        (torch.optim.SGD, {"momentum": 0.9}, "SGD"),
        (torch.optim.Adam, {"weight_decay": 0.1}, "Adam with an L2 penalty"),
    ],
)
def test_another_optimiser_is_refused_by_name_before_anything_starts(
    here: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    optimizer: Any,
    options: dict[str, Any],
    named: str,
) -> None:
    checkpoint(optimizer, **options)
    monkeypatch.setattr("tasks.runtime.local.open_place", nothing)
    message = refused(capsys, optimizer_state="checkpoint")
    assert message.startswith("montessori: --optimizer-state: checkpoint/optimizer.pt: the state is that of ")
    assert named in message


def test_a_state_of_another_model_is_refused_by_what_differs(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    checkpoint()
    shutil.copytree("student", "other")
    config = json.loads(Path("other/config.json").read_text())
    Path("other/config.json").write_text(json.dumps(config | {"num_hidden_layers": 1}))
    assert "the optimiser state has 21 parameters, and the model has 12" in refused(
        capsys, optimizer_state="checkpoint", student="other"
    )


def test_moments_with_nan_are_refused(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    state = OptimizerState.load("state")
    state.exp_avg["model.norm.weight"][0] = math.nan
    state.save("state")
    assert "NaN or infinite values in exp_avg of model.norm.weight" in refused(capsys, optimizer_state="state")


def test_without_a_state_the_student_is_warmed_up_on_a_part_of_the_points(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert score() == 0
    shown = capsys.readouterr().out
    assert f"AdamW warms the student up on {POINTS} of the {POINTS} points first" in shown
    assert f"of a warm-up on {POINTS} of the points, after 16 steps" in summary()["step"]["words"]
    assert all(row["in_warm_up"] for row in rows()) and summary()["points"]["in_warm_up"] == POINTS
    assert summary()["step"]["optimizer"] == "AdamW" and summary()["influence"]["momentum_influence"]
    manifests = {m: m.stat().st_mtime_ns for m in Path("store").glob("*/*/manifest.json")}
    first = Path("scores.jsonl").read_bytes()
    assert score() == 0
    assert {m: m.stat().st_mtime_ns for m in Path("store").glob("*/*/manifest.json")} == manifests
    assert Path("scores.jsonl").read_bytes() == first


def test_one_point_is_enough_for_a_warm_up(here: Path) -> None:
    assert score(limit=1) == 0
    (row,) = rows()
    assert row["status"] == "ok" and row["in_warm_up"] and math.isfinite(row["influence"])


@pytest.mark.parametrize(
    ("points", "expected"), [(1, 1), (63, 63), (64, 64), (200, 64), (400, 100), (4096, 1024), (10**6, 1024)]
)
def test_the_warm_up_takes_a_quarter_of_the_points_within_bounds(points: int, expected: int) -> None:
    files = {"student": "s", "data": "d", "reference": "r", "out": "o"}
    assert Scoring(**files).warm_up_points(points) == expected
    assert Scoring(**files, warm_up=7).warm_up_points(points) == 7
    assert Scoring(**files, optimizer="sgd").warm_up_points(points) == 0
    assert Scoring(**files, optimizer_state="state").warm_up_points(points) == 0


def test_the_summary_tells_how_far_scores_follow_the_lengths_and_losses(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    points = [{"instruction": f"Count to {n}.", "response": " ".join(map(str, range(n + 1)))} for n in range(1, 13)]
    jsonl(Path("points.jsonl"), points)
    assert score(optimizer="sgd") == 0
    tokens = [row["tokens"] for row in rows()]
    told = summary()["lengths"]
    assert (told["tokens"]["minimum"], told["tokens"]["maximum"]) == (min(tokens), max(tokens))
    assert -1 <= told["training_loss"]["spearman_with_influence"] <= 1
    shown = capsys.readouterr().out
    best = max(rows(), key=lambda row: row["influence"])
    assert f"{best['id']}  ({best['tokens']} tokens, loss {best['training_loss']:.3f})" in shown
    assert f"{told['tokens']['spearman_with_influence']:+.2f} with the answer's tokens" in shown
