"""Runs in containers whose stages, servers and worker are killed, and which leave the same bytes."""

import logging
import random
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest
from chaos import (
    EARLY,
    Deed,
    Harm,
    check_whole,
    endured,
    started_in_sessions,
    undisturbed,  # noqa: F401
    upload,
)
from harness import CONFIG, FOUR, Contents, command
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_URL, temporary_settings
from s3 import BUCKET
from seeds import seeds
from stack import DOCKER, IMAGES, TAG, Stack, answers, done, inside

from tasks.runtime.pool import call_with_retries

pytestmark = [pytest.mark.long, pytest.mark.xdist_group("docker")]
SEEDS = seeds(1)
SERVICES = ("postgres", "redis", "s3", "server", "services", "worker")
SETTINGS = "/scratch/micro.yaml"  # in the volume of runs and stages
log = logging.getLogger(__name__)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_run_in_containers_is_completed_with_the_same_bytes_whatever_is_killed(
    seed: int,
    stack: Stack,
    environment: dict[str, str],
    four: Path,
    undisturbed: Contents,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in {**stack.environment, "MONTESSORI_CACHE": str(tmp_path / "onlooker")}.items():
        monkeypatch.setenv(name, value)
    ready = partial(wait_until_healthy, stack)
    ready()
    draw, prefix = random.Random(seed), f"chaos-{uuid.uuid4().hex}"
    uri = f"s3://{BUCKET}/{prefix}"
    upload(four, stack.client(), BUCKET, prefix)
    ids = {service: container["Id"] for service, container in stack.containers().items()}
    deeds: list[Deed] = [
        (draw.choice(EARLY), "S3 server killed", lambda _: restart_containers(ids["s3"])),
        (draw.choice(EARLY), "Prefect server killed", lambda _: restart_containers(ids["server"])),
    ]
    if seed % 2 == 0:  # started as a person does in the UI
        what = "the run's own container and the worker killed"
        deed = lambda run: restart_containers(*run.containers(), ids["worker"])  # noqa: E731
        started = deployed_runs(stack, uri)
    else:
        what, deed = "worker killed", lambda _: restart_containers(ids["worker"])
        own = {**environment, **stack.environment, "MONTESSORI_CACHE": str(tmp_path / "cache")}
        words = command("run", CONFIG, "--place", "pool", "--store", uri, *FOUR)
        started = started_in_sessions(words, own, tmp_path / "run.log")
    deeds.append((draw.choice(EARLY[1:]), what, deed))
    harm = Harm(draw, deeds, lambda _: kill_a_stage_container(draw), draw.randint(2, 4), tmp_path / "story")
    with started as start:
        again = endured(start, harm, uri, ready)
    log.info("in containers, seed %d: started again %d times: %s", seed, again, harm.told())
    check_whole(uri, stack.contents(prefix), undisturbed)


def kill_a_stage_container(draw: random.Random) -> str | None:
    """Kill one of the containers in which a stage is at work; its name, or None where there is none."""
    image = f"ancestor={IMAGES}-worker-cpu:{TAG}"
    lines = done(DOCKER, "ps", "--filter", image, "--format", "{{.ID}} {{.Names}}").splitlines()
    if not lines:
        return None
    chosen, name = draw.choice(lines).split()
    return f"{name} killed" if answers(DOCKER, "kill", chosen) else None  # else it has just ended


def wait_until_healthy(stack: Stack) -> None:
    for service in SERVICES:
        stack.wait_healthy(service)


def restart_containers(*ids: str) -> None:
    """Kill containers, and start the last of them again."""
    done(DOCKER, "kill", *ids)
    done(DOCKER, "start", ids[-1])


class DeployedRun:
    """A run of the deployment, as a person starts it in the UI, followed as its flow run."""

    def __init__(self, client: SyncPrefectClient, uri: str):
        self._client = client
        asked = {"config": SETTINGS, "store": uri, "overrides": list(FOUR[1::2])}
        deployment = call_with_retries(lambda: client.read_deployment_by_name("montessori/montessori"))
        self._id = call_with_retries(lambda: client.create_flow_run_from_deployment(deployment.id, parameters=asked)).id

    def poll(self) -> int | None:
        """0 when it is completed, 1 when it has failed; one that has crashed is started again by an automation."""
        state = call_with_retries(lambda: self._client.read_flow_run(self._id)).state
        return {"COMPLETED": 0, "FAILED": 1, "CANCELLED": 1}.get(state.type.value) if state else None

    def kill(self) -> None:
        done(DOCKER, "kill", *self.containers())

    def containers(self) -> list[str]:
        """Those in which it is at work, without its stages."""
        return done(DOCKER, "ps", "--quiet", "--filter", f"label=io.prefect.flow-run-id={self._id}").split()


@contextmanager
def deployed_runs(stack: Stack, uri: str) -> Iterator[Callable[[], DeployedRun]]:
    """What starts deployed runs of the settings of the tests, which have to be where the runs' containers see them."""
    write = f"cat >{SETTINGS} <<'end'\n{CONFIG.read_text()}\nend"
    inside("orchestrator", "sh", "-c", write, options=("--volume", "montessori-scratch:/scratch"))
    own = {PREFECT_API_URL: stack.environment["PREFECT_API_URL"]}
    own[PREFECT_API_AUTH_STRING] = stack.environment["PREFECT_API_AUTH_STRING"]
    with temporary_settings(own), get_client(sync_client=True) as client:
        yield lambda: DeployedRun(client, uri)
