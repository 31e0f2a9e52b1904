"""A finished micro run to start from, and the command line: as a user calls it, or in this process."""

import fcntl
import hashlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import pytest

from flows.commands import cli
from montessori.artifacts import Request

CONFIG = Path(__file__).with_name("micro.yaml")
STARTING = ("run", "refresh", "evaluate", "study")  # commands with --place
FOUR = ("--set", "influence.shards=4", "--set", "influence.token_budget=64")  # a few points a batch, for all shards
Montessori = Callable[..., "subprocess.CompletedProcess[str]"]
Contents = dict[str, dict[str, str]]  # by address: the SHA-256 of each file


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "flows.commands.cli", *map(str, arguments)]


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
def here(environment: dict[str, str]) -> Montessori:
    """The command in this process, its stages one after the other: where processes are not what a test is about.

    It has torch and TRL already, which each command of `montessori` imports for 10 s of CPU time.
    """

    def run(*arguments: object, **variables: str) -> "subprocess.CompletedProcess[str]":
        words = list(map(str, arguments))
        if words[0] in STARTING and not {"--dry-run", "--place"} & set(words):
            words += ["--place", "inline"]
        out, err = StringIO(), StringIO()
        with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
            for name in set(os.environ) - set(environment):
                patch.delenv(name)
            for name, value in {**environment, **variables}.items():
                patch.setenv(name, value)
            code = cli.main(words)
        return subprocess.CompletedProcess(words, code, out.getvalue(), err.getvalue())

    return run


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory, montessori: Montessori) -> Path:
    """A store with a whole micro run, not to be changed: one for all workers of a test run."""
    base = tmp_path_factory.getbasetemp()
    base = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    store = base / "finished"
    with (base / "finished.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (store / "runs").is_dir():  # run again by who comes later, it would say of itself that it is cached
            done = montessori("run", CONFIG, "--store", store)
            assert done.returncode == 0, done.stdout + done.stderr
    return store


@pytest.fixture(scope="session")
def four(finished: Path, here: Montessori) -> Path:
    """The same with four shards, made in this process, one stage after the other."""
    store, making = finished.with_name("four"), finished.with_name("four.making")
    with finished.with_name("four.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not store.exists():
            shutil.copytree(finished, making)
            done = here("run", CONFIG, "--store", making, *FOUR)
            assert done.returncode == 0, done.stdout + done.stderr
            making.rename(store)
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


def kill_at(stage: str, running: "subprocess.Popen[str]", store: Path) -> None:
    """Kill a command's whole session, in which it leads, as soon as an artifact of `stage` is begun for the first time.

    The store is a folder, in which each artifact that a process works on has a log.
    """
    before = set(store.glob(f"logs/{stage}-*.log"))
    while set(store.glob(f"logs/{stage}-*.log")) == before:
        try:
            running.wait(timeout=0.05)
        except subprocess.TimeoutExpired:
            continue
        out, err = running.communicate()
        raise AssertionError(f"ended with {running.returncode} before it came to {stage}: {out}{err}")
    os.killpg(running.pid, signal.SIGKILL)
    running.communicate()


def free_port() -> int:
    """A port of the loopback that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def contents(store: Path) -> Contents:
    """The SHA-256 of each file of each artifact, but for those of the run's page, which tells times."""
    found = {}
    for manifest in store.glob("*/*/manifest.json"):
        tree = json.loads(manifest.read_text())
        found[tree["address"]] = {name: file["sha256"] for name, file in tree["files"].items()}
    return _without_pages(found)


def contents_of_bucket(client: Any, bucket: str, prefix: str) -> Contents:
    """The same below a prefix of a bucket, every byte read from the server itself."""
    found = {}
    for page in client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=f"{prefix}/"):
        for item in page.get("Contents", []):
            if item["Key"].endswith("/manifest.json"):
                manifest = json.load(client.get_object(Bucket=bucket, Key=item["Key"])["Body"])
                folder = item["Key"].removesuffix("manifest.json") + manifest["room"]
                for name, file in manifest["files"].items():
                    content = client.get_object(Bucket=bucket, Key=f"{folder}/{name}")["Body"].read()
                    assert hashlib.sha256(content).hexdigest() == file["sha256"], (manifest["address"], name)
                found[manifest["address"]] = {name: file["sha256"] for name, file in manifest["files"].items()}
    return _without_pages(found)


def _without_pages(found: Contents) -> Contents:
    return {address: files for address, files in found.items() if not address.startswith(("runs/", "refreshes/"))}


def requests(store: Path, stage: str = "*") -> dict[Path, Request]:
    """The request of each artifact of a task, by the artifact's folder."""
    manifests = store.glob(f"{stage}/*/manifest.json")
    return {path.parent: Request.model_validate(json.loads(path.read_text())["request"]) for path in manifests}


def the_run(store: Path) -> Path:
    (run,) = (store / "runs").iterdir()
    return run


def summary(store: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((the_run(store) / "summary.json").read_text())
    return found
