"""Run tasks in this process (`inline`), in processes of this machine (`process`) or in a Prefect work pool (`pool`).

A place has `run(request, store, on_progress, on_start)` and `close()`. `run` returns when the artifact is in the store,
or raises InputError, StageError or StageCrash. The pool is in pool.py.
"""

import itertools
import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from queue import SimpleQueue
from typing import IO, Any, Protocol

from montessori import progress
from montessori.artifacts import Request, Store
from montessori.errors import ArtifactError, BudgetReached, InputError, MontessoriError, StageError
from montessori.extras import require
from montessori.settings.engines import Vllm
from montessori.settings.execution import Compute
from tasks import registry
from tasks.runtime import worker


class OnProgress(Protocol):
    """Is called at each step of a running task. `where` is the machine, if it is not this one."""

    def __call__(self, done: int, total: int, unit: str, note: str, where: str = "") -> None:
        """Report that `done` of `total` `unit` are finished."""


class StageCrash(MontessoriError):
    """The process of a task ended without an answer, or failed in a way that a retry may mend."""


OnStart = Callable[[], None]
# Keeps the working folder out of Python's import path, where a user's own tasks.py would hide our package.
SAFE_PATH = {"PYTHONSAFEPATH": "1"}


def ignore_start() -> None:
    """Do nothing when a task starts."""


class Place(Protocol):
    """Runs tasks."""

    def run(self, request: Request, store: Store, on_progress: OnProgress, on_start: OnStart = ignore_start) -> None:
        """Run the task until its artifact is in `store`. `on_start` is called when the task leaves the queue."""

    def close(self) -> None:
        """End all running tasks."""


def open_place(compute: Compute, vllm_python: str = Vllm().python) -> Place:
    """Return the place that the settings name. `vllm_python` is the interpreter of vLLM's environment."""
    if compute.place == "pool":
        require("flows", purpose="compute.place = pool")
        from tasks.runtime.pool import Pool  # Prefect's client takes seconds to import

        return Pool(compute, vllm_python)
    return Inline(compute) if compute.place == "inline" else Processes(compute, vllm_python)


def check(compute: Compute, store: Store) -> None:
    """Raise InputError when the place cannot be used, or cannot reach the store. Starts nothing."""
    if compute.place == "pool":
        require("flows", purpose="compute.place = pool")
        from prefect.settings import PREFECT_API_URL

        if not PREFECT_API_URL.value():
            raise InputError(
                "compute.place = pool: PREFECT_API_URL is not set; give the address of the Prefect server, "
                "for example http://127.0.0.1:4200/api"
            )
        from tasks.runtime import pool

        pool.check(compute, store)


class Inline:
    """Run tasks one after the other in this process, for tests and debugging."""

    def __init__(self, compute: Compute):
        self._threads, self._turn = compute.threads, threading.Lock()

    def run(self, request: Request, store: Store, on_progress: OnProgress, on_start: OnStart = ignore_start) -> None:
        """Run the task here."""
        with self._turn, progress.send_to(on_progress):
            on_start()
            try:
                worker.run(request, store, self._threads)
            except MontessoriError:
                raise
            except Exception as error:
                raise StageCrash(f"{type(error).__name__}: {error}") from error

    def close(self) -> None:
        """Do nothing, since nothing stays open."""


class Processes:
    """Run each task in a process of its own, forked from a listener (`python -m tasks.runtime.worker --listen`).

    There is a listener for tasks without torch, one for tasks with torch, and one under vLLM's interpreter. The number
    of tasks at once is the number of GPUs, with a GPU for each task. Without GPUs it follows from the cores. A training
    in several processes counts as several tasks.
    """

    def __init__(self, compute: Compute, vllm_python: str):
        self._threads = compute.threads
        visible = gpus()
        at_once = compute.at_once or tasks_at_once(compute.threads)
        self._widest = min(at_once, len(visible) or at_once)
        if visible and compute.training_processes > self._widest:
            raise InputError(
                f"compute.training_processes ({compute.training_processes}) exceeds the GPUs that tasks get "
                f"({self._widest}): lower it, or raise compute.at_once"
            )
        self._slots: SimpleQueue[str | None] = SimpleQueue()
        self._taking = threading.Lock()
        for number in range(at_once):
            self._slots.put(visible[number % len(visible)] if visible else None)
        self._light = threading.Semaphore(_cores())
        self._listeners = {
            name: Listener(interpreter(name, vllm_python), name, compute.threads) for name in worker.HEAVY
        }

    def run(self, request: Request, store: Store, on_progress: OnProgress, on_start: OnStart = ignore_start) -> None:
        """Send the request to its listener, and follow the task to its end."""
        log = store.logs / f"{request.stage}-{request.fingerprint}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        listener = self._listeners[registry.libraries(request)]
        with self._slot(request) as gpu:
            on_start()
            answers = listener.send(
                {
                    "request": request.model_dump(mode="json"),
                    "store": store.uri,
                    "threads": self._threads,
                    "gpu": gpu,
                    "log": str(log),
                }
            )
            failure: dict[str, Any] = {}
            while "exit" not in (answer := answers.get()):
                if "progress" in answer:
                    on_progress(*answer["progress"])
                else:
                    failure = answer
        if "listener" in answer:
            raise answer["listener"]
        if answer["exit"]:
            raise process_error(answer["exit"], failure, str(log))

    def close(self) -> None:
        """End the listeners and their tasks."""
        for listener in self._listeners.values():
            listener.close()

    @contextmanager
    def _slot(self, request: Request) -> Iterator[str | None]:
        """Wait for a GPU or a share of the cores if the task loads a model, and yield the visible GPUs."""
        if not registry.loads_model(request):
            with self._light:
                yield ""  # no GPU visible
        else:
            taken: list[str | None] = []
            wanted = min(request.means.get("training_processes", 1), self._widest)
            with self._taking:  # one thread at a time, or two could wait for each other's slots
                while len(taken if None in taken else set(taken)) < wanted:
                    taken.append(self._slots.get())
            visible = sorted({gpu for gpu in taken if gpu is not None})
            try:
                yield ",".join(visible) if visible else None
            finally:
                for slot in taken:
                    self._slots.put(slot)


class Listener:
    """The process that forks tasks. It starts with the first order, and is replaced if it dies."""

    def __init__(self, python: str, libraries: str, threads: int):
        self._command = [python, "-m", "tasks.runtime.worker", "--listen", libraries]
        self._environment = environment(libraries, threads)
        self._waits: dict[str, SimpleQueue[dict[str, Any]]] = {}  # of the running process, by address
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._errors: IO[bytes]  # standard error of the process
        self._closed = False

    def send(self, order: dict[str, Any]) -> SimpleQueue[dict[str, Any]]:
        """Send an order to the process, and return the queue of its answers."""
        with self._lock:
            if self._closed:
                raise StageError("not run: the flow is ending")
            if self._process is None or self._process.poll() is not None:
                self._errors = tempfile.TemporaryFile()  # noqa: SIM115  (`_follow` closes it)
                self._process = subprocess.Popen(
                    self._command,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=self._errors,
                    env=self._environment,
                )
                self._waits = {}
                follow = threading.Thread(
                    target=self._follow, args=(self._process, self._errors, self._waits), daemon=True
                )
                follow.start()
            answers: SimpleQueue[dict[str, Any]] = SimpleQueue()
            self._waits[Request.model_validate(order["request"]).address] = answers
            assert self._process.stdin
            try:
                self._process.stdin.write(json.dumps(order).encode() + b"\n")
                self._process.stdin.flush()
            except BrokenPipeError:
                raise self._cause(self._process.wait(), self._errors) from None
            return answers

    def close(self) -> None:
        """Close the input of the process. It then ends, and its tasks with it."""
        self._closed = True
        if self._process and self._process.stdin:
            with suppress(BrokenPipeError):  # it has died already, before it read an order
                self._process.stdin.close()
            self._process.wait()

    def _follow(
        self, process: subprocess.Popen[bytes], errors: IO[bytes], waits: dict[str, SimpleQueue[dict[str, Any]]]
    ) -> None:
        """Pass each line to the waiting thread. If the process dies, pass its error to all of them."""
        assert process.stdout
        with errors, process.stdout as lines:
            for line in lines:
                answer = json.loads(line)
                waits[answer["address"]].put(answer)
            with self._lock:  # nothing more is sent to this process
                cause = self._cause(process.wait(), errors)
                ended = list(waits.values())
        for waiting in ended:
            waiting.put({"exit": 1, "listener": cause})

    def _cause(self, code: int, errors: IO[bytes]) -> MontessoriError:
        """Return the error of the running tasks when the process ended with `code` and wrote `errors`."""
        if self._closed:
            return StageError("stopped: the flow is ending")
        if code < 0:
            return StageCrash(f"the process that starts tasks was killed by signal {-code}")
        errors.seek(0)
        lines = errors.read().decode(errors="replace").splitlines()
        last = next((line for line in reversed(lines) if line.strip()), "it wrote nothing")
        return StageError(f"the process that starts tasks ended with code {code} ({self._command[0]}): {last}")


def interpreter(libraries: str, vllm_python: str) -> str:
    """Return the Python interpreter for a task with these libraries."""
    return str(Path(vllm_python).expanduser()) if libraries == "vllm" else sys.executable


def environment(libraries: str, threads: int) -> dict[str, str]:
    """Return the environment variables of a process with these libraries."""
    variables = {**os.environ, "TOKENIZERS_PARALLELISM": "false", **SAFE_PATH}
    if libraries == "vllm":
        variables["OMP_NUM_THREADS"] = str(threads)  # vLLM takes all cores otherwise
    return variables


def process_error(code: int, failure: dict[str, Any], log: str) -> MontessoriError:
    """Return the error of a task's process from its exit code and its last report. `log` names the log."""
    if error := named_error(str(failure.get("error")), str(failure.get("message"))):
        return error
    if code < 0:
        return StageCrash(f"killed by signal {-code} (log: {log})")
    return StageCrash(f"{failure.get('error', 'error')}: {failure.get('message', 'see the log')} (log: {log})")


def named_error(name: str, message: str) -> MontessoriError | None:
    """Return the error called `name` if tasks raise it on purpose, else None."""
    kinds = {kind.__name__: kind for kind in (InputError, StageError, BudgetReached, ArtifactError)}
    return kinds[name](message) if name in kinds else None


def gpus() -> list[str]:
    """Return the GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        named = [gpu.strip() for gpu in visible.split(",")]
        return list(itertools.takewhile(lambda gpu: gpu and not gpu.startswith("-"), named))  # as CUDA reads it
    try:
        listed = subprocess.run(["nvidia-smi", "--list-gpus"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return []
    return [str(number) for number in range(len(listed.stdout.splitlines()))]


def tasks_at_once(threads: int = 1) -> int:
    """Return how many tasks this machine runs at once: its GPUs, else its cores divided by the threads of a task."""
    return len(gpus()) or max(1, _cores() // threads)


def _cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


__all__ = ["Place", "StageCrash", "StageError", "gpus", "open_place"]
