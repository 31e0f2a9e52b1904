"""Run the flow `stage`: one task or shard, on a machine with a worker of the pool.

The flow receives a request and the address of the store, but no data. It starts `python -m tasks.runtime.worker` under
the needed interpreter, and copies its log. The final state is Completed, Crashed, or Failed under the name of the error
(InputError, StageError, …).
"""

import json
import logging
import os
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import IO, Any

from prefect import State, flow
from prefect.artifacts import create_progress_artifact
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import ArtifactUpdate
from prefect.logging import get_run_logger
from prefect.states import Completed, Crashed, Failed

from montessori.artifacts import Request
from montessori.settings.engines import Vllm
from tasks import registry
from tasks.runtime.places import StageCrash, environment, interpreter, process_error

PROGRESS_EVERY_S = 3.0
PROGRESS = ("done", "total", "unit", "note")  # as a progress artifact's metadata


@flow(name="stage", persist_result=False)
def stage(request: str, store: str, threads: int = 1) -> State[Any]:
    """Run one task or shard: make the artifact of `request` in `store`.

    A run with `compute.place: pool` in its settings starts this flow.

    Args:
        request: the request as JSON (montessori.artifacts.Request).
        store: the address of the store. This machine must reach it.
        threads: the number of CPU threads.
    """
    parsed = Request.model_validate_json(request)
    failure: dict[str, Any] = {}
    show = _progress(parsed)
    with _worker(parsed, store, threads) as child:
        assert child.stdin and child.stdout and child.stderr
        logs = threading.Thread(target=_forward, args=(child.stderr, get_run_logger().info), daemon=True)
        logs.start()
        child.stdin.write(parsed.model_dump_json())
        child.stdin.close()
        for line in child.stdout:
            answer = json.loads(line)
            if "progress" in answer:
                show(*answer["progress"])
            else:
                failure = answer
        code = child.wait()
        logs.join()
    if code == 0:
        return Completed(message=parsed.address)
    error = process_error(code, failure, "this run's")
    if isinstance(error, StageCrash):
        return Crashed(message=str(error))
    return Failed(name=type(error).__name__, message=str(error))


@contextmanager
def _worker(request: Request, store: str, threads: int) -> Iterator["subprocess.Popen[str]"]:
    """Start the process of the task, and kill it at the end of the block."""
    libraries = registry.libraries(request)
    python = interpreter(libraries, request.means.get("vllm", Vllm().model_dump())["python"])
    command = [python, "-m", "tasks.runtime.worker", "/dev/stdin", "--tied"]
    variables = environment(libraries, threads)
    if not registry.loads_model(request):
        variables["CUDA_VISIBLE_DEVICES"] = ""
    elif own := os.environ.get("MONTESSORI_GPUS"):  # the worker's own, since a container shows all
        variables["CUDA_VISIBLE_DEVICES"] = own
    child = subprocess.Popen(
        [*command, "--store", store, "--threads", str(threads)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        env=variables,
    )
    try:
        yield child
    finally:
        with suppress(ProcessLookupError):
            child.kill()
        child.wait()


def _forward(lines: IO[str], log: Callable[[str], None]) -> None:
    for line in lines:
        if text := line.rstrip():
            log(text)


def _progress(request: Request) -> Callable[[int, int, str, str], None]:
    """Return a function that updates the progress artifact, for people and for the waiting run."""
    client = get_client(sync_client=True)
    worker = socket.gethostname()
    last = -PROGRESS_EVERY_S
    artifact: Any = None

    def show(*progress: Any) -> None:
        nonlocal last, artifact
        done, total, unit, _ = progress
        if time.monotonic() - last < PROGRESS_EVERY_S and done < total:
            return
        last = time.monotonic()
        try:  # a task must not fail because of its progress
            if artifact is None:
                artifact = create_progress_artifact(0, description=f"{request.title}, {total} {unit}")
            fields = {name: str(value) for name, value in zip(PROGRESS, progress, strict=True)} | {"worker": worker}
            client.update_artifact(artifact, ArtifactUpdate(data=100 * done / max(1, total), metadata_=fields))
        except Exception as error:
            logging.getLogger(__name__).debug("no progress shown: %s", error)

    return show
