"""Where a stage runs: in this process (`inline`), or in one of its own on this machine (`process`).

A place has `run(request, store, on_progress)`, which returns when the artifact is in the store, or raises InputError,
StageError or StageCrash; and `close()`.
"""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Protocol

from montessori import config, progress, stage, stages
from montessori.artifacts import Request, Store
from montessori.errors import ArtifactError, BudgetReached, InputError, MontessoriError, StageError

OnProgress = Callable[[int, int, str, str], None]


class StageCrash(MontessoriError):
    """A stage's process ended without an answer, or failed in a way that a second try may mend."""


class Place(Protocol):
    """Runs requests."""

    def run(self, request: Request, store: Store, on_progress: OnProgress) -> None:
        """Return when the artifact of `request` is in `store`."""

    def close(self) -> None:
        """End what still runs."""


def open_place(compute: config.Compute, vllm_python: str = config.Vllm().python) -> Place:
    """The place that the settings name; `vllm_python` is the interpreter of vLLM's environment."""
    return Inline(compute) if compute.place == "inline" else Processes(compute, vllm_python)


class Inline:
    """Stages one after the other in this process: for tests, and to debug a stage."""

    def __init__(self, compute: config.Compute):
        self._threads, self._turn = compute.threads, threading.Lock()

    def run(self, request: Request, store: Store, on_progress: OnProgress) -> None:
        """Run the stage here."""
        with self._turn, progress.listening(on_progress):
            try:
                stage.run(request, store, self._threads)
            except MontessoriError:
                raise
            except Exception as error:
                raise StageCrash(f"{type(error).__name__}: {error}") from error

    def close(self) -> None:
        """Nothing stays open."""


class Processes:
    """Each stage in a process of its own, forked from a listener (`python -m montessori.stage --listen`).

    There is a listener for training and one, with another interpreter, for stages in which vLLM writes. As many
    stages run side by side as there are GPUs, each with one to itself; without GPUs, as the cores allow.
    """

    def __init__(self, compute: config.Compute, vllm_python: str):
        self._threads = compute.threads
        found = gpus()
        at_once = compute.at_once or len(found) or max(1, _cores() // compute.threads)
        self._slots: SimpleQueue[str | None] = SimpleQueue()
        for number in range(at_once):
            self._slots.put(found[number % len(found)] if found else None)
        self._light = threading.Semaphore(_cores())
        python = {"training": sys.executable, "vllm": str(Path(vllm_python).expanduser())}
        self._listeners = {name: Listener(path, name, compute.threads) for name, path in python.items()}

    def run(self, request: Request, store: Store, on_progress: OnProgress) -> None:
        """Send the request to its listener and follow it to its end."""
        log = store.root / "logs" / f"{request.stage}-{request.fingerprint}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        listener = self._listeners["vllm" if request.settings.get("engine") == "vllm" else "training"]
        with self._slot(request) as gpu:
            answers = listener.send(
                {
                    "request": request.model_dump(mode="json"),
                    "store": str(store.root),
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
        if answer["exit"]:
            raise _error(answer["exit"], failure, str(log))

    def close(self) -> None:
        """End the listeners, and their stages with them."""
        for listener in self._listeners.values():
            listener.close()

    @contextmanager
    def _slot(self, request: Request) -> Iterator[str | None]:
        """A GPU or a core's share for a stage that loads a model; the others hardly cost anything."""
        if not stages.computes(request):
            with self._light:
                yield ""  # no GPU visible
        else:
            slot = self._slots.get()
            try:
                yield slot
            finally:
                self._slots.put(slot)


class Listener:
    """The process that forks stages, started when there is one to fork; should it die, a new one takes its place."""

    def __init__(self, python: str, libraries: str, threads: int):
        self._command = [python, "-m", "montessori.stage", "--listen", libraries]
        self._environment = {"TOKENIZERS_PARALLELISM": "false"}
        if libraries == "vllm":
            self._environment["OMP_NUM_THREADS"] = str(threads)  # vLLM takes all cores otherwise
        self._waits: dict[str, SimpleQueue[dict[str, Any]]] = {}  # of the process at work, by address
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._closed = False

    def send(self, order: dict[str, Any]) -> SimpleQueue[dict[str, Any]]:
        """Hand the order over; the queue of its answers."""
        with self._lock:
            if self._closed:
                raise StageError("not run: the flow is ending")
            if self._process is None or self._process.poll() is not None:
                self._process = subprocess.Popen(
                    self._command,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    env={**os.environ, **self._environment},
                )
                self._waits = {}
                follow = threading.Thread(target=self._follow, args=(self._process, self._waits), daemon=True)
                follow.start()
            answers: SimpleQueue[dict[str, Any]] = SimpleQueue()
            self._waits[Request.model_validate(order["request"]).address] = answers
            assert self._process.stdin
            try:
                self._process.stdin.write(json.dumps(order).encode() + b"\n")
                self._process.stdin.flush()
            except BrokenPipeError:
                raise StageCrash("the process that starts stages has died") from None
            return answers

    def close(self) -> None:
        """Close its input: it ends, and its stages with it."""
        self._closed = True
        if self._process and self._process.stdin:
            self._process.stdin.close()
            self._process.wait()

    def _follow(self, process: subprocess.Popen[bytes], waits: dict[str, SimpleQueue[dict[str, Any]]]) -> None:
        """Hand each line to the run that waits for it; if the process dies, tell them all."""
        assert process.stdout
        for line in process.stdout:
            answer = json.loads(line)
            waits[answer["address"]].put(answer)
        with self._lock:  # nothing more is sent to this process
            process.wait()
            ended = list(waits.values())
        for waiting in ended:
            if self._closed:
                waiting.put({"error": "StageError", "message": "stopped: the flow is ending"})
            waiting.put({"exit": 1 if self._closed else -9})


def _error(code: int, failure: dict[str, Any], log: str) -> MontessoriError:
    for kind in (InputError, StageError, BudgetReached, ArtifactError):
        if failure.get("error") == kind.__name__:
            return kind(failure["message"])
    if code < 0:
        hint = "; out of memory is the usual reason" if code == -9 else ""
        return StageCrash(f"killed by signal {-code}{hint} (log: {log})")
    return StageCrash(f"{failure.get('error', 'error')}: {failure.get('message', 'see the log')} (log: {log})")


def gpus() -> list[str]:
    """The GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [gpu for gpu in visible.split(",") if gpu]
    try:
        listed = subprocess.run(["nvidia-smi", "--list-gpus"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return []
    return [str(number) for number in range(len(listed.stdout.splitlines()))]


def _cores() -> int:
    """The cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


__all__ = ["Place", "StageCrash", "StageError", "gpus", "open_place"]
