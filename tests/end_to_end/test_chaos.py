"""Runs whose stages, servers and own processes are killed at random moments, and which end with the same bytes."""

import logging
import os
import random
import signal
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from chaos import (
    EARLY,
    Deed,
    Harm,
    check_whole,
    endured,
    kill_session,
    started_in_sessions,
    undisturbed,  # noqa: F401
    upload,
)
from harness import CONFIG, FOUR, Contents, command, contents_of_bucket
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
from seeds import seeds

pytestmark = pytest.mark.long
SEEDS = seeds(3)
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


@pytest.mark.parametrize("seed", SEEDS)
def test_a_run_is_completed_with_the_same_bytes_whatever_is_killed(
    seed: int,
    servers: Servers,
    four: Path,
    undisturbed: Contents,  # noqa: F811
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
