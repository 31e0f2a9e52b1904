"""`montessori score` as a user meets it: its processes, a kill in the middle, its exit codes."""

import json
import os
import re
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest
from harness import Montessori, command

SHARDS = 12


@pytest.fixture
def arguments(tmp_path: Path, tiny_llama: Any, tiny_tokenizer: Any) -> list[object]:
    """What to score a tiny student's 24 points with, one shard after the other."""
    tiny_llama().save_pretrained(tmp_path / "student")
    tiny_tokenizer.save_pretrained(tmp_path / "student")
    for name, count in (("points", 24), ("reference", 3)):
        rows = ({"instruction": f"{name} {n}", "response": f"Add {n} and {n}."} for n in range(count))
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    given = {"student": "student", "data": "points.jsonl", "reference": "reference.jsonl"}
    words: list[object] = ["score", "--shards", SHARDS, "--at-once", 1, "--out", tmp_path / "scores.jsonl"]
    return words + [word for name, file in given.items() for word in (f"--{name}", tmp_path / file)]


def test_killed_in_the_middle_it_goes_on_from_the_finished_shards(
    arguments: list[object], environment: dict[str, str], montessori: Montessori, tmp_path: Path
) -> None:
    store, out = tmp_path / "store", tmp_path / "scores.jsonl"
    running = subprocess.Popen(
        command(*arguments, "--store", store),
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert running.stdout
    shards = (line for line in running.stdout if re.match("done .* influence ", line))  # done in any order
    next(shards), next(shards)
    os.killpg(running.pid, signal.SIGKILL)
    running.communicate()
    assert not out.exists()
    before = {m: m.stat().st_mtime_ns for m in store.glob("*/*/manifest.json")}
    kept = sum(m.parent.parent.name == "influence" for m in before)

    again = montessori(*arguments, "--store", store)
    assert again.returncode == 0, again.stderr
    assert {m: m.stat().st_mtime_ns for m in before} == before
    assert len(re.findall("^cached .* influence ", again.stdout, re.M)) == kept >= 2
    assert len(re.findall("^done .* influence ", again.stdout, re.M)) == SHARDS - kept
    resumed = out.read_bytes()

    whole = montessori(*arguments, "--store", tmp_path / "other")
    assert whole.returncode == 0, whole.stderr
    assert out.read_bytes() == resumed


def test_wrong_input_that_only_a_stage_can_see_is_exit_code_2(
    arguments: list[object], montessori: Montessori, tiny_llama: Any, tmp_path: Path
) -> None:
    tiny_llama(vocab_size=200).save_pretrained(tmp_path / "student")
    done = montessori(*arguments, "--store", tmp_path / "store")
    assert done.returncode == 2
    assert "the tokenizer does not fit the model" in done.stderr
    assert "influence" not in done.stdout  # no shard was tried
