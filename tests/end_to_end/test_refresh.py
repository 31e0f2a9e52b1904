"""`montessori refresh` as a user meets it: nights that promote, that do not, that are killed and that fail."""

import json
import os
import random
import re
import shutil
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from endpoint import Endpoint
from harness import CONFIG, Montessori, command, contents, label_of
from teaching import answering, learning_from

from montessori.artifacts import Folder
from montessori.data.rows import read_rows
from montessori.pocket import world
from montessori.refresh import champions

NIGHT, NEXT = "2026-11-23", "2026-11-24"
# Not even a lucky night of the micro world, in which a student learns next to nothing, promotes.
STRICT = ("--set", "refresh.level=1e-9")
# Beyond what the micro teacher stands: it forgets the form in which instructions are written.
RUINOUS = ("--set", "dpo.learning_rate=3e-3")
KILLS = 4


@pytest.fixture(scope="module")
def after_a_night(tmp_path_factory: pytest.TempPathFactory, montessori: Montessori, finished: Path) -> Path:
    """A store with the base models and one micro night in which nothing was promoted, not to be changed."""
    store = tmp_path_factory.mktemp("night") / "store"
    for models in ("scratch-teacher", "scratch-student"):
        shutil.copytree(finished / models, store / models)
    done = montessori("refresh", CONFIG, "--store", store, "--night", NIGHT, *STRICT)
    assert done.returncode == 0, done.stdout + done.stderr
    return store


@pytest.fixture
def store(after_a_night: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(after_a_night, tmp_path / "store"))


def summary(store: Path, name: str, night: str) -> dict[str, Any]:
    (folder,) = (store / "refreshes").glob(f"{name}-{night}-*")
    found: dict[str, Any] = json.loads((folder / "summary.json").read_text())
    return found


def told(store: Path, name: str, night: str) -> list[dict[str, Any]]:
    """What the documents of a night say, a document for each settings."""
    return [json.loads(path.read_text()) for path in (store / ".refresh" / name).glob(f"{night}-*.json")]


def states(output: str) -> set[str]:
    return set(re.findall(r"^(done|cached|failed) .*? \S+/\S+$", output, re.M))


def written(store: Path, label: str) -> list[str]:
    """The instructions in the artifact of that label."""
    (folder,) = (
        manifest.parent
        for manifest in store.glob("instructions/*/manifest.json")
        if label_of(json.loads(manifest.read_text())["request"]) == label
    )
    return [row["instruction"] for row in read_rows(folder / "instructions.parquet")]


def test_a_night_that_finds_nothing_better_keeps_the_champion_and_tells_of_it_like_a_run(after_a_night: Path) -> None:
    found = summary(after_a_night, "micro", NIGHT)
    assert found["better"] is False
    assert found["champion"].startswith("scratch-teacher/") and found["challenger"].startswith("teacher/")
    assert list(found["systems"]) == ["Champion", "Challenger"]
    losses = [found["systems"][name]["reference_loss"]["mean"] for name in ("Champion", "Challenger")]
    assert found["test"]["difference"] == pytest.approx(losses[0] - losses[1])
    assert (found["test"]["n"], found["held_out"]["n"]) == (12, 24)
    (folder,) = (after_a_night / "refreshes").iterdir()
    assert "The challenger is not better by more than the noise" in (folder / "result.md").read_text()
    assert "The challenger is not better by more than the noise" in (folder / "report.html").read_text()
    (night,) = told(after_a_night, "micro", NIGHT)
    assert (night["state"], night["refresh"]) == ("kept", f"refreshes/{folder.name}")
    assert champions.history(Folder(after_a_night), "micro") == []


def test_both_students_are_taught_alike(after_a_night: Path) -> None:
    requests = [json.loads(path.read_text())["request"] for path in after_a_night.glob("*/*/manifest.json")]
    for stage, label in (("instructions", "training set: instructions"), ("student", "student")):
        pair = [
            r
            for r in requests
            if r["stage"] == stage and re.match(rf"Champion.*{label}|Challenger.*{label}", label_of(r))
        ]
        assert len(pair) == 2
        assert pair[0]["seed"] == pair[1]["seed"] and pair[0]["settings"] == pair[1]["settings"]


def test_the_same_night_replays_from_the_store(montessori: Montessori, store: Path) -> None:
    before = contents(store)
    again = montessori("refresh", CONFIG, "--store", store, "--night", NIGHT, *STRICT)
    assert again.returncode == 0, again.stderr
    assert states(again.stdout) == {"cached"}
    (run_yaml,) = (store / "refreshes").glob("*/run.yaml")
    replay = montessori("refresh", run_yaml, "--store", store, "--night", NIGHT)
    assert replay.returncode == 0, replay.stderr
    assert states(replay.stdout) == {"cached"}
    assert contents(store) == before


def test_the_next_night_makes_new_data_with_what_has_become_champion(montessori: Montessori, store: Path) -> None:
    labels = (
        "Challenger: instructions",
        "Challenger, training set: instructions",
        "Champion, training set: instructions",
    )
    before = {label: written(store, label) for label in labels}
    kept = set(contents(store))
    champion = summary(store, "micro", NIGHT)["challenger"]
    assert montessori("champion", "promote", champion, "--name", "micro", "--store", store).returncode == 0
    done = montessori("refresh", CONFIG, "--store", store, "--night", NEXT, *STRICT)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"champion {champion}" in done.stdout
    assert summary(store, "micro", NEXT)["champion"] == champion
    made = set(contents(store)) - kept
    assert {address.split("/")[0] for address in made}.isdisjoint({"scratch-teacher", "scratch-student", "reference"})
    for folder in {address for address in kept if address.startswith("instructions/")}:
        shutil.rmtree(store / folder)
    for label in labels:
        assert len(set(written(store, label)) & set(before[label])) < len(before[label]) / 4

    manifests = {path.parent: json.loads(path.read_text())["request"] for path in store.glob("*/*/manifest.json")}
    (warm,) = (r for path, r in manifests.items() if r["stage"] == "warm-up" and f"warm-up/{path.name}" in made)
    (student,) = (
        path for path, r in manifests.items() if label_of(r) == "Champion: student" and f"student/{path.name}" in made
    )
    assert warm["inputs"]["student"] == [f"student/{student.name}"]  # the one that learned from the champion is probed

    again = montessori("refresh", CONFIG, "--store", store, "--night", NIGHT, "--dry-run", *STRICT)
    assert summary(store, "micro", NIGHT)["champion"] in again.stdout  # the night before still begins with its own


def test_a_night_killed_at_random_moments_goes_on_to_the_same_artifacts(
    environment: dict[str, str], montessori: Montessori, after_a_night: Path, tmp_path: Path
) -> None:
    store = tmp_path / "store"
    for models in ("scratch-teacher", "scratch-student"):
        shutil.copytree(after_a_night / models, store / models)
    draw = random.Random(0)
    arguments = ("refresh", CONFIG, "--store", store, "--night", NIGHT, *STRICT)
    for _ in range(KILLS):
        running = subprocess.Popen(
            command(*arguments), env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
        )
        try:
            running.wait(timeout=draw.uniform(8, 30))
        except subprocess.TimeoutExpired:
            os.killpg(running.pid, signal.SIGKILL)
        running.communicate()
        assert champions.history(Folder(store), "micro") == []
    done = montessori(*arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    assert contents(store) == contents(after_a_night)
    assert [night["state"] for night in told(store, "micro", NIGHT)] == ["kept"]
    assert summary(store, "micro", NIGHT)["test"] == summary(after_a_night, "micro", NIGHT)["test"]


def test_a_night_that_fails_leaves_the_champion_and_says_so(montessori: Montessori, store: Path) -> None:
    champion = summary(store, "micro", NIGHT)["challenger"]
    montessori("champion", "promote", champion, "--name", "micro", "--store", store)
    failed = montessori("refresh", CONFIG, "--store", store, "--night", NEXT, *STRICT, *RUINOUS)
    assert failed.returncode == 1
    sentence = f"the refresh of {NEXT} failed, and changed no champion: Challenger, training set: instructions failed"
    assert f"montessori: {sentence}" in failed.stderr
    (night,) = told(store, "micro", NEXT)
    assert (night["state"], night["champion"]) == ("failed", champion)
    assert "Challenger, training set: instructions failed" in night["error"]
    assert [entry.teacher for entry in champions.history(Folder(store), "micro")] == [champion]


def night_of_an_endpoint(
    rows: Sequence[Mapping[str, Any]], store: Path, environment: dict[str, str], night: str = NIGHT
) -> "subprocess.CompletedProcess[str]":
    """A night that begins with an endpoint in the base teacher's place, and students that learn from what they read."""
    with Endpoint(answering(rows)) as endpoint:
        words = [word for change in learning_from(endpoint.url) for word in ("--set", change)]
        return subprocess.run(
            command("refresh", CONFIG, "--store", store, "--night", night, *words),
            env={**environment, "OPENAI_API_KEY": "none"},
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )


def test_a_better_challenger_is_promoted_once_and_can_be_taken_back(
    montessori: Montessori, environment: dict[str, str], store: Path
) -> None:
    """The champion answers with what has nothing to do with the question; the tuned teacher knows something."""
    rows = [{**row, "response": f"{n:x} " * 6} for n, row in enumerate(world.seeds(2000, seed=7))]
    done = night_of_an_endpoint(rows, store, environment, NEXT)
    assert done.returncode == 0, done.stdout + done.stderr
    found = summary(store, "micro", NEXT)
    assert found["better"] and found["test"]["p_value"] < 1e-4
    (entry,) = champions.history(Folder(store), "micro")
    assert (entry.teacher, entry.replaces, entry.how) == (found["challenger"], found["champion"], "test")
    assert entry.test and entry.test.model_dump() == found["test"]
    assert entry.made_by and (store / entry.made_by / "report.html").is_file()
    assert f"champion  {entry.teacher}" in done.stdout
    assert [night["state"] for night in told(store, "micro", NEXT)] == ["promoted"]

    assert montessori("champion", "rollback", "--store", store).returncode == 0
    assert champions.history(Folder(store), "micro")[-1].teacher == entry.replaces


def test_a_worse_challenger_is_not_promoted(environment: dict[str, str], store: Path) -> None:
    """The champion writes what the reference set asks for, and knows all the answers; the tuned teacher does not."""
    done = night_of_an_endpoint(world.reference(2000, seed=7), store, environment, NEXT)
    assert done.returncode == 0, done.stdout + done.stderr
    found = summary(store, "micro", NEXT)
    assert not found["better"]
    assert found["test"]["difference"] < 0 and found["test"]["p_value"] > 0.9
    assert champions.history(Folder(store), "micro") == []
    assert [night["state"] for night in told(store, "micro", NEXT)] == ["kept"]
