"""The place `pool`: what needs torch is a flow run of the deployment `stage` in a Prefect work pool, on any machine.

In: requests.  Out: artifacts in a store that the workers reach too; the errors that the stages raised there. Only
references pass. What does without torch runs beside the flow, where the user's files are.
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
from tasks.runtime.places import OnProgress, OnStart, Processes, StageCrash, typed, unheard
from tasks.runtime.server import connected

POLL_EVERY_S = 2.0
GONE_AFTER_S = 600.0  # without an answer of the server
NO_WORKER_AFTER_S = 20.0
USUAL_MEMORY = "8Gi"  # as flows/deployment/job_templates/kubernetes.json has it
PAGE = 200  # the most that the server lists at once
ENDED = (StateType.COMPLETED, StateType.FAILED, StateType.CRASHED, StateType.CANCELLED)
News = SimpleQueue[tuple[Any, ...] | State[Any] | MontessoriError | None]  # progress, at last how it ended
T = TypeVar("T")


def check(compute: Compute, store: Store) -> None:
    """Raise InputError when there is no such deployment, or its workers cannot reach the store."""
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
    """Stages as flow runs of a deployment; those without torch as processes of this machine."""

    def __init__(self, compute: Compute, vllm_python: str):
        context = FlowRunContext.get()
        self._log: Any = get_run_logger() if context else logging.getLogger(__name__)
        self._tags = [context.flow_run.name] if context and context.flow_run else []
        self._threads = compute.threads
        alone = {"at_once": None, "training_processes": 1}  # what the workers' GPUs are asked for, not this machine's
        self._beside = Processes(compute.model_copy(update=alone), vllm_python)
        self._slots = threading.Semaphore(compute.at_once) if compute.at_once else nullcontext()
        self._client = get_client(sync_client=True)
        self._deployment = patiently(lambda: self._client.read_deployment_by_name(compute.deployment))
        self._creating = threading.Lock()  # a server on SQLite locks itself up for a minute when many write at once
        self._runs = Runs(self._client, _pool_of(self._deployment), self._log)

    def run(self, request: Request, store: Store, on_progress: OnProgress, on_start: OnStart = unheard) -> None:
        """Have it made by a flow run, and follow that to its end."""
        if registry.libraries(request) == "light":
            self._beside.run(request, store, on_progress, on_start)
            return
        with self._slots:
            on_start()
            with self._creating:
                run = self._start(request, store)
            state = self._runs.wait(run.id, on_progress)
        if not store.exists(request.address):  # the store says what is done, whatever a server has missed
            raise _error(run, state, store)

    def close(self) -> None:
        """Cancel what still runs."""
        self._runs.close()
        self._beside.close()

    def _start(self, request: Request, store: Store) -> FlowRun:
        """The flow run that makes it: one at work already, whoever asked for it, or a new one."""
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
                job_variables=job_of(request, self._deployment.job_variables or {}),
                parent_task_run_id=patiently(partial(self._placeholder, key)),
            )
            run = patiently(create)
            if run.state is None or not run.state.is_final():
                return run
        raise AssertionError

    def _placeholder(self, key: str) -> UUID | None:
        """A task run that ties a flow run to this one, as `run_deployment` of Prefect makes it: for the UI, and so
        that a cancellation reaches it.
        """
        task = TaskRunContext.get()
        if not task or not task.task_run.flow_run_id:
            return None
        stand_in = Task(lambda: None, name=self._deployment.name)
        stand_in.task_key = f"{__name__}.{self._deployment.name}"
        inputs: Any = {"__parents__": [TaskRunResult(id=task.task_run.id)]}
        made = self._client.create_task_run(
            stand_in, task.task_run.flow_run_id, dynamic_key=key, task_inputs=inputs, state=Pending()
        )
        return made.id


def job_of(request: Request, usual: Mapping[str, Any]) -> dict[str, Any] | None:
    """What `request` needs beyond the `usual` job variables of its deployment, or None.

    A training in several processes gets a GPU for each, and so many times the memory, where jobs ask for GPUs by number
    (Kubernetes; elsewhere a stage sees all of its machine's).
    """
    processes = request.means.get("training_processes", 1)
    if processes == 1 or not usual.get("gpus"):
        return None
    of_one = re.fullmatch(r"([\d.]+)(\w*)", usual.get("memory", USUAL_MEMORY))
    assert of_one, "the API takes no other"
    return {"gpus": processes, "memory": f"{processes * float(of_one[1]):g}{of_one[2]}"}


class Runs:
    """The flow runs that are waited for, all followed by one thread: a few requests every two seconds."""

    def __init__(self, client: SyncPrefectClient, pool: str, log: Any):
        self._client, self._pool, self._log = client, pool, log
        self._waits: dict[UUID, News] = {}
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._thread: threading.Thread | None = None
        self._told = False  # that there is no worker

    def wait(self, run: UUID, on_progress: OnProgress) -> State[Any] | None:
        """The final state of `run`, or None when the server has lost it. Raises StageError once this is closed."""
        news: News = SimpleQueue()
        with self._lock:
            self._waits[run] = news
            if self._thread is None:
                self._thread = threading.Thread(target=self._follow, daemon=True)
                self._thread.start()
        if self._closed.is_set():
            self._cancel()
        while isinstance(told := news.get(), tuple):
            on_progress(*told)
        if isinstance(told, MontessoriError):
            raise told
        return told

    @property
    def closed(self) -> bool:
        """Whether nothing is waited for any more."""
        return self._closed.is_set()

    def close(self) -> None:
        """Cancel all that are waited for."""
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
            except Exception as error:  # nobody else would tell those who wait
                for run in runs:
                    self._end(run, StageCrash(f"its flow run cannot be followed: {error}"))

    def _look(self, page: list[UUID], number: int) -> None:
        """Pass on how the runs of `page` are: ends at once, progress less often, that one is gone still less."""
        mine = FlowRunFilterId(any_=page)
        kinds = FlowRunFilterState(type=FlowRunFilterStateType(any_=list(ENDED)))
        ended = FlowRunFilter(id=mine, state=kinds)
        for run in patiently(lambda: self._client.read_flow_runs(flow_run_filter=ended, limit=PAGE), self._closed):
            self._end(run.id, run.state)
        if number % 2:
            shown = ArtifactFilter(type=ArtifactFilterType(any_=["progress"]))
            at_work = FlowRunFilter(id=FlowRunFilterId(any_=[run for run in page if run in self._waits]))
            for artifact in patiently(
                lambda: self._client.read_artifacts(artifact_filter=shown, flow_run_filter=at_work, limit=PAGE),
                self._closed,
            ):
                self._show(artifact.flow_run_id, artifact.metadata_ or {})
        if number % 15 == 14:
            there = FlowRunFilter(id=mine)
            found = patiently(lambda: self._client.read_flow_runs(flow_run_filter=there, limit=PAGE), self._closed)
            for run_id in set(page) - {run.id for run in found}:
                self._end(run_id, None)

    def _show(self, run: UUID | None, words: dict[str, str]) -> None:
        if run in self._waits and "total" in words:
            done = int(words["done"]), int(words["total"])
            self._waits[run].put((*done, words["unit"], words["note"], words["worker"]))

    def _look_for_workers(self) -> None:
        online = WorkerFilter(status=WorkerFilterStatus(any_=["ONLINE"]))
        none = not patiently(
            lambda: self._client.read_workers_for_work_pool(self._pool, worker_filter=online), self._closed
        )
        if none and not self._told:
            self._log.warning(
                "waiting for a worker in pool %s: start one with `prefect worker start --pool %s`",
                self._pool, self._pool,
            )  # fmt: skip
        self._told = none

    def _end(self, run: UUID, how: State[Any] | MontessoriError | None) -> None:
        if news := self._waits.pop(run, None):
            news.put(how)

    def _cancel(self) -> None:
        """Ask the server to cancel all; a server that does not answer must not hold up the end."""
        runs = list(self._waits)
        with suppress(Exception):
            for run in runs:
                self._client.set_flow_run_state(run, Cancelling(message="The run that asked for it has ended."))
        for run in runs:
            self._end(run, StageError("stopped: the flow is ending"))


def patiently(call: Callable[[], T], closed: threading.Event | None = None) -> T:
    """The result of `call`, which asks the Prefect server; tried again for minutes while that is down or overloaded."""
    started = time.monotonic()
    for attempt in count():
        try:
            with temporary_settings({PREFECT_CLIENT_MAX_RETRIES: 0}):  # whose pauses double without a limit
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
    """Why there is no artifact, from the state in which its flow run ended."""
    where = url_for(run) or f"flow run {run.name}"
    if state is None:
        return StageCrash(f"its flow run has gone from the server ({where})")
    if error := typed(state.name or "", state.message or ""):
        return error
    if state.is_completed():
        return StageError(f"made, but not in {store.uri}: the worker's store is another one ({where})")
    return StageCrash(f"{state.message or state.name} ({where})")


def _pool_of(deployment: DeploymentResponse) -> str:
    if not deployment.work_pool_name:
        raise InputError(f"compute.deployment = {deployment.name}: it has no work pool; run `montessori deploy`")
    return deployment.work_pool_name
