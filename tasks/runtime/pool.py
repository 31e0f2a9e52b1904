"""Run tasks in a Prefect work pool: the place `pool`.

A task with torch becomes a flow run of the deployment `stage`, on any machine with a worker. A task without torch runs
beside the flow, where the user's files are. Only references travel, so the workers must reach the store.
"""

import hashlib
import logging
import re
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext, suppress
from functools import partial
from itertools import count
from queue import SimpleQueue
from typing import Any, TypeVar
from uuid import UUID

import httpx
from prefect import Task
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import (
    ArtifactFilter,
    ArtifactFilterType,
    FlowRunFilter,
    FlowRunFilterId,
    FlowRunFilterState,
    FlowRunFilterStateType,
    WorkerFilter,
    WorkerFilterStatus,
)
from prefect.client.schemas.objects import FlowRun, State, StateType, TaskRunResult
from prefect.client.schemas.responses import DeploymentResponse
from prefect.context import FlowRunContext, TaskRunContext
from prefect.exceptions import ObjectNotFound, PrefectHTTPStatusError
from prefect.logging import get_run_logger
from prefect.settings import PREFECT_API_URL, PREFECT_CLIENT_MAX_RETRIES, temporary_settings
from prefect.states import Cancelling, Pending
from prefect.utilities.urls import url_for

from montessori.artifacts import Folder, Request, Store
from montessori.errors import InputError, MontessoriError, StageError
from montessori.settings.execution import Compute
from tasks import registry
from tasks.runtime.places import OnProgress, OnStart, Processes, StageCrash, ignore_start, named_error
from tasks.runtime.server import connected

POLL_EVERY_S = 2.0
GONE_AFTER_S = 600.0  # without an answer from the server
DEFAULT_MEMORY = "8Gi"  # as flows/deployment/job_templates/kubernetes.json has it
PAGE = 200  # the server lists no more at once
ENDED = (StateType.COMPLETED, StateType.FAILED, StateType.CRASHED, StateType.CANCELLED)
Updates = SimpleQueue[tuple[Any, ...] | State[Any] | MontessoriError | None]  # progress, and last the end of the run
T = TypeVar("T")


def check(compute: Compute, store: Store) -> None:
    """Raise InputError when the deployment does not exist, or its workers cannot reach the store."""
    try:
        with connected() as client:
            deployment = client.read_deployment_by_name(compute.deployment)
            kind = client.read_work_pool(_pool_of(deployment)).type
    except ObjectNotFound:
        raise InputError(
            f"compute.deployment = {compute.deployment}: there is none at {PREFECT_API_URL.value()}; "
            "`montessori deploy` registers it"
        ) from None
    if kind != "process" and isinstance(store, Folder):
        raise InputError(
            f"store = {store.uri}: the {kind} workers of {compute.deployment} cannot reach a folder of this machine; "
            "use s3://bucket/prefix"
        )


class Pool:
    """Run tasks with torch as flow runs of a deployment, and the others as processes of this machine."""

    def __init__(self, compute: Compute, vllm_python: str):
        context = FlowRunContext.get()
        self._log: Any = get_run_logger() if context else logging.getLogger(__name__)
        self._tags = [context.flow_run.name] if context and context.flow_run else []
        self._threads = compute.threads
        here = {"at_once": None, "training_processes": 1}  # the settings are for the workers' GPUs, not this machine's
        self._local = Processes(compute.model_copy(update=here), vllm_python)
        self._slots = threading.Semaphore(compute.at_once) if compute.at_once else nullcontext()
        self._client = get_client(sync_client=True)
        self._deployment = call_with_retries(lambda: self._client.read_deployment_by_name(compute.deployment))
        self._creating = threading.Lock()  # a server on SQLite locks itself up for a minute when many write at once
        self._runs = Runs(self._client, _pool_of(self._deployment), self._log)

    def run(self, request: Request, store: Store, on_progress: OnProgress, on_start: OnStart = ignore_start) -> None:
        """Run `request` as a flow run, and follow it to its end."""
        if registry.libraries(request) == "light":
            self._local.run(request, store, on_progress, on_start)
            return
        with self._slots:
            on_start()
            with self._creating:
                run = self._start(request, store)
            state = self._runs.wait(run.id, on_progress)
        if not store.exists(request.address):  # the store decides, since a server may have missed the end
            raise _error(run, state, store)

    def close(self) -> None:
        """Cancel the flow runs and end the processes."""
        self._runs.close()
        self._local.close()

    def _start(self, request: Request, store: Store) -> FlowRun:
        """Return the flow run that executes `request`: one that runs already, or a new one."""
        if self._runs.closed:
            raise StageError("not run: the flow is ending")
        digest = hashlib.sha256(store.uri.encode()).hexdigest()[:12]
        # As text: a server's data base may order a JSON object's keys anew, and reports show systems in their order.
        parameters = {"request": request.model_dump_json(), "store": store.uri, "threads": self._threads}
        tags = [*self._tags, request.stage, *(["gpu"] if registry.loads_model(request) else [])]
        for number in count():
            key = f"{digest}:{request.address}:{number}"
            create = partial(
                self._client.create_flow_run_from_deployment,
                self._deployment.id,
                parameters=parameters,
                name=request.title,
                tags=tags,
                idempotency_key=key,
                job_variables=job_variables_of(request, self._deployment.job_variables or {}),
                parent_task_run_id=call_with_retries(partial(self._placeholder, key)),
            )
            run = call_with_retries(create)
            if run.state is None or not run.state.is_final():
                return run
        raise AssertionError

    def _placeholder(self, key: str) -> UUID | None:
        """Create a task run that ties a flow run to this one, and return its id, or None outside a task run.

        Prefect's `run_deployment` creates the same. The UI shows it, and a cancellation reaches the flow run by it.
        """
        task = TaskRunContext.get()
        if not task or not task.task_run.flow_run_id:
            return None
        stand_in = Task(lambda: None, name=self._deployment.name)
        stand_in.task_key = f"{__name__}.{self._deployment.name}"
        inputs: Any = {"__parents__": [TaskRunResult(id=task.task_run.id)]}
        created = self._client.create_task_run(
            stand_in, task.task_run.flow_run_id, dynamic_key=key, task_inputs=inputs, state=Pending()
        )
        return created.id


def job_variables_of(request: Request, defaults: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the job variables of `request` where they differ from its deployment's `defaults`, else None.

    A training in N processes gets N GPUs and N times the memory where jobs request GPUs by number (Kubernetes).
    Elsewhere a task sees all GPUs of its machine.
    """
    processes = request.means.get("training_processes", 1)
    if processes == 1 or not defaults.get("gpus"):
        return None
    memory = re.fullmatch(r"([\d.]+)(\w*)", defaults.get("memory", DEFAULT_MEMORY))
    assert memory, "the API accepts no other form"
    return {"gpus": processes, "memory": f"{processes * float(memory[1]):g}{memory[2]}"}


class Runs:
    """Follow all flow runs in one thread, with a few requests to the server every two seconds."""

    def __init__(self, client: SyncPrefectClient, pool: str, log: Any):
        self._client, self._pool, self._log = client, pool, log
        self._waits: dict[UUID, Updates] = {}
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._thread: threading.Thread | None = None
        self._warned = False  # that there is no worker

    def wait(self, run: UUID, on_progress: OnProgress) -> State[Any] | None:
        """Return the final state of `run`, or None when the server has lost it. Raises StageError after `close`."""
        updates: Updates = SimpleQueue()
        with self._lock:
            self._waits[run] = updates
            if self._thread is None:
                self._thread = threading.Thread(target=self._follow, daemon=True)
                self._thread.start()
        if self._closed.is_set():
            self._cancel()
        while isinstance(update := updates.get(), tuple):
            on_progress(*update)
        if isinstance(update, MontessoriError):
            raise update
        return update

    @property
    def closed(self) -> bool:
        """Tell whether `close` was called."""
        return self._closed.is_set()

    def close(self) -> None:
        """Cancel all flow runs."""
        self._closed.set()
        self._cancel()

    def _follow(self) -> None:
        for number in count():
            if self._closed.wait(POLL_EVERY_S):
                return
            runs = list(self._waits)
            try:
                for first in range(0, len(runs), PAGE):
                    self._look(runs[first : first + PAGE], number)
                if runs and number % 10 == 9:
                    self._look_for_workers()
            except Exception as error:  # else the waiting threads would never return
                for run in runs:
                    self._end(run, StageCrash(f"its flow run cannot be followed: {error}"))

    def _look(self, page: list[UUID], number: int) -> None:
        """Pass on the ends of the runs of `page` at once, their progress less often, and lost runs still less often."""
        mine = FlowRunFilterId(any_=page)
        kinds = FlowRunFilterState(type=FlowRunFilterStateType(any_=list(ENDED)))
        ended = FlowRunFilter(id=mine, state=kinds)
        for run in self._read_runs(ended):
            self._end(run.id, run.state)
        if number % 2:
            shown = ArtifactFilter(type=ArtifactFilterType(any_=["progress"]))
            at_work = FlowRunFilter(id=FlowRunFilterId(any_=[run for run in page if run in self._waits]))
            for artifact in call_with_retries(
                lambda: self._client.read_artifacts(artifact_filter=shown, flow_run_filter=at_work, limit=PAGE),
                self._closed,
            ):
                self._show(artifact.flow_run_id, artifact.metadata_ or {})
        if number % 15 == 14:
            known = FlowRunFilter(id=mine)
            for run_id in set(page) - {run.id for run in self._read_runs(known)}:
                self._end(run_id, None)

    def _read_runs(self, which: FlowRunFilter) -> list[FlowRun]:
        return call_with_retries(lambda: self._client.read_flow_runs(flow_run_filter=which, limit=PAGE), self._closed)

    def _show(self, run: UUID | None, progress: dict[str, str]) -> None:
        if run in self._waits and "total" in progress:
            done = int(progress["done"]), int(progress["total"])
            self._waits[run].put((*done, progress["unit"], progress["note"], progress["worker"]))

    def _look_for_workers(self) -> None:
        online = WorkerFilter(status=WorkerFilterStatus(any_=["ONLINE"]))
        none = not call_with_retries(
            lambda: self._client.read_workers_for_work_pool(self._pool, worker_filter=online), self._closed
        )
        if none and not self._warned:
            self._log.warning(
                "waiting for a worker in pool %s: start one with `prefect worker start --pool %s`",
                self._pool, self._pool,
            )  # fmt: skip
        self._warned = none

    def _end(self, run: UUID, how: State[Any] | MontessoriError | None) -> None:
        if updates := self._waits.pop(run, None):
            updates.put(how)

    def _cancel(self) -> None:
        """Cancel all runs on the server. A server that does not answer must not delay the end."""
        runs = list(self._waits)
        with suppress(Exception):
            for run in runs:
                self._client.set_flow_run_state(run, Cancelling(message="Its run has ended."))
        for run in runs:
            self._end(run, StageError("stopped: the flow is ending"))


def call_with_retries(call: Callable[[], T], closed: threading.Event | None = None) -> T:
    """Return the result of a request to the Prefect server, repeated for minutes while it is down or overloaded."""
    started = time.monotonic()
    for attempt in count():
        try:
            with temporary_settings({PREFECT_CLIENT_MAX_RETRIES: 0}):  # Prefect's own pauses double without a limit
                return call()
        except (httpx.TransportError, PrefectHTTPStatusError) as error:
            if isinstance(error, PrefectHTTPStatusError) and error.response.status_code < 500:
                raise
            if time.monotonic() - started > GONE_AFTER_S:
                minutes = round(GONE_AFTER_S / 60)
                raise StageCrash(f"the Prefect server has not answered for {minutes} minutes ({error})") from None
            if (closed or threading.Event()).wait(min(5, 0.5 * 2**attempt)):
                raise
    raise AssertionError


def _error(run: FlowRun, state: State[Any] | None, store: Store) -> MontessoriError:
    """Return why there is no artifact, from the final state of its flow run."""
    where = url_for(run) or f"flow run {run.name}"
    if state is None:
        return StageCrash(f"its flow run has gone from the server ({where})")
    if error := named_error(state.name or "", state.message or ""):
        return error
    if state.is_completed():
        return StageError(f"made, but not in {store.uri}: the worker's store is another one ({where})")
    return StageCrash(f"{state.message or state.name} ({where})")


def _pool_of(deployment: DeploymentResponse) -> str:
    if not deployment.work_pool_name:
        raise InputError(f"compute.deployment = {deployment.name}: it has no work pool; run `montessori deploy`")
    return deployment.work_pool_name
