"""Wrong input: one clear sentence, exit code 2, before anything is started."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from flows.commands import cli

GOOD_ROW = {"instruction": "Name a colour.", "response": "Blue."}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Good seeds, reference set and settings, for a test to spoil one of them."""
    rows = [{"instruction": f"Name colour number {n}.", "output": "Blue."} for n in range(20)]
    (tmp_path / "seeds.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "reference.jsonl").write_text(json.dumps(GOOD_ROW) + "\n")
    model = {"source": "scratch", "scratch": {"steps": 1}, "dtype": "float32"}
    settings = {
        "name": "bad",
        "store": str(tmp_path / "store"),
        "seeds": str(tmp_path / "seeds.jsonl"),
        "reference": str(tmp_path / "reference.jsonl"),
        "teacher": model,
        "student": model,
    }
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(settings))
    return tmp_path


def said(folder: Path, capsys: pytest.CaptureFixture[str], *changes: str) -> str:
    """What `montessori run` says of the spoilt folder, after exit code 2 and nothing started."""
    arguments = [argument for change in changes for argument in ("--set", change)]
    assert cli.main(["run", str(folder / "run.yaml"), *arguments]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert len(captured.err.splitlines()) == 1, captured.err
    assert not (folder / "store").exists()
    return captured.err


def test_the_folder_is_good_before_it_is_spoilt(folder: Path) -> None:
    command = [sys.executable, "-m", "flows.commands.cli", "run", str(folder / "run.yaml"), "--dry-run"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ("dpo.betta=0.2", "unknown setting dpo.betta; did you mean dpo.beta?"),
        ("influense.shards=2", "unknown setting influense; did you mean influence?"),
        ("dpo.beta=-1", "dpo.beta = -1: input should be greater than 0"),
        ("responses.sampling.top_p=1.5", "responses.sampling.top_p = 1.5: input should be less than or equal to 1"),
        (
            "influence.estimator=magic",
            "influence.estimator = 'magic': input should be 'taylor', 'directional' or 'exact'",
        ),
        ("influence.shards=20000", "influence.shards (20000) exceeds the points to score (probing.probing = 10000)"),
        ("responses.shards=20000", "responses.shards (20000) exceeds the points to answer (10000)"),
        ("instructions.seed_shots=30", "seeds: 20 rows, but a prompt shows 32"),
        ("seeds.source=./nowhere.jsonl", "seeds.source = ./nowhere.jsonl: no such file"),
        ("teacher={source: ./nowhere}", "teacher.source = ./nowhere: no such folder"),
        (
            "student.source=TinyLlama/x",
            "student: give `scratch: {…}` when source is `scratch`, and `scratch: null` with another",
        ),
        ("store=gs://bucket/runs", "store = gs://bucket/runs: expected a folder"),
    ],
)
def test_a_wrong_setting(folder: Path, capsys: pytest.CaptureFixture[str], change: str, sentence: str) -> None:
    assert sentence in said(folder, capsys, change)


def _lines(bad: bytes, at: int = 17) -> bytes:
    good = json.dumps(GOOD_ROW).encode()
    return b"\n".join(bad if n == at else good for n in range(1, 21)) + b"\n"


@pytest.mark.parametrize("role", ["seeds", "reference"])
@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (None, "no such file"),
        (b"", "the file is empty"),
        (b"\n\n", "no rows"),
        (b"\xff\xfe\x00", "not UTF-8"),
        (_lines(b'{"instruction": '), "line 17 is not JSON"),
        (_lines(b'{"frage": "x", "antwort": "y"}'), "columns: {instruction: frage, response: antwort}"),
        (_lines(b'["x"]'), "line 17: expected an object"),
    ],
    ids=["missing", "empty", "blank", "not-utf8", "not-json", "no-field", "not-object"],
)
def test_a_wrong_file(
    folder: Path, capsys: pytest.CaptureFixture[str], role: str, content: bytes | None, sentence: str
) -> None:
    path = folder / f"{role}.jsonl"
    path.unlink() if content is None else path.write_bytes(content)
    message = said(folder, capsys)
    assert str(path) in message
    assert sentence in message


def test_a_reference_row_without_an_answer(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "reference.jsonl").write_text('{"instruction": "Name a colour."}\n')
    assert "line 1: lacks an answer" in said(folder, capsys)


def test_seeds_that_a_model_from_scratch_cannot_learn_from(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "needs 9 seeds to learn from, there are 8" in said(folder, capsys, "seeds.limit=8")
    with (folder / "seeds.jsonl").open("a") as file:
        file.write('{"instruction": "Name a tree."}\n')
    assert "seeds.jsonl, line 21: lacks an answer" in said(folder, capsys)


def test_a_held_out_point_that_is_in_the_reference_set(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "1 of its instructions are in the reference set too" in said(
        folder, capsys, f"test={folder / 'reference.jsonl'}"
    )


@pytest.mark.parametrize(
    ("files", "sentence"),
    [
        (["model.safetensors", "tokenizer.json"], "no config.json"),
        (["config.json", "model.safetensors"], "no tokenizer"),
        (["config.json", "tokenizer.json", "pytorch_model.bin"], "only pickled weights (pytorch_model.bin)"),
        (["config.json", "tokenizer.json"], "no weights"),
    ],
)
def test_a_folder_that_is_no_model(
    folder: Path, capsys: pytest.CaptureFixture[str], files: list[str], sentence: str
) -> None:
    (folder / "model").mkdir()
    for name in files:
        (folder / "model" / name).write_text("{}")
    assert sentence in said(folder, capsys, f"teacher={{source: {folder / 'model'}}}")


def test_a_store_that_cannot_be_written(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "file").write_text("")
    message = said(folder, capsys, f"store={folder / 'file' / 'store'}")
    assert "cannot be written" in message


@pytest.mark.parametrize(
    "command", [["run", "run.yaml", "--dry-run"], ["estimate", "run.yaml"], ["status"], ["store", "ls"]]
)
def test_a_store_that_is_a_file(folder: Path, capsys: pytest.CaptureFixture[str], command: list[str]) -> None:
    store = folder / "store.yaml"
    store.write_text("")
    words = [str(folder / word) if word == "run.yaml" else word for word in command]
    assert cli.main([*words, "--store", str(store)]) == 2
    assert capsys.readouterr().err == f"montessori: store = {store}: a file; expected a folder, for example ./store\n"


def test_a_config_that_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["run", str(tmp_path / "none.yaml")]) == 2
    assert "no such file" in capsys.readouterr().err
