"""`make serve`: one command in the foreground that ends all it has started."""

import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from harness import CONFIG
from prefect_server import eventually, processes

pytestmark = pytest.mark.long
ROOT = CONFIG.parents[2]


def test_serving_prints_where_to_go_and_ends_all_it_started(environment: dict[str, str], tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "flows.deployment.serve", "--port", str(port)]
    (tmp_path / "out").touch()
    with (tmp_path / "out").open("w") as out:
        serve = subprocess.Popen(command, cwd=tmp_path, env=environment | {"PYTHONPATH": str(ROOT)}, stdout=out)
    try:
        eventually(lambda: "Ctrl-C" in (tmp_path / "out").read_text() or None, 180)
        assert f"http://127.0.0.1:{port}/deployments/deployment/" in (tmp_path / "out").read_text()
        assert len(_of(tmp_path)) >= 3
        assert allowed(port, f"http://127.0.0.1:{port}") and not allowed(port, "http://elsewhere.example")
        elsewhere = [*command[:3], "--port", "1", "--reports-port", "2"]
        for again, said in ((command, "in use"), (elsewhere, "at work here already")):
            done = subprocess.run(again, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
            assert done.returncode == 2 and said in done.stderr
    finally:
        serve.send_signal(signal.SIGINT)
        assert serve.wait(90) == 0
    assert not _of(tmp_path)


def allowed(port: int, origin: str) -> bool:
    """Whether a browser would let a page of `origin` start runs."""
    asked = {
        "Origin": origin,
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "content-type",
    }
    preflight = urllib.request.Request(f"http://127.0.0.1:{port}/api/flow_runs/", headers=asked, method="OPTIONS")
    try:
        with urllib.request.urlopen(preflight, timeout=30) as answer:
            return answer.headers.get("Access-Control-Allow-Origin") in (origin, "*")
    except urllib.error.HTTPError as refusal:
        return refusal.headers.get("Access-Control-Allow-Origin") in (origin, "*")


def _of(folder: Path) -> list[int]:
    """The processes that work in `folder`."""
    found = []
    for pid in processes("python"):
        try:
            if Path(f"/proc/{pid}/cwd").readlink() == folder:
                found.append(pid)
        except OSError:
            continue
    return found
