"""A real S3 server for the tests: Ceph's RADOS gateway by `docker/s3.sh`, one for all workers of a test run.

    python tests/s3.py DIR PORT USERS     serves PORT from DIR until no process has a lock on the file USERS

It takes 0.7 GB of memory and about 20 s to start. Without Debian's ceph-mon, ceph-mgr, ceph-osd and radosgw the tests
that want it are skipped.
"""

import fcntl
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.config import Config

SCRIPT = Path(__file__).parents[1] / "docker" / "s3.sh"
PROGRAMS = ("radosgw", "radosgw-admin", "ceph", "ceph-mon", "ceph-mgr", "ceph-osd", "curl", "setpriv")
KEYS = {"AWS_ACCESS_KEY_ID": "montessori-tests", "AWS_SECRET_ACCESS_KEY": "montessori-tests-secret"}
BUCKET = "montessori"
STARTS_WITHIN_S = 120


@dataclass
class Server:
    """What answers on a port of the loopback."""

    port: int

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def uri(self, prefix: str = "", **options: str) -> str:
        """A store there, at `prefix` or at one of its own."""
        more = "".join(f"&{name}={value}" for name, value in options.items())
        return f"s3://{BUCKET}/{prefix or uuid.uuid4().hex}?endpoint={self.endpoint}{more}"

    def client(self) -> Any:
        """To look and to change things behind a store's back."""
        return boto3.client(
            "s3", endpoint_url=self.endpoint, region_name="us-east-1",
            aws_access_key_id=KEYS["AWS_ACCESS_KEY_ID"], aws_secret_access_key=KEYS["AWS_SECRET_ACCESS_KEY"],
            config=Config(max_pool_connections=32),
        )  # fmt: skip


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The server of this test run: whoever comes first starts it, and it ends when the last process has ended."""
    skip_without_ceph()
    base = tmp_path_factory.getbasetemp()
    base = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    with (base / "s3.users").open("w") as users, (base / "s3.start").open("a+") as start:
        fcntl.flock(users, fcntl.LOCK_SH)
        fcntl.flock(start, fcntl.LOCK_EX)  # the others wait until it answers
        start.seek(0)
        port = int(start.read() or 0)
        if not port:
            port = free_ports()
            command = [sys.executable, __file__, str(base / "s3"), str(port), str(base / "s3.users")]
            with (base / "s3.log").open("wb") as log:
                process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
            wait_until_ready(base / "s3", process, base / "s3.log")
            process.returncode = 0  # it is not this process that waits for it
            start.write(str(port))
            start.flush()
        fcntl.flock(start, fcntl.LOCK_UN)
        yield Server(port)


@pytest.fixture
def s3_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    """The server's credentials, and nobody else's, in the environment."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name, value in KEYS.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)


def skip_without_ceph() -> None:
    if missing := [name for name in PROGRAMS if shutil.which(name) is None]:
        pytest.skip(f"no {missing[0]}: needs Debian's ceph-mon, ceph-mgr, ceph-osd, radosgw and curl")


def free_ports() -> int:
    """A port that is free, and the one after it too."""
    while True:
        with socket.socket() as one, socket.socket() as two:
            one.bind(("127.0.0.1", 0))
            port = int(one.getsockname()[1])
            try:
                two.bind(("127.0.0.1", port + 1))
            except (OSError, OverflowError):
                continue
            return port


def launch(folder: Path, port: int, log: Path | None = None) -> "subprocess.Popen[bytes]":
    """A server on `folder`, whose daemons end with it; what they say goes to `log`, or where this process's does."""
    environment = {**os.environ, **KEYS, "S3_BUCKET": BUCKET, "S3_GIB": "8"}
    command = ["setpriv", "--pdeathsig", "TERM", "bash", SCRIPT, folder, str(port)]
    with log.open("ab") if log else nullcontext() as output:
        return subprocess.Popen(command, env=environment, stdout=output, stderr=output)


def wait_until_ready(folder: Path, process: "subprocess.Popen[bytes]", log: Path | None = None) -> None:
    until = time.monotonic() + STARTS_WITHIN_S
    while not (folder / "run" / "ready").exists():
        if process.poll() is not None or time.monotonic() > until:
            process.terminate()
            raise RuntimeError("the S3 server did not start: " + (log.read_text()[-2000:] if log else ""))
        time.sleep(0.2)


@contextmanager
def served(folder: Path, port: int) -> "Iterator[subprocess.Popen[bytes]]":
    """A server of one's own, that may be killed, inside the block."""
    process = launch(folder, port)
    try:
        wait_until_ready(folder, process)
        yield process
    finally:
        process.terminate()
        process.wait()


def kill_gateway(process: "subprocess.Popen[bytes]") -> None:
    """Kill -9 the gateway of a server; its other daemons end with it."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    (gateway,) = (int(pid) for pid in children if Path(f"/proc/{pid}/comm").read_text().strip() == "radosgw")
    os.kill(gateway, signal.SIGKILL)
    process.wait()


def serve_while_used(folder: Path, port: int, users: Path) -> None:
    process = launch(folder, port)
    with users.open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # comes when nobody is left
    process.terminate()
    process.wait()
    shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    serve_while_used(Path(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
