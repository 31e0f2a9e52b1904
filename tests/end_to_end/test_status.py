"""`montessori status` of runs that are done, at work, killed, stopped and failed."""

import json
import os
import re
import shutil
import signal
import subprocess
from contextlib import suppress
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from harness import CONFIG, Montessori, command, requests, the_run

from montessori.artifacts import Folder
from tasks.runtime import status


def at_work(run: status.Status) -> bool:
    return not run.silent(status.now()) and any(shard.state == "running" for shard in run.shards)


def start(environment: dict[str, str], store: Path) -> "subprocess.Popen[str]":
    """A run that has made something, and has told the store of a stage at work."""
    running = subprocess.Popen(
        command("run", CONFIG, "--store", store),
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    while not (list(Folder(store).addresses()) and any(at_work(found) for found in status.all_statuses(Folder(store)))):
        with suppress(subprocess.TimeoutExpired):
            raise AssertionError(f"ended with {running.wait(timeout=0.2)}")
    return running


def test_a_run_that_is_done_tells_all(here: Montessori, finished: Path) -> None:
    (found,) = status.all_statuses(Folder(finished))
    assert found.run == f"runs/{the_run(finished).name}"
    assert (found.state, found.finished, len(found.shards)) == ("done", 31, 31)
    made = {f"{path.parent.parent.name}/{path.parent.name}" for path in finished.glob("*/*/manifest.json")}
    assert {shard.address for shard in found.shards} == made
    assert all(shard.state == "done" and shard.attempts == 1 and shard.seconds > 0 for shard in found.shards)
    scored = [shard for shard in found.shards if shard.address.startswith("influence/")]
    assert [(s.done, s.unit, bool(s.rate)) for s in scored] == [(s.total, "points", True) for s in scored]
    listed = here("status", "--store", finished)
    assert re.search(rf"^{found.run} +done +31/31 +last heard ", listed.stdout, re.M), listed.stdout
    shown = here("status", the_run(finished).name[:8], "--store", finished)
    assert shown.returncode == 0, shown.stderr
    assert "Montessori iteration 1: influence 2/2" in shown.stdout and "points" in shown.stdout
    again = here("status", "other", "--store", finished)
    assert (again.returncode, again.stdout) == (2, "") and "not in the store" in again.stderr


def test_a_killed_run_is_said_to_be_silent_and_a_stopped_one_stopped(
    here: Montessori, environment: dict[str, str], tmp_path: Path
) -> None:
    store = tmp_path / "store"
    running = start(environment, store)
    working = here("status", "--store", store)
    assert re.search(r"^runs/micro-\w+ +running +\d+/31 +last heard \d+ s ago", working.stdout, re.M), working.stdout
    os.killpg(running.pid, signal.SIGKILL)
    running.communicate()
    (document,) = (store / ".status" / "runs").iterdir()
    told = json.loads(document.read_text())
    assert told["state"] == "running"
    told["heard"] = (datetime.fromisoformat(told["heard"]) - timedelta(minutes=9)).isoformat()  # minutes later
    document.write_text(json.dumps(told))
    silent = here("status", "--store", store)
    assert re.search(r"silent +\d+/31 +no word for \d+ min: probably killed; the same command goes on", silent.stdout)
    assert "was running" in here("status", "micro", "--store", store).stdout

    running = start(environment, store)
    os.kill(running.pid, signal.SIGTERM)
    running.communicate(timeout=60)
    assert [found.state for found in status.all_statuses(Folder(store))] == ["stopped"]
    kept = here("store", "gc", "--store", store, "--delete")  # it was heard of a moment ago
    assert kept.returncode == 0 and list(Folder(store).addresses())


def test_a_shard_that_failed_is_shown_with_its_error(here: Montessori, copy: Path) -> None:
    scores = requests(copy, "influence")
    first = next(folder for folder, request in scores.items() if request.shard == (0, 2) and not request.part)
    shutil.rmtree(first)
    first.write_text("in the way")  # its artifact cannot be committed
    for folder in (*copy.glob("preferences/*"), *copy.glob("runs/*")):
        shutil.rmtree(folder)
    failed = here("run", CONFIG, "--store", copy)
    assert failed.returncode == 1
    (found,) = status.all_statuses(Folder(copy))
    assert found.state == "failed" and "influence 1/2 failed after 3 attempts" in found.error
    states = {shard.address: shard for shard in found.shards}
    shard = states[f"influence/{first.name}"]
    assert (shard.state, shard.attempts) == ("failed", 3) and shard.error
    assert [s.state for a, s in states.items() if a.startswith("preferences/")] == ["waiting"]
    shown = here("status", "micro", "--store", copy)
    assert re.search(r"influence 1/2 +failed, 3 attempts", shown.stdout), shown.stdout
    assert shard.error[:30] in shown.stdout


@pytest.mark.parametrize("words", [[], ["--watch"]])
def test_a_store_without_runs_says_so(here: Montessori, tmp_path: Path, words: list[str]) -> None:
    shown = here("status", "--store", tmp_path, *words)
    assert shown.returncode == 0 and "No run or study has written its status" in shown.stdout
    assert here("status", "tiny", "--store", tmp_path, *words).returncode == 2
