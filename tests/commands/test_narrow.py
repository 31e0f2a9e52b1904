"""A terminal of 80 columns: addresses stay on one line, since they are there to be copied."""

from pathlib import Path

import pytest

from flows.commands import cli, terminal
from flows.requests.builder import Plan
from montessori.artifacts import Folder, Request
from montessori.settings.execution import Compute
from tasks.runtime import status
from tasks.runtime.status import Shard, Status

NAMES = ("reference-gradient", "influence", "scratch-teacher", "student")
REQUESTS = [
    Request(
        stage=name,
        version=1,
        settings={},
        inputs={},
        seed=seed,
        system="Montessori",
        iteration=seed,
        role=f"{name} of the base student",
    )
    for name in NAMES
    for seed in (1, 2)
]


@pytest.fixture(autouse=True)
def _narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")


def test_a_plan_keeps_each_address_on_a_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from rich.console import Console

    requests = {request.address: request for request in REQUESTS}
    terminal.show_plan(Console(), Plan(Folder(tmp_path), Compute(), "", requests, REQUESTS[-1].address))
    out = capsys.readouterr().out
    for request in REQUESTS:
        assert f"to do   {request.address} " in out and request.title in out


@pytest.mark.parametrize("columns", ["80", "200"])
def test_the_status_of_a_run_keeps_each_address_on_a_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, columns: str
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    store, now = Folder(tmp_path), status.now()
    states = ("done", "running", "cached", "waiting")
    shards = [
        Shard(
            address=request.address,
            title=request.title,
            state=states[number % 4],
            attempts=2,
            seconds=1234.5,
            done=1,
            total=32,
            unit="points",
            rate=1.25,
            where="a-worker-of-the-pool",
        )
        for number, request in enumerate(REQUESTS)
    ]
    failed = Shard(address="student/ff", title="student", state="failed", error="diverged at step 3")
    run = "runs/a-name-that-is-long-for-a-run-of-settings-1a2b3c4d"
    who = {"user": "somebody", "host": "a-machine"}
    told = Status(run=run, started=now, heard=now, who=who, shards=[*shards, failed], uses=[])
    status.save(store, told)
    assert cli.main(["status", run, "--store", str(store.root)]) == 0
    out = capsys.readouterr().out
    for request in REQUESTS:
        assert request.address in out
    assert "1,234.5" in out and "diverged at step 3" in out and max(map(len, out.splitlines())) <= int(columns)
    assert cli.main(["status", "--store", str(store.root)]) == 0
    assert run in capsys.readouterr().out
