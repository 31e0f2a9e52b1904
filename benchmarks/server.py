"""Measure the CPU and waiting time of a Prefect server for each kind of request from runs and stages, in milliseconds.

    PREFECT_API_DATABASE_CONNECTION_URL=postgresql+asyncpg://… python benchmarks/server.py

The script starts a server on that database, without services. It sends one request at a time, and creates 200 flow
runs, like a run with 200 shards.
"""

import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil

RUNS = 200


def main() -> None:
    """Print a line for each kind of request."""
    with socket.socket() as free, tempfile.TemporaryDirectory() as home:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
        free.close()
        os.environ |= {"PREFECT_HOME": home, "PREFECT_SERVER_ANALYTICS_ENABLED": "false", "DO_NOT_TRACK": "1"}
        command = [sys.executable, "-m", "prefect", "server", "start", "--no-services", "--port", port]
        with Path(home, "log").open("wb") as log, subprocess.Popen(command, stdout=log, stderr=log) as server:
            os.environ["PREFECT_API_URL"] = f"http://127.0.0.1:{port}/api"
            try:
                while not _answers(os.environ["PREFECT_API_URL"]):
                    if server.poll() is not None:
                        sys.exit(Path(home, "log").read_text())
                    time.sleep(0.2)
                _measure(psutil.Process(server.pid))
            finally:
                server.terminate()


def _answers(api: str) -> bool:
    with suppress(OSError):
        urllib.request.urlopen(f"{api}/health", timeout=5).close()
        return True
    return False


def _measure(server: psutil.Process) -> None:
    from prefect import flow
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.actions import ArtifactCreate, ArtifactUpdate, LogCreate
    from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId, FlowRunFilterState
    from prefect.states import Running

    @flow
    def nothing() -> None: ...

    def cpu() -> float:
        return sum(sum(one.cpu_times()[:2]) for one in [server, *server.children(recursive=True)])

    def show(name: str, times: int, ask: Callable[[int], Any]) -> None:
        ask(0)
        before, began = cpu(), time.monotonic()
        for number in range(times):
            ask(number)
        computed, took = (1000 * seconds / times for seconds in (cpu() - before, time.monotonic() - began))
        print(f"{name:<32}{computed:8.1f} ms CPU{took:8.1f} ms")

    with get_client(sync_client=True) as client:
        runs = [client.create_flow_run(nothing).id for _ in range(RUNS)]
        shown = client.create_artifact(ArtifactCreate(type="progress", data=0.0, flow_run_id=runs[0]))
        mine = FlowRunFilterId(any_=runs)
        over = FlowRunFilter(id=mine, state=FlowRunFilterState.model_validate({"type": {"any_": ["COMPLETED"]}}))
        line = LogCreate(name="x", level=20, message="a line", timestamp=datetime.now(UTC), flow_run_id=runs[0])
        progress = ArtifactUpdate(data=1.0, metadata_={"done": "1", "total": "2"})
        show("a flow run is made", 100, lambda _: client.create_flow_run(nothing))
        show("it changes its state", 100, lambda number: client.set_flow_run_state(runs[number], Running()))
        show("it shows its progress", 200, lambda _: client.update_artifact(shown.id, progress))
        show("it sends ten lines of its log", 100, lambda _: client.create_logs([line] * 10))
        show("which of 200 have ended?", 100, lambda _: client.read_flow_runs(flow_run_filter=over, limit=RUNS))
        there = FlowRunFilter(id=mine)
        show("are all 200 still there?", 20, lambda _: client.read_flow_runs(flow_run_filter=there, limit=RUNS))


if __name__ == "__main__":
    main()
