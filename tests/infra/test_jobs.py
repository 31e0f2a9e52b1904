"""The jobs and containers that workers make of the templates in infra/, by the workers' own code."""

import asyncio
import json
from types import SimpleNamespace
from typing import Any

import pytest
from cluster import (
    NOBODY,
    PASSWORD,
    PREFECTS_OWN,
    RUN,
    VERSIONS,
    Tree,
    called,
    container_of,
    posted,
    template,
    validate,
)
from docker.models.containers import _create_container_args
from prefect_docker.worker import DockerWorker, DockerWorkerJobConfiguration

from flows.deployment.deploy import GPU_IMAGE, IMAGES, DeployOptions, _job
from montessori.artifacts import Request
from tasks.runtime.pool import job_variables_of


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("of_stage", [True, False])
def test_the_api_knows_every_field_of_the_job_that_a_worker_posts(of_stage: bool, version: str) -> None:
    job = json.loads(json.dumps(posted(of_stage=of_stage)))
    for name in PREFECTS_OWN:
        del job["spec"]["template"]["spec"][name]
    validate(job, version)


# What a run and a stage get


def test_a_stage_gets_the_gpus_the_memory_and_the_rooms_that_it_was_given() -> None:
    job = posted()
    container = container_of(job)
    assert container["image"] == "registry/montessori-worker-gpu:1"
    assert container["resources"] == {
        "requests": {"cpu": "2", "memory": "96Gi", "nvidia.com/gpu": 2},
        "limits": {"cpu": "8", "memory": "96Gi", "nvidia.com/gpu": 2},
    }
    spec = job["spec"]["template"]["spec"]
    volumes = {volume["name"]: volume for volume in spec["volumes"]}
    mounts = {mount["mountPath"]: volumes[mount["name"]] for mount in container["volumeMounts"]}
    assert mounts["/dev/shm"]["emptyDir"] == {"medium": "Memory", "sizeLimit": "1Gi"}
    assert mounts["/scratch/huggingface"]["persistentVolumeClaim"] == {"claimName": "montessori-models"}
    assert mounts.keys() == {"/scratch", "/scratch/huggingface", "/dev/shm", "/tmp"}
    assert spec["tolerations"] == [{"key": "nvidia.com/gpu", "operator": "Exists"}]


def test_a_training_in_several_processes_gets_a_gpu_for_each_and_as_many_times_the_memory() -> None:
    means = {"training_processes": 8}
    request = Request(stage="student", version=1, settings={}, inputs={}, seed=0, means=means)
    usual = _job(DeployOptions(kind="kubernetes", gpus=1, memory="64Gi"), of_task=True)
    assert job_variables_of(request, usual) == {"gpus": 8, "memory": "512Gi"}
    assert job_variables_of(request, {"gpus": 1}) == {"gpus": 8, "memory": "64Gi"}
    assert job_variables_of(request.model_copy(update={"means": {}}), usual) is None
    assert job_variables_of(request, _job(DeployOptions(kind="docker", gpus=1), of_task=True)) is None


def test_a_run_asks_for_no_gpu_and_tolerates_no_taint_of_their_nodes() -> None:
    job = posted(of_stage=False)
    assert container_of(job)["resources"]["limits"]["nvidia.com/gpu"] == 0
    assert job["spec"]["template"]["spec"]["tolerations"] == []
    assert container_of(job)["image"] == "montessori-orchestrator:local"


def test_a_job_is_made_where_the_worker_may_and_finds_the_server() -> None:
    job, namespace = posted(), called("Namespace")
    assert job["metadata"]["namespace"] in namespace
    variables = {one["name"]: one for one in container_of(job)["env"]}
    assert variables["PREFECT_API_URL"]["value"] == "http://server:4200/api"
    assert variables["PREFECT__FLOW_RUN_ID"]["value"] == str(RUN.id)
    assert variables["PREFECT_FLOWS_HEARTBEAT_FREQUENCY"]["value"] == "30"
    assert container_of(job)["args"][0] == "prefect"


def test_a_job_reads_its_secrets_from_the_cluster() -> None:
    job = posted()
    assert PASSWORD not in json.dumps(job)
    variables = {one["name"]: one for one in container_of(job)["env"]}
    assert variables["PREFECT_API_AUTH_STRING"]["valueFrom"] == {
        "secretKeyRef": {"name": "prefect-client", "key": "PREFECT_API_AUTH_STRING"}
    }
    assert container_of(job)["envFrom"] == [{"secretRef": {"name": "montessori"}}]


def test_a_deployments_own_variables_come_beside_the_templates() -> None:
    variables = {one["name"]: one.get("value") for one in container_of(posted(env=("MONTESSORI_CACHE_GB=100",)))["env"]}
    assert variables["MONTESSORI_CACHE_GB"] == "100"
    assert variables["PREFECT_FLOWS_HEARTBEAT_FREQUENCY"] == "30"


def test_an_evicted_stage_is_started_again_and_an_autoscaler_lets_it_finish() -> None:
    job = posted()
    assert (job["spec"]["backoffLimit"], job["spec"]["template"]["spec"]["restartPolicy"]) == (0, "Never")
    variables = {one["name"]: one.get("value") for one in container_of(job)["env"]}
    assert variables["PREFECT_FLOW_RUN_EXECUTE_SIGTERM_BEHAVIOR"] == "reschedule"
    assert job["spec"]["template"]["metadata"]["annotations"] == {
        "cluster-autoscaler.kubernetes.io/safe-to-evict": "false",
        "karpenter.sh/do-not-disrupt": "true",
    }
    assert job["spec"]["ttlSecondsAfterFinished"] > 0


# Docker


def started(wanted: DeployOptions, of_stage: bool) -> Tree:
    """What the Docker worker asks of the Engine for a container, as the Engine's API has it."""
    found = asyncio.run(
        DockerWorkerJobConfiguration.from_template_and_values(
            template("docker"), _job(wanted, of_task=of_stage), client=NOBODY
        )
    )
    found.prepare_for_flow_run(RUN)
    engine: Any = SimpleNamespace(version=lambda: {"Version": "24.0.0"})  # all that is asked of one that is not there
    settings = DockerWorker(work_pool_name="montessori")._build_container_settings(engine, found)
    made: Tree = _create_container_args({**settings, "version": "1.41"})  # refuses what it does not know
    return made


@pytest.mark.parametrize("of_stage", [True, False])
def test_a_container_may_do_nothing_but_compute(of_stage: bool) -> None:
    made = started(DeployOptions(kind="docker", gpus=1, memory="16g", network="stack"), of_stage)
    host = made["host_config"]
    assert (host["CapDrop"], host["SecurityOpt"]) == (["ALL"], ["no-new-privileges"])
    assert host["ReadonlyRootfs"] and host["Init"] and host["PidsLimit"] == 4096
    assert not host.get("Privileged") and not host.get("CapAdd")
    assert not any(bind.startswith("/") for bind in host["Binds"])  # nothing of the machine, its socket least of all
    assert "User" not in made  # the image's, who is not root


def test_a_container_gets_the_gpus_and_the_memory_that_it_was_given() -> None:
    made = started(DeployOptions(kind="docker", gpus=1, memory="16g"), True)
    host = made["host_config"]
    (gpus,) = host["DeviceRequests"]
    assert (gpus["Driver"], gpus["Count"], gpus["Capabilities"]) == ("nvidia", -1, [["gpu"]])
    assert host["Memory"] == host["MemorySwap"] == 16 * 2**30
    assert host["ShmSize"] == 2**30
    assert host["Binds"] == ["montessori-scratch:/scratch"]
    assert made["image"] == GPU_IMAGE
    run = started(DeployOptions(kind="docker", gpus=1, memory="16g"), False)
    assert run["image"] == IMAGES["flow"] and not run["host_config"].get("DeviceRequests")


def test_a_container_gets_the_workers_keys_which_the_server_never_has(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "a secret")
    monkeypatch.delenv("HF_TOKEN", raising=False)
    variables = started(DeployOptions(kind="docker"), True)["environment"]
    assert variables["AWS_SECRET_ACCESS_KEY"] == "a secret"
    assert not variables["HF_TOKEN"]
    assert "a secret" not in json.dumps(template("docker"))
