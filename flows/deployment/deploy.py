"""Register the work pool, deployments, schedule and automations on a Prefect server: `montessori deploy`.

A repeated command changes only what its options name. Further schedules and automations of Montessori are deleted. The
workers run the installed code: nothing is uploaded or cloned.
"""

import json
import re
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from importlib.resources import files as resources
from pathlib import Path
from typing import Any, Literal, cast
from uuid import UUID

from prefect import Flow
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.actions import DeploymentScheduleCreate, WorkPoolCreate, WorkPoolUpdate
from prefect.client.schemas.objects import ConcurrencyLimitConfig, ConcurrencyLimitStrategy, DeploymentSchedule
from prefect.client.schemas.schedules import CronSchedule
from prefect.deployments.runner import RunnerDeployment
from prefect.exceptions import ObjectNotFound
from prefect.settings import PREFECT_API_URL
from prefect.types.entrypoint import EntrypointType

from flows.deployment import automations
from flows.evaluate import evaluate
from flows.montessori import montessori
from flows.stage import stage
from flows.study import study
from flows.teacher_refresh import teacher_refresh
from montessori.artifacts import open_store
from montessori.errors import InputError
from montessori.settings import shipped
from tasks.runtime.places import gpus, tasks_at_once
from tasks.runtime.server import connected

TEMPLATES = Path(str(resources("flows.deployment"))) / "job_templates"
QUEUE = "stages"
NIGHTLY = "0 2 * * *"
# Deployments of the flow `montessori` with another method, and their fields.
METHODS: dict[str, dict[str, Any]] = {
    "self-instruct": {"iterations": 0},
    "self-reward": {"method": "self-reward"},
    "llm2llm": {"method": "llm2llm"},
}
OFF = "off"
SIZES = {"docker": (r"\d+[bkmg]?", "16g"), "kubernetes": (r"\d+([kMGT]i?|Ki)?", "16Gi")}  # a pattern and an example
IMAGES = {"flow": "montessori-orchestrator:local", "stage": "montessori-worker-cpu:local"}
GPU_IMAGE = "montessori-worker-gpu:local"
Kind = Literal["process", "docker", "kubernetes"]


@dataclass(frozen=True)
class DeployOptions:
    """The options of the command, with the defaults for a new server."""

    kind: Kind = "process"
    pool: str = "montessori"
    at_once: int | None = None  # tasks at once in the pool; default: as many as this machine can run
    gpus: int = 0  # for one task
    image: str = IMAGES["flow"]  # for a run
    stage_image: str | None = None  # for a task
    network: str | None = None  # Docker's network
    memory: str | None = None  # for one task
    store: str | None = None
    config: str = "tiny"
    nightly: str = OFF  # cron; when off, the schedule is paused
    notify: str = OFF  # a block: type/name


def deploy(**fields: Any) -> list[str]:
    """Register everything with these options, the fields of DeployOptions, and return a line for each thing.

    A field that is not given keeps its value on the server, or else the default. Raises InputError when there is no
    server, or when the server refuses.
    """
    if not PREFECT_API_URL.value():
        raise InputError(
            "PREFECT_API_URL is not set; give the address of the Prefect server, for example http://127.0.0.1:4200/api"
        )
    pool = fields.get("pool", DeployOptions.pool)
    if not pool or set(pool) & set("/%&<>"):
        raise InputError(f"--pool {pool!r}: expected a name without / % & < >")
    with connected() as client:
        options = DeployOptions(**{**_present_fields(client, pool, fields.get("gpus")), **fields})
        _check(options)
        return list(_register(client, options))


def _present_fields(client: SyncPrefectClient, pool: str, gpus: int | None) -> dict[str, Any]:
    """Return the fields of DeployOptions on the server. The image for GPUs does not serve tasks without GPUs."""
    present: dict[str, Any] = {"notify": automations.notified_block(client)}
    with suppress(ObjectNotFound):
        night = client.read_deployment_by_name("teacher-refresh/teacher-refresh")
        present["nightly"] = next(iter(_active(night.schedules)), None)
    with suppress(ObjectNotFound):
        work_pool = client.read_work_pool(pool)
        variables = work_pool.base_job_template["variables"]["properties"]
        networks = variables.get("networks", {}).get("default", [])
        present |= {"kind": work_pool.type, "network": next(iter(networks), None)}
        present["at_once"] = client.read_work_queue_by_name(QUEUE, work_pool_name=pool).concurrency_limit
        run = client.read_deployment_by_name("montessori/montessori")
        tasks = client.read_deployment_by_name("stage/stage")
        if run.work_pool_name == pool:
            present |= {name: run.parameters.get(name) for name in ("config", "store")}
            job = tasks.job_variables
            present |= {"image": run.job_variables.get("image"), "memory": job.get("mem_limit", job.get("memory"))}
            present["gpus"] = job.get("gpus", len(job.get("device_requests", [])))
            if gpus is None or bool(gpus) == bool(present["gpus"]):
                present["stage_image"] = job.get("image")
    return {name: value for name, value in present.items() if value is not None}


def _active(schedules: list[DeploymentSchedule]) -> Iterator[str]:
    """Yield the cron expressions of the active schedules."""
    for entry in schedules:
        if entry.active and isinstance(entry.schedule, CronSchedule):
            yield entry.schedule.cron


def _check(options: DeployOptions) -> None:
    """Raise InputError that names the option with a wrong value."""
    if options.at_once is not None and options.at_once < 1:
        raise InputError(f"--at-once {options.at_once}: expected 1 or more")
    if options.gpus < 0:
        raise InputError(f"--gpus {options.gpus}: expected 0 or more")
    if options.gpus and options.kind == "docker" and options.at_once is None and not gpus():
        raise InputError("--gpus: no GPU is seen from here, so add --at-once with how many the workers' machines have")
    sizes = [SIZES[options.kind]] if options.kind in SIZES else list(SIZES.values())
    if options.memory and not any(re.fullmatch(form, options.memory) for form, _ in sizes):
        examples = " or ".join(example for _, example in sizes)
        raise InputError(f"--memory {options.memory}: expected a size, for example {examples}")
    shipped.path_of(options.config, "settings", "--config")
    if options.store is not None:
        open_store(options.store)
        if options.kind != "process" and "://" not in options.store:
            raise InputError(f"--store {options.store}: {options.kind} workers share no folder; use s3://bucket/prefix")
    if options.nightly != OFF:
        _cron(options.nightly)


def _register(client: SyncPrefectClient, options: DeployOptions) -> Iterator[str]:
    block = automations.find_block(client, options.notify) if options.notify != OFF else None
    here = None if options.kind == "kubernetes" else tasks_at_once()  # a cluster has a scheduler of its own
    at_once = options.at_once or here
    _work_pool(client, options)
    _queue(client, options.pool, at_once)
    yield f"work pool   {options.pool} ({options.kind}), tasks at once: {at_once or 'no limit'}"
    job = _job(options, of_task=True)
    tasks = _deployment(client, options, stage, queue=QUEUE, parameters={}, job=job)
    yield "deployment  stage/stage"
    place = {} if options.kind == "process" else {"place": "pool"}
    places = {**place, **({"store": options.store} if options.store else {})}
    parameters = {"config": options.config, **places}
    deployment = partial(_deployment, client, options, queue="default", job=_job(options))
    runs = [deployment(montessori, parameters=parameters)]
    yield "deployment  montessori/montessori"
    for name, fields in METHODS.items():
        runs.append(deployment(montessori, parameters={**parameters, **fields}, name=name))
        yield f"deployment  montessori/{name}"
    runs.append(deployment(study, parameters=places))
    yield "deployment  study/study"
    runs.append(deployment(evaluate, parameters=places))
    yield "deployment  evaluate/evaluate"
    night = deployment(teacher_refresh, parameters=parameters, alone=True)
    nightly = options.nightly != OFF
    _schedule(client, night, _cron(options.nightly if nightly else NIGHTLY), active=nightly)
    yield f"deployment  teacher-refresh/teacher-refresh, {options.nightly if nightly else 'no schedule'}"
    for name in automations.register(
        client, runs=[*runs, night], tasks=tasks, nightly=night if nightly else None, block=block
    ):
        yield f"automation  {name}"


def _work_pool(client: SyncPrefectClient, options: DeployOptions) -> None:
    template = json.loads((TEMPLATES / f"{options.kind}.json").read_text(encoding="utf-8"))
    variables = template["variables"]["properties"]
    if options.kind == "process":  # workers of this machine, so relative paths stay valid
        variables["command"]["default"] = f"{sys.executable} -P -m flows.deployment.engine"
        variables["working_dir"]["default"] = str(Path.cwd())
    if options.kind == "docker" and options.network:
        variables["networks"]["default"] = [options.network]
    try:
        pool = client.read_work_pool(options.pool)
    except ObjectNotFound:
        pool = client.create_work_pool(
            WorkPoolCreate(name=options.pool, type=options.kind, base_job_template=template, description="Montessori")
        )
    if pool.type != options.kind:
        raise InputError(f"--pool {options.pool}: it is of type {pool.type} already; give another name")
    if pool.base_job_template != template:
        client.update_work_pool(options.pool, WorkPoolUpdate(base_job_template=template))


def _queue(client: SyncPrefectClient, pool: str, at_once: int | None) -> None:
    """Create or update the queue of tasks. Its limit counts runs by state, so a killed run frees its slot."""
    try:
        queue = client.read_work_queue_by_name(QUEUE, work_pool_name=pool)
    except ObjectNotFound:
        queue = client.create_work_queue(name=QUEUE, work_pool_name=pool, concurrency_limit=at_once)
    if queue.concurrency_limit != at_once:
        client.update_work_queue(queue.id, concurrency_limit=at_once)


def _job(options: DeployOptions, of_task: bool = False) -> dict[str, Any]:
    """Return the job variables of a deployment that differ from the work pool's."""
    if options.kind == "process":
        return {}
    image = options.image
    if of_task:
        image = options.stage_image or (GPU_IMAGE if options.gpus else IMAGES["stage"])
    job: dict[str, Any] = {"image": image}
    if of_task and options.memory:
        job["mem_limit" if options.kind == "docker" else "memory"] = options.memory
    if of_task and options.gpus:
        all_of_them = [{"Driver": "nvidia", "Count": -1, "Capabilities": [["gpu"]]}]
        on_gpu_nodes = [{"key": "nvidia.com/gpu", "operator": "Exists"}]  # most clusters keep other pods off
        job |= (
            {"gpus": options.gpus, "tolerations": on_gpu_nodes}
            if options.kind == "kubernetes"
            else {"device_requests": all_of_them}
        )
    return job


def _deployment(
    client: SyncPrefectClient,
    options: DeployOptions,
    flow: Flow[..., Any],
    *,
    queue: str,
    parameters: dict[str, Any],
    job: dict[str, Any],
    alone: bool = False,
    name: str | None = None,
) -> UUID:
    """Register a deployment, by default under its flow's name. With `alone` a second run at once is cancelled."""
    limit = ConcurrencyLimitConfig(limit=1, collision_strategy=ConcurrencyLimitStrategy.CANCEL_NEW)
    deployment = RunnerDeployment.from_flow(
        flow,
        name or flow.name,
        work_pool_name=options.pool,
        work_queue_name=queue,
        parameters=parameters,
        job_variables=job,
        description=flow.description,
        concurrency_limit=limit if alone else None,
        entrypoint_type=EntrypointType.MODULE_PATH,
    )
    deployment.flow_name = flow.name
    for field in deployment._parameter_openapi_schema.properties.values():
        if "default" in field and field["default"] is None:
            del field["default"]  # the form would send None for an empty field, and the server would refuse it
    deployment.model_fields_set.discard("schedules")  # an empty list would delete the present schedules
    deployment_id = cast(UUID, deployment.apply())
    for schedule in client.read_deployment(deployment_id).schedules:
        if not alone:
            client.delete_deployment_schedule(deployment_id, schedule.id)
    return deployment_id


def _cron(nightly: str) -> CronSchedule:
    try:
        return CronSchedule(cron=nightly, timezone="UTC")
    except ValueError:
        raise InputError(
            f"--nightly {nightly!r}: expected five fields as cron has them, for example '0 2 * * *', or off"
        ) from None


def _schedule(client: SyncPrefectClient, deployment: UUID, wanted: CronSchedule, active: bool) -> None:
    """Make this the only schedule of the deployment."""
    kept = False
    for entry in client.read_deployment(deployment).schedules:
        if not kept and entry.schedule == wanted and entry.active == active:
            kept = True
        else:
            client.delete_deployment_schedule(deployment, entry.id)
    if not kept:
        client.create_deployment_schedules(deployment, [DeploymentScheduleCreate(schedule=wanted, active=active)])
