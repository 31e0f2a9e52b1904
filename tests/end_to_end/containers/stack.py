"""The images and the compose stack for tests, built and started by make; and a look into the store of the stack."""

import json
import os
import shutil
import subprocess
import urllib.request
from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

import boto3
import pytest
from harness import CONFIG, FOUR, Contents, command, contents_of_bucket, free_port
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.objects import FlowRun
from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_URL, temporary_settings
from prefect_server import eventually

from montessori.settings import files

ROOT = Path(__file__).resolve().parents[3]
# Debian's own client builds with BuildKit; one earlier in the path may lack its plugin.
DOCKER = "/usr/bin/docker" if Path("/usr/bin/docker").exists() else "docker"
IMAGES, TAG, PROJECT = "montessori", "test", "montessori-test"
BUCKET = "montessori"
TARGETS = ("orchestrator", "worker-cpu", "s3", "postgres", "redis")
LOCKED = ("--rm", "--read-only", "--tmpfs", "/tmp", "--cap-drop", "ALL", "--security-opt", "no-new-privileges")
BUILDING_S, STARTING_S, RUNNING_S = 1800, 300, 1800
# Keys that a user has and that no stage of the tests has a use for; to be found again wherever they get to.
PLANTED = {
    "HF_TOKEN": "hf_plantedKvUqWwTsXrYzAbCdEfGhIjKlMn",
    "OPENAI_API_KEY": "sk-planted-9f8e7d6c5b4a39281706f5e4d3c2",
}


def done(*words: str, timeout: float = 120, **more: Any) -> str:
    """What the command printed; fails the test, with all that it said, when it fails."""
    result = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False, timeout=timeout, **more)
    assert result.returncode == 0, f"{' '.join(words)}\n{result.stdout[-3000:]}\n{result.stderr[-6000:]}"
    return result.stdout


def answers(*words: str) -> bool:
    return (
        shutil.which(words[0]) is not None and subprocess.run(words, capture_output=True, check=False).returncode == 0
    )


def inside(target: str, *words: str, options: tuple[str, ...] = ()) -> str:
    """What a command printed in a container of an image."""
    return done(DOCKER, "run", *LOCKED, *options, f"{IMAGES}-{target}:{TAG}", *words)


@pytest.fixture(scope="session")
def images() -> None:
    """The images, built as `make images` does; the base by debootstrap where no registry is reached."""
    if not answers(DOCKER, "info"):
        pytest.skip("no Docker Engine answers")
    base = os.environ.get("BASE_IMAGE", "debian:bookworm-slim")
    if not answers(DOCKER, "image", "inspect", base) and not answers("timeout", "60", DOCKER, "pull", "--quiet", base):
        base = "montessori-base"
        if not answers(DOCKER, "image", "inspect", base):
            if os.getuid() or not shutil.which("debootstrap"):
                pytest.skip("no base image: no registry answers, and debootstrap needs to be here and root to run it")
            done("docker/base.sh", base, timeout=BUILDING_S, env={**os.environ, "DOCKER": DOCKER})
    done("make", "-j4", "images", f"DOCKER={DOCKER}", f"BASE_IMAGE={base}", f"TAG={TAG}", timeout=BUILDING_S)


class Stack:
    """The stack, on ports of its own."""

    def __init__(self, folder: Path):
        self.ui, self.s3, self.reports = free_port(), free_port(), free_port()
        self.file = folder / "env"
        self._environment = {
            **os.environ,
            **PLANTED,
            "MONTESSORI_UI_PORT": str(self.ui),
            "MONTESSORI_S3_PORT": str(self.s3),
            "MONTESSORI_REPORTS_PORT": str(self.reports),
            "MONTESSORI_S3_GIB": "10",
        }

    def make(self, verb: str, *more: str) -> str:
        options = [f"DOCKER={DOCKER}", f"TAG={TAG}", f"PROJECT={PROJECT}", f"ENV_FILE={self.file}"]
        return done("make", verb, *options, *more, timeout=STARTING_S, env=self._environment)

    @property
    def secrets(self) -> dict[str, str]:
        lines = self.file.read_text(encoding="utf-8").splitlines()
        return dict(line.split("=", 1) for line in lines)

    def client(self, secret: str | None = None) -> Any:
        """A client of the store, by default with its own credentials."""
        return boto3.client(
            "s3",
            endpoint_url=f"http://127.0.0.1:{self.s3}",
            region_name="us-east-1",
            aws_access_key_id=self.secrets["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=secret or self.secrets["AWS_SECRET_ACCESS_KEY"],
        )

    def ask(self, path: str, password: str | None = None) -> Any:
        """What the API says to a POST, or to a GET of its health."""
        request = urllib.request.Request(f"http://127.0.0.1:{self.ui}/api/{path}")
        if path != "health":
            request.data, request.headers = b"{}", {"Content-type": "application/json"}
        if password:
            request.add_header("Authorization", f"Basic {b64encode(password.encode()).decode()}")
        with urllib.request.urlopen(request, timeout=20) as answer:
            return json.load(answer)

    @property
    def environment(self) -> dict[str, str]:
        """What a command on this machine needs to use the stack, as `make up` says."""
        return {
            "PREFECT_API_URL": f"http://127.0.0.1:{self.ui}/api",
            "PREFECT_API_AUTH_STRING": self.secrets["MONTESSORI_PREFECT_AUTH"],
            "AWS_ENDPOINT_URL_S3": f"http://127.0.0.1:{self.s3}",
            "AWS_ACCESS_KEY_ID": self.secrets["AWS_ACCESS_KEY_ID"],
            "AWS_SECRET_ACCESS_KEY": self.secrets["AWS_SECRET_ACCESS_KEY"],
            "AWS_DEFAULT_REGION": "us-east-1",
            "MONTESSORI_REPORTS_URL": f"http://127.0.0.1:{self.reports}",
        }

    @contextmanager
    def prefect(self) -> Iterator[SyncPrefectClient]:
        """A client of Prefect's API, as its UI is one."""
        own = self.environment
        settings = {name: own[name.name] for name in (PREFECT_API_URL, PREFECT_API_AUTH_STRING)}
        with temporary_settings(settings), get_client(sync_client=True) as client:
            yield client

    def started_in_the_ui(self, **fields: Any) -> FlowRun:
        """A run of the form, ended."""
        with self.prefect() as client:
            run = self.start_in_the_ui(client, **fields)
            return eventually(lambda: _ended(client, run), RUNNING_S)

    def start_in_the_ui(self, client: SyncPrefectClient, **fields: Any) -> UUID:
        """A run of the form, its fields as given and the others left empty."""
        deployment = client.read_deployment_by_name("montessori/montessori")
        return client.create_flow_run_from_deployment(deployment.id, parameters=fields).id

    def contents(self, prefix: str) -> Contents:
        """What is below a prefix of the store."""
        return contents_of_bucket(self.client(), BUCKET, prefix)

    def containers(self) -> dict[str, Any]:
        """What Docker says of each service's container."""
        ids = done(DOCKER, "ps", "-aq", "--filter", f"label=com.docker.compose.project={PROJECT}").split()
        found = json.loads(done(DOCKER, "inspect", *ids))
        return {one["Config"]["Labels"]["com.docker.compose.service"]: one for one in found}

    def wait_healthy(self, service: str) -> None:
        """Return when its health check has passed since it was started."""
        name = self.containers()[service]["Name"].strip("/")
        look = f"until [ \"$({DOCKER} inspect -f '{{{{.State.Health.Status}}}}' {name})\" = healthy ]; do sleep 1; done"
        done("timeout", str(STARTING_S), "sh", "-c", look, timeout=STARTING_S + 10)


@pytest.fixture(scope="session")
def stack(images, tmp_path_factory) -> Iterator[Stack]:
    """The stack, up; gone with its data when the tests are through."""
    if not (shutil.which("docker-compose") or answers(DOCKER, "compose", "version")):
        pytest.skip("no Docker Compose")
    stack = Stack(tmp_path_factory.mktemp("stack"))
    stack.make("down", "ARGS=-v")  # tests that were killed have left theirs, with finished runs in its store
    try:
        stack.make("up")
        yield stack
    finally:
        stack.make("down", "ARGS=-v")


def _ended(client: SyncPrefectClient, run: UUID) -> FlowRun | None:
    found = client.read_flow_run(run)
    return found if found.state and found.state.is_final() else None


@dataclass(frozen=True)
class Ran:
    """A micro run of four shards, its stages in the stack's containers."""

    said: str  # on the screen
    cache: Path  # of this machine
    again: FlowRun  # the same settings in the form of the UI


@pytest.fixture(scope="session")
def ran(stack: Stack, environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Ran:
    """The run, in the stack's own store: from the command line here, then from the UI."""
    cache = tmp_path_factory.mktemp("run") / "cache"
    own = {**environment, **stack.environment, **PLANTED, "MONTESSORI_CACHE": str(cache)}
    words = command("run", CONFIG, "--place", "pool", "--store", "s3://montessori/store", *FOUR)
    ended = subprocess.run(words, env=own, capture_output=True, text=True, check=False, timeout=RUNNING_S)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    settings = files.load(CONFIG, list(FOUR[1::2])).model_dump(mode="json", exclude={"store", "compute"})
    again = stack.started_in_the_ui(overrides=[f"{key}={json.dumps(value)}" for key, value in settings.items()])
    return Ran(ended.stdout + ended.stderr, cache, again)
