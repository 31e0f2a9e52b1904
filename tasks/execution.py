"""A run's stages as Prefect tasks: each waits for its inputs, is retried when it crashes, and is kept account of.

The cache is the store alone: a task whose artifact is there already ends at once in the state Cached.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast
from uuid import UUID

from prefect import State, task
from prefect.artifacts import create_progress_artifact, update_progress_artifact
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import TaskRun
from prefect.context import TaskRunContext
from prefect.futures import PrefectFuture, wait
from prefect.states import Completed
from prefect.tasks import Task, exponential_backoff

from montessori import stages
from montessori.artifacts import Request, Store
from montessori.config import Compute
from montessori.errors import InputError, MontessoriError, StageError
from tasks.places import Place, StageCrash

log = logging.getLogger(__name__)


@dataclass
class Record:
    """How one stage, or one shard of it, has gone so far."""

    title: str
    state: str = "waiting"  # waiting, running, done, cached, failed
    attempts: int = 0
    seconds: float = 0.0
    error: str = ""
    wrong_input: bool = False


Progress = tuple[int, int, str, str]  # done, total, unit, note
Watch = Callable[[str, Record, Progress | None], None]

_watchers: list[Watch] = []
PROGRESS_EVERY_S = 5.0  # between updates of a progress artifact


@contextmanager
def watching(watch: Watch) -> Iterator[None]:
    """Let `watch(address, record, progress)` hear how the stages go, inside the block."""
    _watchers.append(watch)
    try:
        yield
    finally:
        _watchers.remove(watch)


class Execution:
    """Runs the requests of one flow run at a place."""

    def __init__(self, store: Store, place: Place, compute: Compute):
        self.store, self.records = store, dict[str, Record]()
        self._place, self._compute = place, compute
        self._futures: dict[str, PrefectFuture[Any]] = {}
        self._lock = threading.Lock()

    def submit(self, request: Request) -> None:
        """Start the stage as soon as those that make its inputs are done."""
        inputs = [address for addresses in request.inputs.values() for address in addresses]
        self.records[request.address] = Record(request.title)
        run = run_stage.with_options(
            name=request.stage,
            task_run_name=request.title,
            tags=set() if stages.STAGES[request.stage].light else {"gpu"},
            retries=self._compute.retries,
            retry_delay_seconds=exponential_backoff(self._compute.retry_delay_s),
        )
        waits = [self._futures[address] for address in inputs if address in self._futures]
        self._futures[request.address] = run.submit(request=request, execution=self, wait_for=waits, return_state=False)

    def finish(self) -> None:
        """Wait for all. Raises one error naming all that failed for good: InputError if one of them got wrong input."""
        wait(list(self._futures.values()))
        failed = [record for record in self.records.values() if record.state == "failed"]
        if failed:
            waiting = sum(record.state == "waiting" for record in self.records.values())
            kind = InputError if any(record.wrong_input for record in failed) else StageError
            raise kind(
                "; ".join(f"{record.title} failed after {_times(record.attempts)}: {record.error}" for record in failed)
                + (f". {waiting} stages that need it did not run" if waiting else "")
                + ". What is done stays done; the same command runs only what is missing"
            )

    def run(self, request: Request, attempt: int) -> bool:
        """One attempt at `request`; False when the store had its artifact already."""
        record = self.records[request.address]
        if self.store.exists(request.address):
            self._tell(request, record, state="cached", seconds=self.store.manifest(request.address)["seconds"])
            return False
        started = time.monotonic()
        self._tell(request, record, state="running", attempts=attempt)
        try:
            self._place.run(request, self.store, self._progress(request, record))
        except BaseException as error:
            seconds = time.monotonic() - started
            wrong_input = isinstance(error, InputError)
            self._tell(request, record, state="failed", error=str(error), wrong_input=wrong_input, seconds=seconds)
            raise
        self._tell(request, record, state="done", error="", seconds=time.monotonic() - started)
        return True

    def _tell(self, request: Request, record: Record, **change: Any) -> None:
        with self._lock:
            for name, value in change.items():
                setattr(record, name, value)
            for watch in _watchers:
                watch(request.address, record, None)

    def _progress(self, request: Request, record: Record) -> Callable[[int, int, str, str], None]:
        """Tells the watchers each step and, every few seconds, Prefect's progress artifact."""
        last = time.monotonic()
        artifact: UUID | None = None

        def on_progress(done: int, total: int, unit: str, note: str) -> None:
            nonlocal last, artifact
            for watch in _watchers:
                watch(request.address, record, (done, total, unit, note))
            ended = done == total and artifact is not None
            if time.monotonic() - last < PROGRESS_EVERY_S and not ended:
                return
            last, percent = time.monotonic(), 100 * done / max(1, total)
            if artifact is None:
                created = create_progress_artifact(percent, description=f"{request.title}, {total} {unit}")
                artifact = cast(UUID, created)
            else:
                update_progress_artifact(artifact, percent)

        return on_progress


def _worth_a_retry(_task: Task[..., Any], _run: TaskRun, state: State[Any]) -> bool:
    """Crashes are tried again; wrong input and a stage's own verdict would only repeat themselves."""
    error = state.result(raise_on_failure=False)
    return not isinstance(error, MontessoriError) or isinstance(error, StageCrash)


@task(cache_policy=NO_CACHE, persist_result=False, retry_jitter_factor=0.5, retry_condition_fn=_worth_a_retry)
def run_stage(request: Request, execution: Execution) -> State[Any]:
    """Make the artifact of `request`, unless it is there."""
    context = TaskRunContext.get()
    made = execution.run(request, context.task_run.run_count if context else 1)
    return Completed(name=None if made else "Cached", message=request.address)


def _times(count: int) -> str:
    return "one attempt" if count == 1 else f"{count} attempts"
