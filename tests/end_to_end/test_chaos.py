"""Runs whose stages, servers and own processes are killed at random moments, and which end with the same bytes."""

import logging
import os
import random
import signal
import subprocess
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

import pytest
from chaos import EARLY, Deed, Harm, check_whole, endured, planned, upload
from harness import CONFIG, FOUR, Contents, command, contents, contents_of_bucket
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_URL, temporary_settings
from prefect_server import Prefect, serving
from s3 import (
    BUCKET,
    KEYS,
    Server,
    free_ports,
    kill_gateway,
    launch,
    s3_keys,  # noqa: F401
    skip_without_ceph,
    wait_until_ready,
)
from stack import DOCKER, IMAGES, TAG, Stack, answers, done, inside

from tasks.runtime.pool import patiently

pytestmark = pytest.mark.long
SEEDS, CONTAINER_SEEDS = 20, 3
SERVICES = ("postgres", "redis", "s3", "server", "services", "worker")
SETTINGS = "/scratch/micro.yaml"  # in the volume of runs and stages
log = logging.getLogger(__name__)


class Servers:
    """An S3 server and a Prefect server of one's own, to be killed."""

    def __init__(self, folder: Path, prefect: Prefect):
        self.s3, self.prefect, self._folder = Server(free_ports()), prefect, folder
        self._log = folder.with_name("s3.log")
        self._daemons = launch(folder, self.s3.port, self._log)

    def restart_s3(self, _: object) -> None:
        kill_gateway(self._daemons)
        self._daemons = launch(self._folder, self.s3.port, self._log)

    def restart_prefect(self, _: object) -> None:
        self.prefect.kill(self.prefect.server)
        self.prefect.server = self.prefect.launch_server()

    def wait_until_ready(self) -> None:
        wait_until_ready(self._folder, self._daemons, self._log)
        self.prefect.wait_until_ready()

    def end(self) -> None:
        self._daemons.terminate()
        self._daemons.wait()


@pytest.fixture(scope="module")
def servers(environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    skip_without_ceph()
    folder = tmp_path_factory.mktemp("servers")
    with serving(environment | {"PREFECT_HOME": str(folder / "prefect")}, folder) as prefect:
        servers = Servers(folder / "s3", prefect)
        try:
            yield servers
        finally:
            servers.end()


@pytest.fixture(scope="module")
def undisturbed(four: Path) -> Contents:
    """What a run with four shards makes when nobody harms it."""
    made = contents(four)
    return {address: made[address] for address in planned()[:-1]}


@pytest.mark.parametrize("seed", range(SEEDS))
def test_a_run_is_completed_with_the_same_bytes_whatever_is_killed(
    seed: int,
    servers: Servers,
    four: Path,
    undisturbed: Contents,
    s3_keys: None,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MONTESSORI_CACHE", str(tmp_path / "onlooker"))
    servers.wait_until_ready()
    draw, prefix = random.Random(seed), f"seed-{seed}"
    uri, client = servers.s3.uri(prefix), servers.s3.client()
    upload(four, client, BUCKET, prefix)
    deeds: list[Deed] = [
        (draw.choice(EARLY), "S3 server killed", servers.restart_s3),
        (draw.choice(EARLY), "Prefect server killed", servers.restart_prefect),
    ]
    if seed % 3 == 0:
        deeds.append((draw.choice(EARLY[1:]), "command killed", kill_session))
    harm = Harm(draw, deeds, lambda run: kill_a_stage(run, draw), draw.randint(3, 7), tmp_path / "story")
    own = {**servers.prefect.environment, **KEYS, "MONTESSORI_CACHE": str(tmp_path / "cache")}
    with started_in_sessions(command("run", CONFIG, "--store", uri, *FOUR), own, tmp_path / "run.log") as start:
        again = endured(start, harm, uri, servers.wait_until_ready)
    log.info("seed %d: started again %d times: %s", seed, again, harm.told())
    check_whole(uri, contents_of_bucket(client, BUCKET, prefix), undisturbed)


@pytest.mark.xdist_group("docker")
@pytest.mark.parametrize("seed", range(CONTAINER_SEEDS))
def test_a_run_in_containers_is_completed_with_the_same_bytes_whatever_is_killed(
    seed: int,
    stack: Stack,
    environment: dict[str, str],
    four: Path,
    undisturbed: Contents,
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
    if seed == 0:  # started as a person does in the UI
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


@contextmanager
def started_in_sessions(
    words: list[str], environment: dict[str, str], log: Path
) -> Iterator[Callable[[], "subprocess.Popen[bytes]"]]:
    """What starts a command in a session of its own; inside the block, after which nothing of it is left."""
    sessions: list[subprocess.Popen[bytes]] = []

    def start() -> "subprocess.Popen[bytes]":
        with log.open("ab") as output:
            started = subprocess.Popen(words, env=environment, stdout=output, stderr=output, start_new_session=True)
        sessions.append(started)
        return started

    try:
        yield start
    finally:
        for session in sessions:
            kill_session(session)
            session.wait()


def kill_session(leader: "subprocess.Popen[bytes]") -> None:
    with suppress(ProcessLookupError):
        os.killpg(leader.pid, signal.SIGKILL)


def kill_a_stage(leader: "subprocess.Popen[bytes]", draw: random.Random) -> str | None:
    """Kill one of the stages at work, now and then what forks them; its name, or None where there is none."""
    asked = ["ps", "-s", str(leader.pid), "-o", "pid=,ppid=,args="]
    lines = subprocess.run(asked, capture_output=True, text=True, check=False).stdout.splitlines()
    parents = {int(pid): int(parent) for pid, parent, *words in map(str.split, lines) if "--listen" in words}
    stages = [pid for pid, parent in parents.items() if parent in parents]
    if not stages:
        return None
    chosen = draw.choice(stages)
    name = "listener"
    if draw.random() < 0.1:
        chosen = parents[chosen]
    with suppress(ProcessLookupError, FileNotFoundError):
        if chosen in stages:
            name = Path(f"/proc/{chosen}/fd/1").readlink().name.rpartition("-")[0]  # where its log goes
        os.kill(chosen, signal.SIGKILL)
        return f"{name} killed"
    return None


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
        deployment = patiently(lambda: client.read_deployment_by_name("montessori/montessori"))
        self._id = patiently(lambda: client.create_flow_run_from_deployment(deployment.id, parameters=asked)).id

    def poll(self) -> int | None:
        """0 when it is completed, 1 when it has failed; one that has crashed is started again by an automation."""
        state = patiently(lambda: self._client.read_flow_run(self._id)).state
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
