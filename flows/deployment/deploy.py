"""`montessori deploy`: the work pool, the deployments, their schedule and the automations, on a Prefect server.

In: what the options say.  Out: what was registered, in a few lines. Repeated, it changes only what they name: the rest
stays as the server has it. Schedules and automations of its own beside those are taken away. The flows' code is what
is installed where the workers run: nothing is uploaded or cloned.
"""

import json
import re
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
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
# Deployments of the flow `montessori` that begin with another method, and with which of its fields.
METHODS: dict[str, dict[str, Any]] = {
    "self-instruct": {"iterations": 0},
    "self-reward": {"method": "self-reward"},
    "llm2llm": {"method": "llm2llm"},
}
OFF = "off"
SIZES = {"docker": (r"\d+[bkmg]?", "16g"), "kubernetes": (r"\d+([kMGT]i?|Ki)?", "16Gi")}  # and an example
IMAGES = {"flow": "montessori-orchestrator:local", "stage": "montessori-worker-cpu:local"}
GPU_IMAGE = "montessori-worker-gpu:local"
Kind = Literal["process", "docker", "kubernetes"]


@dataclass(frozen=True)
class DeployOptions:
    """What to register."""

    kind: Kind = "process"
    pool: str = "montessori"
    at_once: int | None = None  # stages side by side in the pool; default: as this machine has room for
    gpus: int = 0  # of one stage
    image: str = IMAGES["flow"]  # of a run
    stage_image: str | None = None
    network: str | None = None  # of Docker
    memory: str | None = None  # of one stage
    store: str | None = None
    config: str = "tiny"
    nightly: str = OFF  # cron; the schedule is there in any case
    notify: str = OFF  # a block: type/name


def deploy(**asked: Any) -> list[str]:
    """Register what is `asked` for, fields of DeployOptions; a line for each thing.

    What is not asked for stays as the server has it; DeployOptions's defaults are for what it has not. Raises InputError when
    there is no server, or when it is refused.
    """
    if not PREFECT_API_URL.value():
        raise InputError(
            "PREFECT_API_URL is not set; give the address of the Prefect server, for example http://127.0.0.1:4200/api"
        )
    pool = asked.get("pool", DeployOptions.pool)
    if not pool or set(pool) & set("/%&<>"):
        raise InputError(f"--pool {pool!r}: expected a name without / % & < >")
    with connected() as client:
        wanted = DeployOptions(**{**_there(client, pool, asked.get("gpus")), **asked})
        _check(wanted)
        return list(_register(client, wanted))


def _there(client: SyncPrefectClient, pool: str, gpus: int | None) -> dict[str, Any]:
    """What the server has of DeployOptions's fields. The image of stages with GPUs is none for those without."""
    there: dict[str, Any] = {"notify": automations.told(client)}
    with suppress(ObjectNotFound):
        night = client.read_deployment_by_name("teacher-refresh/teacher-refresh")
        there["nightly"] = next(iter(_active(night.schedules)), None)
    with suppress(ObjectNotFound):
        found = client.read_work_pool(pool)
        variables = found.base_job_template["variables"]["properties"]
        there |= {"kind": found.type, "network": next(iter(variables.get("networks", {}).get("default", [])), None)}
        there["at_once"] = client.read_work_queue_by_name(QUEUE, work_pool_name=pool).concurrency_limit
        run = client.read_deployment_by_name("montessori/montessori")
        stages = client.read_deployment_by_name("stage/stage")
        if run.work_pool_name == pool:
            there |= {name: run.parameters.get(name) for name in ("config", "store")}
            job = stages.job_variables
            there |= {"image": run.job_variables.get("image"), "memory": job.get("mem_limit", job.get("memory"))}
            there["gpus"] = job.get("gpus", len(job.get("device_requests", [])))
            if gpus is None or bool(gpus) == bool(there["gpus"]):
                there["stage_image"] = job.get("image")
    return {name: value for name, value in there.items() if value is not None}


def _active(schedules: list[DeploymentSchedule]) -> Iterator[str]:
    """The crons of those that are on."""
    for found in schedules:
        if found.active and isinstance(found.schedule, CronSchedule):
            yield found.schedule.cron


def _check(wanted: DeployOptions) -> None:
    """Raise InputError that names the option, before anything is registered."""
    if wanted.at_once is not None and wanted.at_once < 1:
        raise InputError(f"--at-once {wanted.at_once}: expected 1 or more")
    if wanted.gpus < 0:
        raise InputError(f"--gpus {wanted.gpus}: expected 0 or more")
    if wanted.gpus and wanted.kind == "docker" and wanted.at_once is None and not gpus():
        raise InputError("--gpus: no GPU is seen from here, so add --at-once with how many the workers' machines have")
    sizes = [SIZES[wanted.kind]] if wanted.kind in SIZES else list(SIZES.values())
    if wanted.memory and not any(re.fullmatch(form, wanted.memory) for form, _ in sizes):
        examples = " or ".join(example for _, example in sizes)
        raise InputError(f"--memory {wanted.memory}: expected a size, for example {examples}")
    shipped.path_of(wanted.config, "settings", "--config")
    if wanted.store is not None:
        open_store(wanted.store)
        if wanted.kind != "process" and "://" not in wanted.store:
            raise InputError(f"--store {wanted.store}: {wanted.kind} workers share no folder; use s3://bucket/prefix")
    if wanted.nightly != OFF:
        _cron(wanted.nightly)


def _register(client: SyncPrefectClient, wanted: DeployOptions) -> Iterator[str]:
    block = automations.block(client, wanted.notify) if wanted.notify != OFF else None
    here = None if wanted.kind == "kubernetes" else tasks_at_once()  # a cluster has a scheduler of its own
    at_once = wanted.at_once or here
    _work_pool(client, wanted)
    _queue(client, wanted.pool, at_once)
    yield f"work pool   {wanted.pool} ({wanted.kind}), stages at once: {at_once or 'as many as come'}"
    stages = _deployment(client, wanted, stage, QUEUE, {}, _job(wanted, of_stage=True))
    yield "deployment  stage/stage"
    place = {} if wanted.kind == "process" else {"place": "pool"}
    there = {**place, **({"store": wanted.store} if wanted.store else {})}
    asked = {"config": wanted.config, **there}
    run = _deployment(client, wanted, montessori, "default", asked, _job(wanted))
    yield "deployment  montessori/montessori"
    others = []
    for name, means in METHODS.items():
        others.append(_deployment(client, wanted, montessori, "default", {**asked, **means}, _job(wanted), name=name))
        yield f"deployment  montessori/{name}"
    compared = _deployment(client, wanted, study, "default", there, _job(wanted))
    yield "deployment  study/study"
    measured = _deployment(client, wanted, evaluate, "default", there, _job(wanted))
    yield "deployment  evaluate/evaluate"
    night = _deployment(client, wanted, teacher_refresh, "default", asked, _job(wanted), alone=True)
    nightly = wanted.nightly != OFF
    _schedule(client, night, _cron(wanted.nightly if nightly else NIGHTLY), active=nightly)
    yield f"deployment  teacher-refresh/teacher-refresh, {wanted.nightly if nightly else 'no schedule'}"
    for name in automations.register(
        client, [run, *others, compared, measured, night], stages, night if nightly else None, block
    ):
        yield f"automation  {name}"


def _work_pool(client: SyncPrefectClient, wanted: DeployOptions) -> None:
    template = json.loads((TEMPLATES / f"{wanted.kind}.json").read_text(encoding="utf-8"))
    variables = template["variables"]["properties"]
    if wanted.kind == "process":  # workers of this machine, where relative paths mean the same as here
        variables["command"]["default"] = f"{sys.executable} -P -m flows.deployment.engine"
        variables["working_dir"]["default"] = str(Path.cwd())
    if wanted.kind == "docker" and wanted.network:
        variables["networks"]["default"] = [wanted.network]
    try:
        found = client.read_work_pool(wanted.pool)
    except ObjectNotFound:
        found = client.create_work_pool(
            WorkPoolCreate(name=wanted.pool, type=wanted.kind, base_job_template=template, description="Montessori")
        )
    if found.type != wanted.kind:
        raise InputError(f"--pool {wanted.pool}: it is of type {found.type} already; give another name")
    if found.base_job_template != template:
        client.update_work_pool(wanted.pool, WorkPoolUpdate(base_job_template=template))


def _queue(client: SyncPrefectClient, pool: str, at_once: int | None) -> None:
    """The queue of stages. Its limit counts runs by their state, so that a killed one gives its place back."""
    try:
        queue = client.read_work_queue_by_name(QUEUE, work_pool_name=pool)
    except ObjectNotFound:
        queue = client.create_work_queue(name=QUEUE, work_pool_name=pool, concurrency_limit=at_once)
    if queue.concurrency_limit != at_once:
        client.update_work_queue(queue.id, concurrency_limit=at_once)


def _job(wanted: DeployOptions, of_stage: bool = False) -> dict[str, Any]:
    """The job variables of a deployment: those that differ from the work pool's."""
    if wanted.kind == "process":
        return {}
    image = wanted.image
    if of_stage:
        image = wanted.stage_image or (GPU_IMAGE if wanted.gpus else IMAGES["stage"])
    job: dict[str, Any] = {"image": image}
    if of_stage and wanted.memory:
        job["mem_limit" if wanted.kind == "docker" else "memory"] = wanted.memory
    if of_stage and wanted.gpus:
        all_of_them = [{"Driver": "nvidia", "Count": -1, "Capabilities": [["gpu"]]}]
        on_gpu_nodes = [{"key": "nvidia.com/gpu", "operator": "Exists"}]  # which most clusters keep others off
        job |= (
            {"gpus": wanted.gpus, "tolerations": on_gpu_nodes}
            if wanted.kind == "kubernetes"
            else {"device_requests": all_of_them}
        )
    return job


def _deployment(
    client: SyncPrefectClient,
    wanted: DeployOptions,
    flow: Flow[..., Any],
    queue: str,
    parameters: dict[str, Any],
    job: dict[str, Any],
    alone: bool = False,
    name: str | None = None,
) -> UUID:
    """A deployment, by default named as its flow; `alone`: a second run at the same time is cancelled."""
    limit = ConcurrencyLimitConfig(limit=1, collision_strategy=ConcurrencyLimitStrategy.CANCEL_NEW)
    made = RunnerDeployment.from_flow(
        flow,
        name or flow.name,
        work_pool_name=wanted.pool,
        work_queue_name=queue,
        parameters=parameters,
        job_variables=job,
        description=flow.description,
        concurrency_limit=limit if alone else None,
        entrypoint_type=EntrypointType.MODULE_PATH,
    )
    made.flow_name = flow.name
    for field in made._parameter_openapi_schema.properties.values():
        if "default" in field and field["default"] is None:
            del field["default"]  # the form would send it for a field left empty, and the server refuse it
    made.model_fields_set.discard("schedules")  # sent as an empty list, it would remove what is there
    deployment_id = cast(UUID, made.apply())
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
    """Make this the deployment's one schedule."""
    kept = False
    for found in client.read_deployment(deployment).schedules:
        if not kept and found.schedule == wanted and found.active == active:
            kept = True
        else:
            client.delete_deployment_schedule(deployment, found.id)
    if not kept:
        client.create_deployment_schedules(deployment, [DeploymentScheduleCreate(schedule=wanted, active=active)])
