"""`montessori score` on a tiny student: what comes out, and what is refused before anything starts."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch

from flows.commands import cli
from montessori.artifacts import Folder
from montessori.correlation import spearman
from montessori.data import rows as data
from montessori.data.chat import encode_pairs
from montessori.influence import (
    Directional,
    Exact,
    GradientDescent,
    OptimizerState,
    ReferenceGradient,
    Taylor,
    example_loss,
    make_batches,
    reference_gradient,
)
from montessori.models import loading
from montessori.settings.data import DataSource
from tasks.runtime.places import Inline

POINTS = 12


def jsonl(path: Path, rows: list[dict[str, str]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def here(tmp_path: Path, tiny_llama: Any, tiny_tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with student/, state/, points.jsonl and reference.jsonl; stages run in this process, which has torch."""
    for name in ("state", "gradient"):
        (tmp_path / name).mkdir()
    student = tiny_llama()
    student.save_pretrained(tmp_path / "student")
    tiny_tokenizer.save_pretrained(tmp_path / "student")
    points = [{"instruction": f"Add {n} and 30.", "response": f"The sum is {n + 30}."} for n in range(POINTS)]
    jsonl(tmp_path / "points.jsonl", points)
    asked = [{"instruction": f"Name {n} colours.", "response": "Red, green and blue."} for n in range(3)]
    jsonl(tmp_path / "reference.jsonl", asked)
    trained(student, tiny_tokenizer, points).save(tmp_path / "state")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("tasks.runtime.local.open_place", lambda compute, _: Inline(compute))
    monkeypatch.setattr("tasks.runtime.places.gpus", list)
    return tmp_path


def trained(student: Any, tokenizer: Any, points: list[dict[str, str]]) -> OptimizerState:
    """The state after three real steps (of a copy's worth: the saved student is not moved)."""
    optimizer = torch.optim.AdamW(student.parameters(), lr=1e-5, weight_decay=0.0)
    for example in encode_pairs(tokenizer, [{"id": str(n), **p} for n, p in enumerate(points[:3])], 256).examples:
        optimizer.zero_grad()
        example_loss(student, example).backward()
        optimizer.step()
    return OptimizerState.of(optimizer, student)


BASE = {"student": "student", "data": "points.jsonl", "reference": "reference.jsonl", "out": "scores.jsonl"}
STATE = {"optimizer-state": "state"}


def score(**options: object) -> int:
    """The exit code of the command, with `_` for `-`."""
    given = BASE | {name.replace("_", "-"): value for name, value in options.items()}
    return cli.main(["score", *(str(word) for name, value in given.items() for word in (f"--{name}", value))])


def rows(path: str = "scores.jsonl") -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(path).read_text().splitlines()]


def summary() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(Path("scores.summary.json").read_text())
    return found


def by_api(estimator: str, step: Any = None) -> dict[str, float]:
    """The same scores from the functions of `montessori.influence`."""
    model, tokenizer = loading.load_model("student"), loading.load_tokenizer("student")
    points, reference = (
        encode_pairs(tokenizer, data.read(DataSource(source=file), "points"), 1024).examples
        for file in ("points.jsonl", "reference.jsonl")
    )
    step = step or OptimizerState.load(Path("state"))
    if estimator == "exact":
        scorer: Taylor | Directional | Exact = Exact(model, step, reference)
    else:
        gradient, loss = reference_gradient(model, reference)
        # Read back, as a shard does: where tensors lie in memory changes the last bits of a float32 sum.
        ReferenceGradient(gradient, loss, len(reference), 0.0).save(Path("gradient"))
        gradient = ReferenceGradient.load(Path("gradient")).gradient
        taylor = estimator == "taylor"
        scorer = Taylor(model, step, gradient) if taylor else Directional(model, step, gradient, reference)
    return {found.id: found.influence for batch in make_batches(points) for found in scorer.score(batch)}


@pytest.mark.parametrize("estimator", ["taylor", "directional", "exact"])
def test_every_point_gets_the_score_that_the_library_gives_it(here: Path, estimator: str) -> None:
    assert score(optimizer_state="state", estimator=estimator) == 0
    ids = [row["id"] for row in data.read(DataSource(source="points.jsonl"), "points")]
    assert [row["id"] for row in rows()] == ids
    assert {row["id"]: row["influence"] for row in rows()} == by_api(estimator)
    assert set(rows()[0]) == {"id", "influence", "training_loss", "tokens", "status"}
    assert summary()["estimator"] == estimator


def test_any_number_of_shards_gives_the_same_bytes(here: Path) -> None:
    assert score(optimizer_state="state") == 0
    one = Path("scores.jsonl").read_bytes()
    assert score(optimizer_state="state", shards=3, store="other") == 0
    assert Path("scores.jsonl").read_bytes() == one
    assert len(list(Path("other/influence").iterdir())) == summary()["shards"] == 3


def test_summary_and_figure_lie_beside_the_scores(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert score(optimizer_state="state") == 0
    found = summary()
    values = [row["influence"] for row in rows()]
    assert found["statuses"] == {"ok": POINTS}
    assert found["influence"]["mean"] == pytest.approx(math.fsum(values) / POINTS)
    assert found["influence"]["share_above_zero"] == sum(value > 0 for value in values) / POINTS
    assert found["reference"]["n"] == 3 and found["reference"]["loss"] > 0
    assert found["speed"]["points_per_second"] > 0 and found["versions"]["torch"]
    assert Path("scores.png").read_bytes().startswith(b"\x89PNG")
    assert "saved by one step" in Path("scores.svg").read_text()
    assert not list(here.glob(".*.part"))
    shown = capsys.readouterr().out
    assert "Most influential" in shown and "scores.summary.json" in shown and "100.0%" in shown
    best = max(rows(), key=lambda row: row["influence"])
    assert shown.split("Most influential")[1].split()[1] == best["id"]


def test_the_output_says_which_step_it_was(here: Path) -> None:
    assert score(optimizer_state="state") == 0
    given = rows()
    assert summary()["step"]["words"] == (
        "one AdamW step with learning rate 1e-05, from the optimiser state in state after 3 steps"
    )
    assert score(optimizer="sgd") == 0
    assert summary()["step"]["words"] == (
        "one step of plain gradient descent, learning rate 5e-06, without an optimiser state"
    )
    assert summary()["influence"]["momentum_influence"] == 0
    assert {row["id"]: row["influence"] for row in rows()} == by_api("taylor", GradientDescent(5e-6))
    assert score(warm_up=4) == 0
    assert "of a warm-up on 4 of the points, after 16 steps" in summary()["step"]["words"]
    assert sum(row["in_warm_up"] for row in rows()) == 4 and len(rows()) == POINTS
    assert [row["influence"] for row in rows()] != [row["influence"] for row in given]


def test_another_learning_rate_scales_the_step(here: Path) -> None:
    assert score(optimizer_state="state", learning_rate=2e-5) == 0
    double = {row["id"]: row["influence"] for row in rows()}
    assert double == pytest.approx({id: 2 * value for id, value in by_api("taylor").items()}, rel=1e-5)
    assert summary()["step"]["learning_rate"] == 2e-5


def test_a_learning_rate_at_which_first_order_fails_comes_with_a_warning(here: Path) -> None:
    def warned() -> bool:
        return any("to first order" in warning for warning in summary()["warnings"])

    assert score(optimizer_state="state", learning_rate=5e-4) == 0 and warned()
    assert score(optimizer_state="state", learning_rate=5e-4, estimator="exact") == 0 and not warned()
    assert score(optimizer_state="state", learning_rate=5e-6) == 0 and not warned()


def test_too_few_points_are_no_ground_for_a_verdict_on_directional(here: Path) -> None:
    assert score(optimizer_state="state", estimator="directional", limit=2, learning_rate=5e-6) == 0
    assert summary()["check"]["points"] == 2
    assert not any("directional" in warning for warning in summary()["warnings"])


def test_the_original_s_bfloat16_step_comes_with_its_noise(here: Path) -> None:
    assert score(optimizer_state="state", estimator="exact", exact_dtype="bfloat16", shards=4) == 0
    assert (summary()["check"]["against"], summary()["dtype"]) == ("exact in float32", "bfloat16")
    assert summary()["check"]["points"] > 1
    assert any("mostly rounding" in warning for warning in summary()["warnings"])


def test_directional_is_checked_by_taylor_and_says_where_its_fixed_second_moment_fails(here: Path) -> None:
    assert score(optimizer_state="state", estimator="directional") == 0
    truths = by_api("taylor")
    expected = spearman([row["influence"] for row in rows()], [truths[row["id"]] for row in rows()])
    check = summary()["check"]
    assert (check["against"], check["points"]) == ("taylor in float32", POINTS)
    assert check["spearman"] == pytest.approx(expected, abs=1e-3)
    assert any("use --estimator taylor" in warning for warning in summary()["warnings"]) == (expected < 0.95)
    assert score(optimizer_state="state") == 0
    assert summary()["check"] is None


def test_a_point_that_cannot_be_scored_has_a_status_and_no_influence(here: Path) -> None:
    with Path("points.jsonl").open("a") as file:
        file.write(json.dumps({"id": "long", "instruction": "Sort. " * 400, "response": "Sorted."}) + "\n")
    assert score(optimizer_state="state", max_length=128) == 0
    last = rows()[-1]
    assert (last["id"], last["influence"], last["training_loss"], last["status"]) == ("long", None, None, "too-long")
    assert summary()["statuses"] == {"ok": POINTS, "too-long": 1}


def test_a_point_with_an_empty_answer_spoils_no_other(here: Path) -> None:
    with Path("points.jsonl").open("a") as file:
        file.write(json.dumps({"id": "silent", "instruction": "Say nothing.", "response": " "}) + "\n")
    assert score(optimizer_state="state") == 0
    assert (rows()[-1]["id"], rows()[-1]["status"]) == ("silent", "no-answer")
    assert summary()["statuses"] == {"ok": POINTS, "no-answer": 1}


def test_conversations_can_be_scored_and_limited_and_written_as_parquet(here: Path) -> None:
    turns = [{"role": "user", "content": "Name a colour."}, {"role": "assistant", "content": "Red."}]
    chats = [{"messages": [{"role": "system", "content": f"Rule {n}."}, *turns]} for n in range(4)]
    Path("chats.jsonl").write_text("".join(json.dumps(row) + "\n" for row in chats))
    assert score(data="chats.jsonl", optimizer_state="state", out="scores.parquet", limit=3) == 0
    found = pq.read_table("scores.parquet").to_pylist()
    assert [row["status"] for row in found] == ["ok"] * 3


def test_own_column_names_a_csv_file_and_a_folder_give_the_scores_of_plain_rows(here: Path) -> None:
    assert score(**STATE) == 0
    plain = [row["influence"] for row in rows()]
    points = data.read(DataSource(source="points.jsonl"), "points")
    lines = [f"{row['instruction']};{row['response']}" for row in points]
    Path("punkte.csv").write_text("\n".join(["frage;antwort", *lines, ""]))
    Path("bezug").mkdir()
    asked = data.read(DataSource(source="reference.jsonl"), "reference")
    jsonl(Path("bezug/test.jsonl"), [{"q": row["instruction"], "response": row["response"]} for row in asked])
    jsonl(Path("bezug/train.jsonl"), [{"q": "Not this one.", "response": "No."}])
    own = {"data": "punkte.csv", "columns": "instruction=frage,response=antwort"}
    against = {"reference": "bezug", "reference_split": "test", "reference_columns": "instruction=q"}
    assert score(**own, **against, **STATE) == 0
    assert [row["influence"] for row in rows()] == plain
    assert summary()["options"]["columns"] == {"instruction": "frage", "response": "antwort"}


def test_points_that_are_in_the_reference_set_are_counted_not_refused(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with Path("points.jsonl").open("a") as file:
        file.write(Path("reference.jsonl").read_text().splitlines(keepends=True)[1])
    assert score(optimizer_state="state") == 0
    assert summary()["reference"]["overlap"] == 1
    assert "1 of the points has its instruction in the reference set" in summary()["warnings"][0]
    assert "warning 1 of the points has its instruction" in capsys.readouterr().out


def test_what_is_done_is_not_done_again(here: Path) -> None:
    assert score(optimizer_state="state", shards=3) == 0
    store = Folder("store")
    made = {m: m.stat().st_mtime_ns for m in store.root.glob("*/*/manifest.json")}
    first = Path("scores.jsonl").read_bytes()
    Path("scores.jsonl").unlink()
    assert score(optimizer_state="state", shards=3) == 0
    assert {m: m.stat().st_mtime_ns for m in store.root.glob("*/*/manifest.json")} == made
    assert Path("scores.jsonl").read_bytes() == first


def refused(capsys: pytest.CaptureFixture[str], **options: object) -> str:
    assert score(**options) == 2
    (message,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("montessori: ")]
    return message


def nothing(_: object) -> Any:
    raise AssertionError("something heavy was started")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"student": "./nowhere"}, "--student = ./nowhere: no such folder"),
        ({"student": "state"}, "--student = state: no config.json"),
        ({"data": "no.jsonl"}, "--data = no.jsonl: no such file"),
        ({"data": "bad.jsonl"}, "--data = bad.jsonl: line 2 is not JSON"),
        ({"reference": "bad.jsonl"}, "--reference = bad.jsonl: line 2 is not JSON"),
        ({"columns": "frage"}, "--columns = ['frage']: 'frage' is no pair; expected for example instruction=frage"),
        ({"columns": "frage=instruction"}, "frage is no part of a row; expected your names after instruction, input"),
        ({"columns": "instruction=frage"}, "points.jsonl, line 1: the column frage, which columns.instruction names"),
        ({"split": "test"}, "--data = points.jsonl: a file has no split test; leave split out"),
        ({"reference_config": "main"}, "--reference = reference.jsonl: a file has no config main; leave config out"),
        ({"optimizer_state": "student"}, "--optimizer-state = student: no optimiser state in it"),
        ({"out": "no/scores.jsonl"}, "--out = no/scores.jsonl: the folder no does not exist"),
        ({"out": "scores.csv"}, "--out = scores.csv: must end in .jsonl or .parquet"),
        ({"out": "points.jsonl"}, "--out = points.jsonl: points.jsonl is the file of --data"),
        ({"out": "a.jsonl", "data": "a.summary.json"}, "--out = a.jsonl: a.summary.json is the file of --data"),
        ({"out": "/proc/scores.jsonl"}, "--out = /proc/scores.jsonl: nothing can be written in the folder /proc"),
        ({"warm_up": 2, "optimizer_state": "state"}, "--warm-up makes an optimiser state, --optimizer-state gives one"),
        ({"warm_up": 2, "optimizer": "sgd"}, "--optimizer sgd takes a step without a state"),
        ({"optimizer": "lion"}, "--optimizer = 'lion': input should be 'adamw' or 'sgd'"),
        ({"optimizer_state": "points.jsonl"}, "points.jsonl: no such folder; give the folder of this file"),
        ({"warm_up": 13}, "--warm-up = 13: exceeds the points, of which there are 12"),
        ({"shards": 13}, "--shards = 13: exceeds the points, of which there are 12"),
        ({"limit": "few"}, "--limit = 'few': input should be a valid integer"),
        ({"learning_rate": 0}, "--learning-rate = '0': input should be greater than 0"),
        ({"estimator": "tailor"}, "--estimator = 'tailor': input should be 'taylor', 'directional' or 'exact'"),
        ({"estimator": "exact", "dtype": "bfloat16"}, "--dtype does not go with --estimator exact"),
        ({"exact_dtype": "bfloat16"}, "--exact-dtype is of --estimator exact"),
    ],
)
def test_wrong_input_is_named_before_anything_starts(
    here: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    options: dict[str, object],
    message: str,
) -> None:
    monkeypatch.setattr("tasks.runtime.local.open_place", nothing)
    Path("bad.jsonl").write_text('{"instruction": "x", "response": "y"}\n{\n')
    assert message in refused(capsys, **options)


@pytest.mark.parametrize("estimator", ["taylor", "exact"])
def test_the_state_of_another_model_is_refused_naming_a_parameter(
    here: Path, tiny_llama: Callable[..., Any], tiny_tokenizer: Any, capsys: pytest.CaptureFixture[str], estimator: str
) -> None:
    points = data.read(DataSource(source="points.jsonl"), "points")
    trained(tiny_llama(num_hidden_layers=3), tiny_tokenizer, points).save("state")
    message = refused(capsys, optimizer_state="state", estimator=estimator)
    assert "the optimiser state does not fit the model: the model lacks model.layers.2" in message


def test_a_state_of_other_shapes_is_refused_before_anything_starts(
    here: Path,
    tiny_llama: Callable[..., Any],
    tiny_tokenizer: Any,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    points = data.read(DataSource(source="points.jsonl"), "points")
    trained(tiny_llama(hidden_size=16), tiny_tokenizer, points).save("state")
    monkeypatch.setattr("tasks.runtime.local.open_place", nothing)
    message = refused(capsys, optimizer_state="state")
    assert message.startswith("montessori: --optimizer-state: state: the optimiser state is of another model: ")
    assert "[384, 16] there, [384, 32] in student" in message


def test_a_tokenizer_with_tokens_that_the_student_has_not_is_refused(
    here: Path, tiny_llama: Callable[..., Any], capsys: pytest.CaptureFixture[str]
) -> None:
    tiny_llama(vocab_size=200).save_pretrained("student")
    message = refused(capsys)
    assert "the tokenizer does not fit the model" in message and "vocabulary ends at 199" in message


def test_a_chat_template_that_fails_is_named(
    here: Path, tiny_tokenizer: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tiny_tokenizer, "chat_template", "{{ raise_exception('no system turn') }}")
    tiny_tokenizer.save_pretrained("student")
    message = refused(capsys, optimizer_state="state")
    assert "chat template" in message and "no system turn" in message
