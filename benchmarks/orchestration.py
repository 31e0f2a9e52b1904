"""Measure the cost of a shard outside its computation: 200 shards that do nothing, in each place.

    python benchmarks/orchestration.py [--shards 200] [--at-once 4]
    python benchmarks/orchestration.py --api http://127.0.0.1:4200/api --store s3://bucket/bench   its own workers

Every shard's artifact is in the store beforehand, so its process finds it and ends. Without --api the script starts a
Prefect server on SQLite and a process worker. Prints for each place the time until the first shard ends, the seconds
per shard with `at-once` in parallel, and the requests to the Prefect server.
"""

import argparse
import os
import socket
import socketserver
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

WARM = 20  # of the process place: the listener's start is not a shard's cost


class Counting(socketserver.ThreadingTCPServer):
    """Forward requests to the server at `target`, and count them."""

    daemon_threads = allow_reuse_address = True

    def __init__(self, target: tuple[str, int]):
        super().__init__(("127.0.0.1", 0), Passing)
        self.target, self.count = target, 0
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def api(self) -> str:
        """Return the address to use in place of the server's."""
        return f"http://127.0.0.1:{self.server_address[1]}/api"


class Passing(socketserver.BaseRequestHandler):
    """Forward one connection."""

    server: Counting

    def handle(self) -> None:
        """Forward until the client closes the connection."""
        with socket.create_connection(self.server.target) as there:
            threading.Thread(target=self._back, args=(there,), daemon=True).start()
            with suppress(OSError):
                while data := self.request.recv(65536):
                    self.server.count += data.count(b" HTTP/1.1\r\n")
                    there.sendall(data)

    def _back(self, there: socket.socket) -> None:
        with suppress(OSError):
            while data := there.recv(65536):
                self.request.sendall(data)
            self.request.shutdown(socket.SHUT_WR)


def main() -> None:
    """Print a line for each place."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--shards", type=int, default=200)
    parser.add_argument("--at-once", type=int, default=len(os.sched_getaffinity(0)), help="default: the cores")
    parser.add_argument("--api", help="a Prefect server that has the deployment and workers (default: start both)")
    parser.add_argument("--deployment", default="stage/stage")
    parser.add_argument("--store", help="that those workers reach (default: a folder made for it)")
    options = parser.parse_args()
    with ExitStack() as stack:
        home = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        api = options.api or _server(stack, home)
        host = urlsplit(api)
        mine, theirs = (Counting((host.hostname or "", host.port or 80)) for _ in range(2))
        os.environ |= {"PREFECT_API_URL": mine.api, "PREFECT_LOGGING_LEVEL": "ERROR"}
        if not options.api:
            _workers(stack, home, theirs.api, options.at_once)
        _measure(options, options.store or str(home / "store"), mine, theirs)


def _server(stack: ExitStack, home: Path) -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    os.environ |= {"PREFECT_HOME": str(home), "PREFECT_SERVER_ANALYTICS_ENABLED": "false", "DO_NOT_TRACK": "1"}
    started = time.monotonic()
    _start(stack, home, "server", "start", "--host", "127.0.0.1", "--port", str(port))
    while True:
        with suppress(OSError):
            urllib.request.urlopen(f"http://127.0.0.1:{port}/api/health", timeout=5).close()
            print(f"server (SQLite)   ready after {time.monotonic() - started:.1f} s")
            return f"http://127.0.0.1:{port}/api"
        time.sleep(0.2)


def _workers(stack: ExitStack, home: Path, api: str, at_once: int) -> None:
    environment = {**os.environ, "PREFECT_API_URL": api, "PREFECT_WORKER_QUERY_SECONDS": "2"}
    deploy = [sys.executable, "-m", "flows.commands.cli", "deploy", "--at-once", str(at_once)]
    subprocess.run(deploy, env=environment, check=True, stdout=subprocess.DEVNULL)
    _start(stack, home, "worker", "start", "--pool", "montessori", env=environment)


def _start(stack: ExitStack, home: Path, *arguments: str, env: dict[str, str] | None = None) -> None:
    with (home / f"{arguments[0]}.log").open("ab") as log:
        process = subprocess.Popen([sys.executable, "-m", "prefect", *arguments], env=env, stdout=log, stderr=log)
    stack.callback(process.wait)
    stack.callback(process.terminate)


def _measure(options: argparse.Namespace, uri: str, mine: Counting, theirs: Counting) -> None:
    from flows.requests.builder import Requests
    from montessori.artifacts import open_store
    from montessori.settings.execution import Compute
    from tasks.runtime.places import open_place
    from tasks.runtime.worker import build_manifest

    store = open_store(uri)
    store.check_writable()
    asked = Requests()
    for index in range(options.shards):
        shard = (index, options.shards)
        asked.add("evaluation", {}, {}, seed=time.time_ns() % 2**31, role="nothing", shard=shard)
    requests = list(asked.by_address.values())
    for request in requests:
        with store.staging() as folder:
            store.commit(request.address, folder, build_manifest(request, {}, 0.0))
    print(f"{options.shards} shards, {options.at_once} side by side\n")
    for name in ("process", "pool"):
        compute = Compute(
            place=name, deployment=options.deployment, at_once=options.at_once if name != "pool" else None
        )
        place = open_place(compute)
        if name == "process":  # its listener imports torch once
            for request in requests[:WARM]:
                place.run(request, store, lambda *_: None)
        before, began, ends = (mine.count, theirs.count), time.monotonic(), list[float]()

        def run(request: Any, place: Any = place, ends: list[float] = ends) -> None:
            place.run(request, store, lambda *_: None)
            ends.append(time.monotonic())

        with ThreadPoolExecutor(options.shards) as threads:
            list(threads.map(run, requests))
        place.close()
        took = max(ends) - began
        each = took * options.at_once / options.shards
        print(f"{name:<8} first {min(ends) - began:5.1f} s   all {took:6.1f} s   {each:6.3f} s a shard", end="")
        sent = mine.count - before[0], theirs.count - before[1]
        print(f"   requests: {sent[0]} of the run, {sent[1]} of worker and stages, {sum(sent) / took:.1f} a second")


if __name__ == "__main__":
    main()
