"""Run the requests of a plan at a place, skip those that the store has, and record each attempt.

Two implementations decide when a request starts: `LocalExecutor` (local.py), in threads of this process, and
`PrefectExecutor` (prefect_executor.py), as tasks of a Prefect flow. Observers are notified of every change.
"""

import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import copy_context
from dataclasses import dataclass
from typing import Any, Protocol

from montessori.artifacts import Request, Store
from montessori.errors import BudgetReached, InputError, StageError
from montessori.settings.execution import Compute
from tasks.runtime.places import OnProgress, Place

Progress = tuple[int, int, str, str]  # done, total, unit, note


@dataclass
class Record:
    """The state of one request."""

    request: Request
    state: str = "waiting"  # waiting, running, done, cached, failed
    attempts: int = 0
    seconds: float = 0.0
    error: str = ""
    done: tuple[int, int, str] | None = None  # done, total, unit
    where: str = ""  # the machine, if it is not this one
    wrong_input: bool = False
    over_budget: bool = False

    @property
    def title(self) -> str:
        """Return the request in one line."""
        return self.request.title


class Observer(Protocol):
    """Is notified of every change of an executor's records."""

    def update(self, record: Record, progress: Progress | None) -> None:
        """Handle a change of `record`. `progress` is given for a step of a running task."""


_observers: list[Observer] = []


@contextmanager
def observed_by(observer: Observer) -> Iterator[None]:
    """Notify `observer` of all executors of this process inside the block."""
    _observers.append(observer)
    try:
        yield
    finally:
        _observers.remove(observer)


def notify(record: Record, progress: Progress | None = None) -> None:
    """Notify all observers of a change of `record`."""
    for observer in _observers:
        observer.update(record, progress)


class Executor(ABC):
    """Run the requests of one plan at a place."""

    def __init__(self, store: Store, place: Place, compute: Compute):
        self.store, self.compute, self.records = store, compute, dict[str, Record]()
        self._place = place
        self._lock = threading.Lock()

    @abstractmethod
    def submit(self, request: Request) -> None:
        """Start the task as soon as the requests that make its inputs, submitted before it, are done."""

    @abstractmethod
    def wait(self) -> None:
        """Return when all submitted requests have ended, well or not."""

    def finish(self) -> None:
        """Wait for all requests. Raises InputError or StageError that names all failures."""
        self.wait()
        self.raise_failures()

    def run(self, request: Request, attempt: int) -> bool:
        """Make one attempt at `request`. Return False when the store had its artifact already."""
        record = self.records[request.address]
        if self.store.exists(request.address):
            self._change(record, state="cached", seconds=self.store.manifest(request.address)["seconds"])
            return False
        started = time.monotonic()

        def on_start() -> None:
            nonlocal started
            started = time.monotonic()  # without the wait for its turn
            self._change(record, state="running", attempts=attempt)

        try:
            self._place.run(request, self.store, self.on_progress(record), on_start)
        except BaseException as error:
            seconds = time.monotonic() - started
            kind = {"wrong_input": isinstance(error, InputError), "over_budget": isinstance(error, BudgetReached)}
            self._change(record, state="failed", attempts=attempt, error=str(error), seconds=seconds, **kind)
            raise
        self._change(record, state="done", error="", seconds=time.monotonic() - started)
        return True

    def on_progress(self, record: Record) -> OnProgress:
        """Return the function that a place calls at each step of a running task."""

        def on_progress(done: int, total: int, unit: str, note: str, where: str = "") -> None:
            record.done, record.where = (done, total, unit), where or record.where
            notify(record, (done, total, unit, note))

        return on_progress

    def raise_failures(self) -> None:
        """Raise one error that names all failed requests: InputError if one of them had wrong input."""
        failed = [record for record in self.records.values() if record.state == "failed"]
        if failed and all(record.over_budget for record in failed):
            raise BudgetReached(failed[0].error)
        if failed:
            waiting = sum(record.state == "waiting" for record in self.records.values())
            kind = InputError if any(record.wrong_input for record in failed) else StageError
            raise kind(
                "; ".join(f"{record.title} failed after {_times(record.attempts)}: {record.error}" for record in failed)
                + (f". Not run, since they need it: {waiting}" if waiting else "")
                + ". What is done stays done; the same command runs only what is missing"
            )

    def _change(self, record: Record, **values: Any) -> None:
        with self._lock:
            for name, value in values.items():
                setattr(record, name, value)
            notify(record)


class PeriodicDisplay(ABC):
    """Show the records of an executor every few seconds, in a thread of its own."""

    def __init__(self, every_s: float):
        self._every_s = every_s
        self._ended = threading.Event()
        self._thread = threading.Thread(target=copy_context().run, args=(self._repeat,), daemon=True)

    @abstractmethod
    def show(self) -> None:
        """Show the records as they are now."""

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread."""
        self._ended.set()
        self._thread.join()

    def _repeat(self) -> None:
        while not self._ended.wait(self._every_s):
            self.show()


def _times(count: int) -> str:
    return "one attempt" if count == 1 else f"{count} attempts"
