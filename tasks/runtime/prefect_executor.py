"""Run requests as tasks of the current Prefect flow run.

Each task waits for its inputs and is retried after a crash. The store is the only cache: a task ends at once in the
state Cached if its artifact exists.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast
from uuid import UUID

from prefect import State, task
from prefect.artifacts import create_progress_artifact, update_progress_artifact
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import TaskRun
from prefect.context import TaskRunContext
from prefect.futures import PrefectFuture, wait
from prefect.states import Completed
from prefect.task_runners import TaskRunner, ThreadPoolTaskRunner
from prefect.tasks import Task

from montessori.artifacts import Request, Store
from montessori.settings.execution import Compute
from tasks import registry
from tasks.runtime.executor import Executor, Record
from tasks.runtime.places import OnProgress, Place, open_place
from tasks.runtime.retry import JITTER, delays, worth_a_retry

PROGRESS_EVERY_S = 5.0  # between updates of a progress artifact
# A flow submits all requests at once, and each waits in a thread of its own for its inputs.
THREADS = cast(TaskRunner[PrefectFuture[Any]], ThreadPoolTaskRunner(max_workers=1000))


@contextmanager
def prefect_executor(store: Store, compute: Compute, vllm_python: str) -> Iterator["PrefectExecutor"]:
    """Open an executor at the place that `compute` names, and end all that it started with the block."""
    place = open_place(compute, vllm_python)
    try:
        yield PrefectExecutor(store, place, compute)
    finally:
        place.close()


class PrefectExecutor(Executor):
    """Run the requests of one flow run at a place."""

    def __init__(self, store: Store, place: Place, compute: Compute):
        super().__init__(store, place, compute)
        self._futures: dict[str, PrefectFuture[Any]] = {}

    def submit(self, request: Request) -> None:
        """Start the task as soon as the requests that make its inputs, submitted before it, are done."""
        inputs = [address for addresses in request.inputs.values() for address in addresses]
        self.records[request.address] = Record(request)
        run = run_task.with_options(
            name=request.stage,
            task_run_name=request.title,
            tags={"gpu"} if registry.loads_model(request) else set(),
            retries=self.compute.retries,
            retry_delay_seconds=delays(self.compute),
        )
        waits = [self._futures[address] for address in inputs if address in self._futures]
        self._futures[request.address] = run.submit(request=request, executor=self, wait_for=waits, return_state=False)

    def wait(self) -> None:
        """Return when all requests have ended, well or not."""
        wait(list(self._futures.values()))

    def on_progress(self, record: Record) -> OnProgress:
        """Return a function that notifies the observers of each step, and now and then updates Prefect's artifact."""
        last = time.monotonic()
        artifact: UUID | None = None
        notify_observers = super().on_progress(record)

        def on_progress(done: int, total: int, unit: str, note: str, where: str = "") -> None:
            nonlocal last, artifact
            notify_observers(done, total, unit, note, where)
            ended = done == total and artifact is not None
            if where or (time.monotonic() - last < PROGRESS_EVERY_S and not ended):
                return  # a task on another machine has its own artifact
            last, percent = time.monotonic(), 100 * done / max(1, total)
            if artifact is None:
                created = create_progress_artifact(percent, description=f"{record.title}, {total} {unit}")
                artifact = cast(UUID, created)
            else:
                update_progress_artifact(artifact, percent)

        return on_progress


def _worth_a_retry(_task: Task[..., Any], _run: TaskRun, state: State[Any]) -> bool:
    return worth_a_retry(state.result(raise_on_failure=False))


@task(cache_policy=NO_CACHE, persist_result=False, retry_jitter_factor=JITTER, retry_condition_fn=_worth_a_retry)
def run_task(request: Request, executor: PrefectExecutor) -> State[Any]:
    """Make the artifact of `request`, unless it exists."""
    context = TaskRunContext.get()
    is_new = executor.run(request, context.task_run.run_count if context else 1)
    return Completed(name=None if is_new else "Cached", message=request.address)
