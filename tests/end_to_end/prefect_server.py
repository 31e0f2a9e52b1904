"""A Prefect server on SQLite and a process worker, as a user has them; ended by their ids."""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")


class Prefect:
    """The server at `api`, with `environment` for whoever talks to it."""

    def __init__(self, environment: dict[str, str], logs: Path):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.api = f"http://127.0.0.1:{self.port}/api"
        self.logs = logs
        self.environment = environment | {
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}",
            "PREFECT_API_URL": self.api,
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "PREFECT_WORKER_QUERY_SECONDS": "1",
            "DO_NOT_TRACK": "1",
        }
        self._started: list[subprocess.Popen[bytes]] = []
        self.server = self.start_server()

    def start_server(self) -> "subprocess.Popen[bytes]":
        """Start it and wait until it answers."""
        server = self.launch_server()
        self.wait_until_ready()
        return server

    def launch_server(self) -> "subprocess.Popen[bytes]":
        """Start it."""
        return self.start("server", "start", "--host", "127.0.0.1", "--port", str(self.port))

    def wait_until_ready(self) -> None:
        """Return when it answers."""
        eventually(lambda: self._answers() or None, 120)

    def start(self, *arguments: str) -> "subprocess.Popen[bytes]":
        """A process `prefect …` in a group of its own."""
        command = [sys.executable, "-m", "prefect", *arguments]
        with (self.logs / f"{arguments[0]}.log").open("ab") as log:
            started = subprocess.Popen(command, env=self.environment, stdout=log, stderr=log, start_new_session=True)
        self._started.append(started)
        return started

    def kill(self, process: "subprocess.Popen[bytes]") -> None:
        """kill -9."""
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    def end(self) -> None:
        """All that was started, the worker first."""
        for process in reversed(self._started):
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGTERM)
                try:
                    process.wait(20)
                except subprocess.TimeoutExpired:
                    self.kill(process)

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.api}/health", timeout=5) as answer:
                return bool(answer.status == 200)
        except (urllib.error.URLError, OSError):
            return False


@contextmanager
def serving(environment: dict[str, str], logs: Path) -> Iterator[Prefect]:
    prefect = Prefect(environment, logs)
    try:
        yield prefect
    finally:
        prefect.end()


def eventually(found: Callable[[], T | None], within_s: float) -> T:
    """What `found` returns once it is not None."""
    deadline = time.monotonic() + within_s
    while (value := found()) is None:
        assert time.monotonic() < deadline, f"nothing within {within_s} s"
        time.sleep(0.2)
    return value


def processes(*words: str) -> list[int]:
    """The ids of processes whose command line has all these words."""
    ids = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if all(word in line for word in words):
            ids.append(int(path.parent.name))
    return ids


def parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def environment_of(pid: int) -> dict[str, str]:
    """The variables that a process was started with; none when it has ended."""
    try:
        text = Path(f"/proc/{pid}/environ").read_bytes().decode(errors="replace")
    except OSError:
        return {}
    return dict(entry.partition("=")[::2] for entry in text.split("\0") if entry)
