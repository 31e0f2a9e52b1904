"""A run that is killed, that runs twice at once, or in which a shard fails."""

import json
import os
import random
import re
import shutil
import signal
import subprocess
from pathlib import Path

from harness import CONFIG, Montessori, command, contents, label_of, the_run

KILLS = 20


def start(environment: dict[str, str], store: Path, *more: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        command("run", CONFIG, "--store", store, *more),
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def test_killed_at_random_moments_it_goes_on_to_the_same_artifacts(
    environment: dict[str, str], finished: Path, tmp_path: Path
) -> None:
    store = tmp_path / "store"
    draw = random.Random(0)
    for number in range(KILLS):
        running = start(environment, store)
        try:
            # The first kills hit the building of the models, the later ones the stages after them.
            running.wait(timeout=draw.uniform(1, 40 if number < 3 else 24))
        except subprocess.TimeoutExpired:
            os.killpg(running.pid, signal.SIGKILL)
        running.communicate()
        for manifest in store.glob("*/*/manifest.json"):
            files = json.loads(manifest.read_text())["files"]
            assert all((manifest.parent / name).stat().st_size == file["bytes"] for name, file in files.items())
    last = start(environment, store)
    out, err = last.communicate(timeout=600)
    assert last.returncode == 0, out + err
    assert contents(store) == contents(finished)
    assert the_run(store).name == the_run(finished).name
    assert not list((store / ".staging").iterdir())


def test_two_runs_at_once_both_end_well_with_one_result(
    environment: dict[str, str], finished: Path, only_models: Path
) -> None:
    both = [start(environment, only_models) for _ in range(2)]
    ended = [running.communicate(timeout=600) for running in both]
    assert [running.returncode for running in both] == [0, 0], ended
    assert contents(only_models) == contents(finished)


def test_when_the_command_is_killed_its_stages_end_too(environment: dict[str, str], tmp_path: Path) -> None:
    running = start(environment, tmp_path / "store")
    assert running.stdout
    next(line for line in running.stdout if "seeds" in line)  # the listener has begun
    listener = _children(running.pid, "tasks.runtime.worker")
    assert listener
    os.kill(running.pid, signal.SIGKILL)
    running.wait()
    for pid in listener:
        _wait_for_end(pid)
    for server in _session(running.pid):  # Prefect's temporary server is not ours to end
        os.kill(server, signal.SIGKILL)
    running.communicate()


def test_a_shard_that_fails_is_named_its_siblings_finish_and_the_next_run_does_only_what_is_missing(
    montessori: Montessori, environment: dict[str, str], finished: Path, copy: Path
) -> None:
    scores = {m.parent: json.loads(m.read_text()) for m in copy.glob("influence/*/manifest.json")}
    for folder, manifest in scores.items():
        if "after" not in label_of(manifest["request"]):
            shutil.rmtree(folder)
    first = next(
        f for f, m in scores.items() if m["request"]["shard"] == [0, 2] and "after" not in label_of(m["request"])
    )
    first.write_text("in the way")  # the artifact of shard 1/2 cannot be committed
    shutil.rmtree(next(copy.glob("preferences/*")))

    failed = montessori("run", CONFIG, "--store", copy)
    assert failed.returncode == 1
    assert "Montessori iteration 1: influence 1/2 failed after 3 attempts" in failed.stderr
    assert re.search(r"^done .* Montessori iteration 1: influence 2/2 ", failed.stdout, re.M)

    first.unlink()
    again = montessori("run", CONFIG, "--store", copy)
    assert again.returncode == 0, again.stderr
    done = re.findall(r"^done +[\d.]+ s  (.*?)  \S+/\S+$", again.stdout, re.M)
    assert done == ["Montessori iteration 1: influence 1/2", "Montessori iteration 1: preferences"]
    assert contents(copy) == contents(finished)


def test_a_changed_file_in_the_store_is_noticed_and_not_used(montessori: Montessori, copy: Path) -> None:
    gradient = next(copy.glob("reference-gradient/*/gradient.safetensors"))
    whole = bytearray(gradient.read_bytes())
    whole[-1] ^= 1
    gradient.write_bytes(whole)
    for folder in copy.glob("influence/*"):
        shutil.rmtree(folder)
    done = montessori("run", CONFIG, "--store", copy)
    assert done.returncode == 1
    assert "gradient.safetensors is missing or differs from what was committed" in done.stderr


def _children(pid: int, name: str) -> list[int]:
    return [p for p in _session(pid) if name in Path(f"/proc/{p}/cmdline").read_bytes().decode().replace("\0", " ")]


def _session(leader: int) -> list[int]:
    listed = subprocess.run(["ps", "-s", str(leader), "-o", "pid="], capture_output=True, text=True, check=False)
    return [int(pid) for pid in listed.stdout.split()]


def _wait_for_end(pid: int) -> None:
    """Return when the process is gone or a zombie; the test's own time limit is the limit."""
    handle = os.pidfd_open(pid) if Path(f"/proc/{pid}").exists() else None
    if handle is not None:
        import select

        assert select.select([handle], [], [], 120)[0], f"process {pid} lives on"
        os.close(handle)
