"""`montessori push` of a real run to a hub of our own: its data is the seeds of another run, its student loads."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import hub as hubs
from harness import command, the_run

from montessori.artifacts import Request
from montessori.data.rows import read_rows

TOKEN = "hf_alices-secret"
SYSTEM = "Montessori iteration 1"
LOAD = """
from montessori.models.loading import load_model, load_tokenizer
load_tokenizer("alice/student")
print(sum(p.sum().item() for p in load_model("alice/student").parameters()))
"""


def test_what_was_pushed_is_used_again(finished: Path, environment: dict[str, str], tmp_path: Path) -> None:
    run = the_run(finished)
    inputs = json.loads((run / "manifest.json").read_text())["request"]["inputs"]
    with hubs.running(alice=TOKEN) as hub:
        there = {**environment, **hub.environment(tmp_path / "hf", TOKEN)}
        for words in (["alice/points"], ["alice/student", "--what", "student"]):
            pushed = _done(command("push", run, *words), there)
            assert pushed.stdout.splitlines()[-1].startswith(hub.url)

        settings = {"split": "train", "skip": 2, "limit": None}
        source = {"source": ["hub:alice/points"]}
        request = Request(stage="seeds", version=1, settings=settings, inputs=source, seed=0)
        (tmp_path / "request.json").write_text(request.model_dump_json())
        stage = [sys.executable, "-m", "tasks.runtime.worker", tmp_path / "request.json", "--store", tmp_path / "store"]
        _done(stage, there)
        loaded = _done([sys.executable, "-c", LOAD], there)

    pairs = {row["id"]: row for address in inputs[f"{SYSTEM}:pairs"] for row in _rows(finished, address, "pairs")}
    (instructions,) = inputs[f"{SYSTEM}:instructions"]
    order = [row["id"] for row in _rows(finished, instructions, "instructions")]
    wanted = ("id", "instruction", "response")
    assert [[row[name] for name in wanted] for row in _rows(tmp_path / "store", request.address, "rows")] == [
        [pairs[id][name] for name in wanted] for id in order[2:]
    ]
    (student,) = inputs[f"{SYSTEM}:student"]
    kept = _done([sys.executable, "-c", LOAD.replace("alice/student", f"{finished / student / 'model'}")], there)
    assert loaded.stdout == kept.stdout != ""
    card = hub.repositories["datasets/alice/points"].files["README.md"].decode()
    assert (run / "result.md").read_text().partition("\n")[2].strip() in card


def _rows(store: Path, address: str, name: str) -> list[dict[str, Any]]:
    return read_rows(store / address / f"{name}.parquet")


def _done(words: list[Any], environment: dict[str, str]) -> "subprocess.CompletedProcess[str]":
    done = subprocess.run(
        list(map(str, words)), env=environment, capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, done.stderr
    return done
