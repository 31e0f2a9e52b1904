"""Serve Prefect's UI with all deployments, a worker and the reports on this machine, without containers: `make serve`.

    python -m flows.deployment.serve [--port 4200] [--reports-port 4201] [--store store]

The command runs until Ctrl-C or SIGTERM, and then ends all its processes. The server's data base and the logs are in
`.prefect/`. An interrupted run continues after the next start.
"""

import argparse
import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any
from uuid import UUID

from montessori.errors import InputError
from montessori.extras import require
from tasks.runtime.places import SAFE_PATH

HOME = Path(".prefect")
READY_WITHIN_S = 180
END_WITHIN_S = 20
NEXT = """
UI      {url}
reports {reports}
a run   {form}
        (or: PREFECT_API_URL={url}/api .venv/bin/montessori run tiny --place pool)
logs    {logs}

Ctrl-C ends it all.
"""


def main(arguments: list[str] | None = None) -> int:
    """Run the command line above. Return 0 after Ctrl-C, 1 if a process ended by itself, and 2 for wrong input."""
    parser = argparse.ArgumentParser(
        prog="python -m flows.deployment.serve", description=(__doc__ or "").split("\n\n")[0]
    )
    parser.add_argument("--port", type=int, default=4200, help="port of the UI (default: 4200)")
    parser.add_argument("--reports-port", type=int, default=4201, help="port of the reports (default: 4201)")
    parser.add_argument("--store", default="store", help="where runs keep their artifacts (default: store)")
    options = parser.parse_args(arguments)
    try:
        require("flows", purpose="make serve")
        _check(options.port, options.reports_port)
        HOME.mkdir(exist_ok=True)
        _lock()
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.default_int_handler)
    try:
        return _serve(options.port, options.reports_port, options.store)
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nended", file=sys.stderr)
        return 0


def _check(port: int, reports_port: int) -> None:
    if port == reports_port:
        raise InputError(f"--reports-port {port}: that is the UI's; give another one (REPORTS_PORT=… of make)")
    for option, number in (("--port", port), ("--reports-port", reports_port)):
        if not 0 < number < 65536:
            raise InputError(f"{option} {number}: expected 1 to 65535")
        if _is_taken(number):
            raise InputError(f"{option} {number}: in use by something else; give another one")


def _lock() -> None:
    """Lock the folder until the process ends, since two servers on one data base would both start its runs."""
    lock = os.open(HOME / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise InputError(f"{HOME.absolute()}: make serve is at work here already; end that one first") from None


def _serve(port: int, reports_port: int, store: str) -> int:
    url, reports = (f"http://127.0.0.1:{number}" for number in (port, reports_port))
    os.environ |= {
        "PREFECT_HOME": str(HOME.absolute()),
        "PREFECT_API_URL": f"{url}/api",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_SERVER_UI_V2_ENABLED": "false",  # the new UI calls home from the browser
        "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
        "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect.server.concurrency.lease_storage.filesystem",
        # Without this any page in a browser of this machine could start runs, since there is no password.
        "PREFECT_SERVER_CORS_ALLOWED_ORIGINS": f"{url},http://localhost:{port}",
        "PREFECT_WORKER_QUERY_SECONDS": "2",
        "MONTESSORI_REPORTS_URL": reports,
        "DO_NOT_TRACK": "1",
        **SAFE_PATH,
    }
    with ExitStack() as running:
        print(f"starting {url} …", flush=True)
        server = _process("prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port))
        at_work = [running.enter_context(server)]
        if not _ready(f"{url}/api/health", at_work[0]):
            print(f"the server did not start; see {HOME / 'server.log'}", file=sys.stderr)
            return 1
        deployment = _deploy(store)
        reports_server = ("flows.commands.cli", "reports", "--store", store, "--port", str(reports_port))
        for arguments in (("prefect", "worker", "start", "--pool", "montessori"), reports_server):
            at_work.append(running.enter_context(_process(*arguments)))
        form = f"{url}/deployments/deployment/{deployment}/run"
        print(NEXT.format(url=url, reports=reports, form=form, logs=HOME / "*.log"), flush=True)
        while all(process.poll() is None for process in at_work):
            time.sleep(0.5)
    print(f"the server, the worker or the reports' server has ended by itself; see {HOME}", file=sys.stderr)
    return 1


def _deploy(store: str) -> UUID:
    """Deploy, restart the runs of an earlier worker, and return the id of the deployment `montessori/montessori`."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterState, FlowRunFilterStateType
    from prefect.client.schemas.objects import StateType
    from prefect.states import AwaitingRetry, Cancelled, Crashed

    from flows.deployment.deploy import deploy

    deploy(store=store)
    at_work = FlowRunFilterStateType(any_=[StateType.RUNNING, StateType.PENDING, StateType.CANCELLING])
    with get_client(sync_client=True) as client:
        tasks = client.read_deployment_by_name("stage/stage").id
        for run in client.read_flow_runs(flow_run_filter=FlowRunFilter(state=FlowRunFilterState(type=at_work))):
            if run.deployment_id:  # it ran on the earlier worker
                state = Crashed if run.deployment_id == tasks else AwaitingRetry
                if run.state_type == StateType.CANCELLING:
                    state = Cancelled
                client.set_flow_run_state(run.id, state(message="Its worker was ended."), force=True)
        return client.read_deployment_by_name("montessori/montessori").id


@contextmanager
def _process(module: str, *arguments: str) -> Iterator["subprocess.Popen[bytes]"]:
    """Run `python -m …` in its own process group, which Ctrl-C does not reach, and end the group with the block."""
    command = [sys.executable, "-m", module, *arguments]
    with (HOME / f"{arguments[0]}.log").open("ab") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            process.terminate()
            with suppress(subprocess.TimeoutExpired):
                process.wait(END_WITHIN_S)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # processes of a worker may outlive it
        process.wait()


def _ready(health: str, server: "subprocess.Popen[bytes]") -> bool:
    deadline = time.monotonic() + READY_WITHIN_S
    while time.monotonic() < deadline and server.poll() is None:
        with suppress(OSError):
            return bool(_fetch(health))
        time.sleep(0.3)
    return False


def _fetch(address: str) -> Any:
    with urllib.request.urlopen(address, timeout=10) as answer:
        return json.load(answer)


def _is_taken(port: int) -> bool:
    with socket.socket() as attempt:
        return attempt.connect_ex(("127.0.0.1", port)) == 0


if __name__ == "__main__":
    sys.exit(main())
