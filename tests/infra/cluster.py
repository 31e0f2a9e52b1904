"""The manifests of infra/kubernetes, and the Jobs that a worker makes of the job template for Kubernetes.

The Jobs are made by the worker's own code; what it posts is taken down by a server that answers as the cluster's would.
"""

import asyncio
import json
import threading
import uuid
from collections.abc import Iterator
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.objects import FlowRun
from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_URL, temporary_settings
from prefect_kubernetes.worker import KubernetesWorker, KubernetesWorkerJobConfiguration

from flows.deployment.deploy import TEMPLATES, DeployOptions, _job

ROOT = Path(__file__).resolve().parents[2]
CLUSTER = ROOT / "infra" / "kubernetes"
RUN = FlowRun(id=uuid.uuid4(), flow_id=uuid.uuid4(), name="brave-otter")
NOBODY = PrefectClient("http://127.0.0.1:1/api")
PASSWORD = "montessori:a-password"
STAGE = DeployOptions(kind="kubernetes", gpus=2, memory="96Gi", stage_image="registry/montessori-worker-gpu:1")

Tree = dict[str, Any]


# The manifests


def documents(path: Path) -> list[Tree]:
    return [one for one in yaml.safe_load_all(path.read_text()) if one]


@cache
def applied() -> list[Tree]:
    """All that `kubectl apply -k` makes, but for what kustomize puts in."""
    return [one for path in files() for one in documents(path)]


def files() -> list[Path]:
    """The files that are applied."""
    found: list[Path] = []
    for kustomization in (CLUSTER / "kustomization.yaml", CLUSTER / "data" / "kustomization.yaml"):
        (about,) = documents(kustomization)
        found += [kustomization.parent / name for name in about["resources"]]
    return found


def called(kind: str) -> dict[str, Tree]:
    return {one["metadata"]["name"]: one for one in applied() if one["kind"] == kind}


def pods() -> dict[str, Tree]:
    """The pods' templates, by the name of what makes them."""
    kinds = ("Deployment", "StatefulSet", "Job")
    return {name: one["spec"]["template"] for kind in kinds for name, one in called(kind).items()}


def strings(tree: Any) -> Iterator[str]:
    if isinstance(tree, dict):
        yield from (one for value in tree.values() for one in strings(value))
    elif isinstance(tree, list):
        yield from (one for value in tree for one in strings(value))
    elif isinstance(tree, str):
        yield tree


VERSIONS = ["1.29", "1.37"]  # of the API: the oldest and the newest that are promised
# Prefect asks for these two in the pod, where Kubernetes does not know them: it passes over them, with a warning.
PREFECTS_OWN = ("parallelism", "completions")


def validate(document: Tree, version: str) -> None:
    """Raise kubernetes_validate.ValidationError for what the API of that version does not know."""
    kubernetes_validate.validate(document, version, strict=True)


# The jobs


class Cluster(ThreadingHTTPServer):
    """Takes down what is posted to it, and answers that it is made."""

    def __init__(self) -> None:
        self.posted: list[tuple[str, Tree]] = []
        super().__init__(("127.0.0.1", 0), Posting)


class Posting(BaseHTTPRequestHandler):
    server: Cluster

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.posted.append((self.path, body))
        name = body["metadata"]["generateName"] + "x1"
        answer = json.dumps({**body, "metadata": {**body["metadata"], "name": name}}).encode()
        self.send_response(201)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_: Any) -> None: ...


def worker_environment() -> dict[str, str]:
    """The variables of the worker's pod that are written down there."""
    (container,) = pods()["worker"]["spec"]["containers"]
    return {one["name"]: one["value"] for one in container["env"] if "value" in one}


@cache
def posted(wanted: DeployOptions = STAGE, of_stage: bool = True, env: tuple[str, ...] = ()) -> Tree:
    """The Job that the worker of infra/kubernetes makes for a run or a stage; `env`: NAME=value of a deployment."""
    cluster = Cluster()
    threading.Thread(target=cluster.serve_forever, daemon=True).start()
    values = _job(wanted, of_task=of_stage) | ({"env": dict(one.split("=", 1) for one in env)} if env else {})
    with pytest.MonkeyPatch.context() as patch:
        for name, value in worker_environment().items():
            if name.startswith("PREFECT_INTEGRATIONS_"):
                patch.setenv(name, value)
        api = worker_environment()["PREFECT_API_URL"]
        with temporary_settings({PREFECT_API_URL: api, PREFECT_API_AUTH_STRING: PASSWORD}):
            asyncio.run(_post(template("kubernetes"), values, f"http://127.0.0.1:{cluster.server_address[1]}"))
    cluster.shutdown()
    cluster.server_close()
    ((path, job),) = cluster.posted
    assert path == f"/apis/batch/v1/namespaces/{job['metadata']['namespace']}/jobs"
    return job


async def _post(base: Tree, values: Tree, host: str) -> None:
    values["cluster_config"] = {
        "context_name": "here",
        "config": {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "here",
            "contexts": [{"name": "here", "context": {"cluster": "here", "user": "here"}}],
            "clusters": [{"name": "here", "cluster": {"server": host}}],
            "users": [{"name": "here", "user": {}}],
        },
    }
    base["job_configuration"]["cluster_config"] = "{{ cluster_config }}"
    found = await KubernetesWorkerJobConfiguration.from_template_and_values(base, values, client=NOBODY)
    found.prepare_for_flow_run(RUN)
    worker = KubernetesWorker(work_pool_name="montessori", name="here")
    async with worker._get_configured_kubernetes_client(found) as client:
        await worker._create_job(found, client)


def template(kind: str) -> Tree:
    found: Tree = json.loads((TEMPLATES / f"{kind}.json").read_text())
    return found


def container_of(job: Tree) -> Tree:
    (container,) = job["spec"]["template"]["spec"]["containers"]
    return container


def everything_that_runs() -> dict[str, Tree]:
    """The pods of the manifests, and those of a run and a stage."""
    jobs = {"run": posted(of_stage=False), "stage": posted()}
    return {**pods(), **{name: job["spec"]["template"] for name, job in jobs.items()}}
