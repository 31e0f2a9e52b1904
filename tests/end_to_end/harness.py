"""A finished micro run to start from, and the command line as a user calls it."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

CONFIG = Path(__file__).with_name("micro.yaml")
Montessori = Callable[..., "subprocess.CompletedProcess[str]"]


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "flows.cli", *map(str, arguments)]


@pytest.fixture(scope="session")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The user's environment, with a Prefect home of the tests' own and no server."""
    home = tmp_path_factory.mktemp("prefect")
    kept = {key: value for key, value in os.environ.items() if not key.startswith("PREFECT_")}
    return {**kept, "PREFECT_HOME": str(home), "COLUMNS": "160"}


@pytest.fixture(scope="session")
def montessori(environment: dict[str, str]) -> Montessori:
    def run(*arguments: object) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            command(*arguments), env=environment, capture_output=True, text=True, timeout=600, check=False
        )

    return run


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory, montessori: Montessori) -> Path:
    """A store with a whole micro run, not to be changed."""
    store = tmp_path_factory.mktemp("finished") / "store"
    done = montessori("run", CONFIG, "--store", store)
    assert done.returncode == 0, done.stdout + done.stderr
    return store


@pytest.fixture
def copy(finished: Path, tmp_path: Path) -> Path:
    """A copy of the finished store."""
    return Path(shutil.copytree(finished, tmp_path / "store"))


@pytest.fixture
def only_models(copy: Path) -> Path:
    """A store that has nothing but the two base models."""
    for folder in copy.iterdir():
        if folder.name not in {"scratch-teacher", "scratch-student"}:
            shutil.rmtree(folder)
    return copy


def contents(store: Path) -> dict[str, dict[str, str]]:
    """The SHA-256 of each file of each artifact, but for those of the run's page, which tells times."""
    found = {}
    for manifest in store.glob("*/*/manifest.json"):
        tree = json.loads(manifest.read_text())
        found[tree["address"]] = {name: file["sha256"] for name, file in tree["files"].items()}
    return {address: files for address, files in found.items() if not address.startswith("runs/")}


def the_run(store: Path) -> Path:
    (run,) = (store / "runs").iterdir()
    return run


def summary(store: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((the_run(store) / "summary.json").read_text())
    return found
