"""The flow `stage`: one stage or shard, on whatever machine has a worker of the pool.

In: a request and the address of the store.  Out: the artifact in the store, and a final state: Completed, Failed under
the name of the error (InputError, StageError, …), or Crashed. Only references pass, never data. The stage itself is a
process of its own (`python -m tasks.runtime.worker`), under vLLM's interpreter where vLLM writes; its log is the run's.
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
    """Run one stage or shard: make the artifact that `request` describes in the store at `store`.

    Started by runs whose settings say `compute.place: pool`.

    Args:
        request: what is asked, as JSON that montessori.artifacts.Request reads.
        store: the store's address; this machine must reach it.
        threads: CPU threads to compute with.
    """
    asked = Request.model_validate_json(request)
    failure: dict[str, Any] = {}
    show = _progress(asked)
    with _started(asked, store, threads) as child:
        assert child.stdin and child.stdout and child.stderr
        logs = threading.Thread(target=_forward, args=(child.stderr, get_run_logger().info), daemon=True)
        logs.start()
        child.stdin.write(asked.model_dump_json())
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
        return Completed(message=asked.address)
    error = process_error(code, failure, "this run's")
    if isinstance(error, StageCrash):
        return Crashed(message=str(error))
    return Failed(name=type(error).__name__, message=str(error))


@contextmanager
def _started(request: Request, store: str, threads: int) -> Iterator["subprocess.Popen[str]"]:
    """The stage's process; it does not outlive the block."""
    libraries = registry.libraries(request)
    python = interpreter(libraries, request.means.get("vllm", Vllm().model_dump())["python"])
    command = [python, "-m", "tasks.runtime.worker", "/dev/stdin", "--tied"]
    variables = environment(libraries, threads)
    if not registry.loads_model(request):
        variables["CUDA_VISIBLE_DEVICES"] = ""
    elif mine := os.environ.get("MONTESSORI_GPUS"):  # those of this worker, where a container shows all
        variables["CUDA_VISIBLE_DEVICES"] = mine
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
    """What keeps a progress artifact of this run up to date, for people and for the run that waits."""
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
        try:  # progress is worth no failure
            if artifact is None:
                artifact = create_progress_artifact(0, description=f"{request.title}, {total} {unit}")
            words = {name: str(value) for name, value in zip(PROGRESS, progress, strict=True)} | {"worker": worker}
            client.update_artifact(artifact, ArtifactUpdate(data=100 * done / max(1, total), metadata_=words))
        except Exception as error:
            logging.getLogger(__name__).debug("no progress shown: %s", error)

    return show
