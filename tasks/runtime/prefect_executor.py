"""A run's stages as Prefect tasks: each waits for its inputs, is retried when it crashes, and is kept account of.

The cache is the store alone: a task whose artifact is there already ends at once in the state Cached.
"""

import time
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

from montessori.artifacts import Request, Store
from montessori.settings.schema import Compute
from tasks import registry
from tasks.runtime.executor import Attempts, Record, worth_a_retry
from tasks.runtime.places import OnProgress, Place

PROGRESS_EVERY_S = 5.0  # between updates of a progress artifact


class Execution(Attempts):
    """Runs the requests of one flow run at a place."""

    def __init__(self, store: Store, place: Place, compute: Compute):
        super().__init__(store, place, compute)
        self._futures: dict[str, PrefectFuture[Any]] = {}

    def submit(self, request: Request) -> None:
        """Start the stage as soon as those that make its inputs are done."""
        inputs = [address for addresses in request.inputs.values() for address in addresses]
        self.records[request.address] = Record(request.title)
        run = run_stage.with_options(
            name=request.stage,
            task_run_name=request.title,
            tags={"gpu"} if registry.loads_model(request) else set(),
            retries=self.compute.retries,
            retry_delay_seconds=exponential_backoff(self.compute.retry_delay_s),
        )
        waits = [self._futures[address] for address in inputs if address in self._futures]
        self._futures[request.address] = run.submit(request=request, execution=self, wait_for=waits, return_state=False)

    def wait(self) -> None:
        """Return when all have ended, well or not."""
        wait(list(self._futures.values()))

    def finish(self) -> None:
        """Wait for all. Raises one error naming all that failed for good: InputError if one of them got wrong input."""
        self.wait()
        self.raise_failures()

    def on_progress(self, request: Request, record: Record) -> OnProgress:
        """Tells the watchers each step and, every few seconds, Prefect's progress artifact."""
        last = time.monotonic()
        artifact: UUID | None = None

        told = super().on_progress(request, record)

        def on_progress(done: int, total: int, unit: str, note: str, where: str = "") -> None:
            nonlocal last, artifact
            told(done, total, unit, note, where)
            ended = done == total and artifact is not None
            if where or (time.monotonic() - last < PROGRESS_EVERY_S and not ended):
                return  # what runs elsewhere shows its own
            last, percent = time.monotonic(), 100 * done / max(1, total)
            if artifact is None:
                created = create_progress_artifact(percent, description=f"{request.title}, {total} {unit}")
                artifact = cast(UUID, created)
            else:
                update_progress_artifact(artifact, percent)

        return on_progress


def _worth_a_retry(_task: Task[..., Any], _run: TaskRun, state: State[Any]) -> bool:
    return worth_a_retry(state.result(raise_on_failure=False))


@task(cache_policy=NO_CACHE, persist_result=False, retry_jitter_factor=0.5, retry_condition_fn=_worth_a_retry)
def run_stage(request: Request, execution: Execution) -> State[Any]:
    """Make the artifact of `request`, unless it is there."""
    context = TaskRunContext.get()
    made = execution.run(request, context.task_run.run_count if context else 1)
    return Completed(name=None if made else "Cached", message=request.address)
