"""A model behind vLLM's own server, started as the README says."""

import os
import signal
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from harness import free_port

ROOT = Path(__file__).resolve().parents[2]
PYTHON = ROOT / ".venv-vllm/bin/python"
READY_WITHIN_S = 300


@contextmanager
def serving(model: Path, log: Path) -> Iterator[str]:
    """The address of the API inside the block; the model is called `teacher` there."""
    port = free_port()
    command = ["make", "server", f"MODEL={model}", f"PORT={port}"]
    with log.open("wb") as file:
        process = subprocess.Popen(command, cwd=ROOT, stdout=file, stderr=file, start_new_session=True)
    url = f"http://127.0.0.1:{port}/v1"
    try:
        for _ in range(READY_WITHIN_S):
            assert process.poll() is None, log.read_text()[-3000:]
            try:
                urllib.request.urlopen(f"{url}/models", timeout=5)
                break
            except OSError:
                time.sleep(1)
        yield url
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
