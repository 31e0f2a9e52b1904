"""Attempts at a run's stages, however they are started: what the store has is taken, the rest made at a place.

In: requests.  Out: their artifacts in the store, and a record of how each went. Knows nothing of Prefect.
"""

import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from montessori.artifacts import Request, Store
from montessori.errors import BudgetReached, InputError, MontessoriError, StageError, StoreUnreachable
from montessori.settings.schema import Compute
from tasks.runtime.places import OnProgress, Place, StageCrash


@dataclass
class Record:
    """How one stage, or one shard of it, has gone so far."""

    title: str
    state: str = "waiting"  # waiting, running, done, cached, failed
    attempts: int = 0
    seconds: float = 0.0
    error: str = ""
    done: tuple[int, int, str] | None = None  # done, total, unit
    where: str = ""  # the machine, where it is not this one
    wrong_input: bool = False
    over_budget: bool = False


Progress = tuple[int, int, str, str]  # done, total, unit, note
Watch = Callable[[str, Record, Progress | None], None]

_watchers: list[Watch] = []


@contextmanager
def watching(watch: Watch) -> Iterator[None]:
    """Let `watch(address, record, progress)` hear how the stages go, inside the block."""
    _watchers.append(watch)
    try:
        yield
    finally:
        _watchers.remove(watch)


class Attempts(ABC):
    """The attempts of one run at its requests. Who starts them, and when, is for `execution` and `direct` to say."""

    def __init__(self, store: Store, place: Place, compute: Compute):
        self.store, self.compute, self.records = store, compute, dict[str, Record]()
        self._place = place
        self._lock = threading.Lock()

    @abstractmethod
    def submit(self, request: Request) -> None:
        """Start the stage as soon as those that make its inputs are done."""

    @abstractmethod
    def wait(self) -> None:
        """Return when all have ended, well or not."""

    @abstractmethod
    def finish(self) -> None:
        """Wait for all. Raises InputError where one had wrong input, StageError that names all that failed."""

    def run(self, request: Request, attempt: int) -> bool:
        """One attempt at `request`; False when the store had its artifact already."""
        record = self.records[request.address]
        if self.store.exists(request.address):
            self._tell(request, record, state="cached", seconds=self.store.manifest(request.address)["seconds"])
            return False
        started = time.monotonic()

        def on_start() -> None:
            nonlocal started
            started = time.monotonic()  # not the wait for its turn
            self._tell(request, record, state="running", attempts=attempt)

        try:
            self._place.run(request, self.store, self.on_progress(request, record), on_start)
        except BaseException as error:
            seconds = time.monotonic() - started
            why = {"wrong_input": isinstance(error, InputError), "over_budget": isinstance(error, BudgetReached)}
            self._tell(request, record, state="failed", attempts=attempt, error=str(error), seconds=seconds, **why)
            raise
        self._tell(request, record, state="done", error="", seconds=time.monotonic() - started)
        return True

    def on_progress(self, request: Request, record: Record) -> OnProgress:
        """What hears each step of a stage at work: the watchers."""

        def on_progress(done: int, total: int, unit: str, note: str, where: str = "") -> None:
            record.done, record.where = (done, total, unit), where or record.where
            tell(request.address, record, (done, total, unit, note))

        return on_progress

    def raise_failures(self) -> None:
        """Raise one error naming all that failed for good: InputError if one of them got wrong input."""
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

    def _tell(self, request: Request, record: Record, **change: Any) -> None:
        with self._lock:
            for name, value in change.items():
                setattr(record, name, value)
            tell(request.address, record, None)


def tell(address: str, record: Record, progress: Progress | None) -> None:
    """Let the watchers know."""
    for watch in _watchers:
        watch(address, record, progress)


def worth_a_retry(error: object) -> bool:
    """Crashes are tried again; wrong input and a stage's own verdict would only repeat themselves."""
    return not isinstance(error, MontessoriError) or isinstance(error, StageCrash | StoreUnreachable)


def _times(count: int) -> str:
    return "one attempt" if count == 1 else f"{count} attempts"
