"""The refresh on its schedule, and when nobody is left to tell of it: a real server, a worker, a teacher that waits.

The base teacher's place is an endpoint's, which answers only while it is not held: a night lasts until it is let go.
"""

import asyncio
import json
import os
import shutil
import signal
import subprocess
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from endpoint import Body, Endpoint, Reply
from harness import CONFIG, command
from prefect.automations import AutomationCore
from prefect.blocks.webhook import Webhook
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.objects import FlowRun
from prefect.events.filters import EventFilter, EventNameFilter, EventOccurredFilter, EventResourceFilter
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect_server import Prefect, environment_of, eventually, processes, serving
from teaching import answering, learning_from

from flows.deployment.automations import HEARTBEAT, OURS
from montessori.artifacts import Folder
from montessori.pocket import world
from montessori.refresh import champions
from montessori.settings import files

pytestmark = [pytest.mark.long, pytest.mark.xdist_group("nightly")]
REFRESH = "teacher-refresh/teacher-refresh"
# What has nothing to do with the question, so that whatever the tuned teacher answers is better.
NONSENSE = [{**row, "response": f"{n:x} " * 6} for n, row in enumerate(world.seeds(2000, seed=7))]
PROMISED = timedelta(minutes=2)  # from a kill that nobody reports to the state Crashed
NIGHT_S = 400


class Teacher(Endpoint):
    """Answers nonsense; while it is held, nobody gets an answer."""

    def __init__(self) -> None:
        self.held = False
        answer = answering(NONSENSE)

        async def when_let_go(body: Body, this: Endpoint) -> Reply:
            while self.held:
                await asyncio.sleep(0.1)
            return answer(body, this)

        super().__init__(when_let_go)


class Listener(ThreadingHTTPServer):
    """Takes down what it is told."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Hearing)
        self.told: list[str] = []


class Hearing(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        assert isinstance(self.server, Listener)
        self.server.told.append(self.rfile.read(int(self.headers["Content-Length"])).decode())
        self.send_response(204)
        self.end_headers()

    def log_message(self, *_: Any) -> None: ...


class Nights:
    """A server with a worker, whose nights begin with `teacher` and are kept in `store`."""

    def __init__(self, prefect: Prefect, client: SyncPrefectClient, teacher: Teacher, folder: Path, told: list[str]):
        self.prefect, self.client, self.teacher, self.told = prefect, client, teacher, told
        self.store = folder / "store"
        self.config = folder / "nightly.yaml"
        settings = files.load(CONFIG, learning_from(teacher.url))
        self.config.write_text(files.dump(settings.model_dump(mode="json")))
        self.worker = self.start_worker()

    def start_worker(self) -> "subprocess.Popen[bytes]":
        return self.prefect.start("worker", "start", "--pool", "montessori")

    def deploy(self, *more: str) -> None:
        words = command("deploy", "--config", self.config, "--store", self.store, *more)
        done = subprocess.run(words, env=self.prefect.environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr

    def start(self, **parameters: object) -> UUID:
        """A night that nobody scheduled."""
        found = self.client.read_deployment_by_name(REFRESH)
        return self.client.create_flow_run_from_deployment(found.id, parameters=parameters).id

    def scheduled(self, state: str) -> list[FlowRun]:
        """The nights that their schedule has begun and that are in `state`, the earliest first."""
        deployment = self.client.read_deployment_by_name(REFRESH).id
        found = [run for run in self.client.read_flow_runs(limit=200) if run.deployment_id == deployment]
        due = [run for run in found if run.auto_scheduled and run.state_name == state]
        return sorted(due, key=lambda run: str(run.expected_start_time))

    def ended(self, run: UUID) -> FlowRun:
        def final() -> FlowRun | None:
            found = self.client.read_flow_run(run)
            return found if found.state and found.state.is_final() and found.state_name != "Crashed" else None

        return eventually(final, NIGHT_S)

    def history(self) -> list[champions.Change]:
        return champions.history(Folder(self.store), "micro")

    def told_of(self, night: str) -> dict[str, Any]:
        (document,) = (self.store / ".refresh" / "micro").glob(f"{night}-*.json")
        found: dict[str, Any] = json.loads(document.read_text())
        return found


@pytest.fixture(scope="module")
def nights(environment: dict[str, str], finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nights]:
    home = tmp_path_factory.mktemp("nightly")
    for models in ("scratch-teacher", "scratch-student"):
        shutil.copytree(finished / models, home / "store" / models)
    listener = Listener()
    threading.Thread(target=listener.serve_forever, daemon=True).start()
    own = {**environment, "PREFECT_HOME": str(home), "OPENAI_API_KEY": "none"}
    with (
        Teacher() as teacher,
        serving(own, home) as prefect,
        temporary_settings({PREFECT_API_URL: prefect.api}),
        get_client(sync_client=True) as client,
    ):
        Webhook(url=f"http://127.0.0.1:{listener.server_port}").save("team")
        nights = Nights(prefect, client, teacher, home, listener.told)
        nights.deploy()
        yield nights
    listener.shutdown()
    listener.server_close()


def test_a_night_that_is_not_over_when_the_next_is_due_is_the_only_one_and_promotes_once(nights: Nights) -> None:
    nights.teacher.held = True
    nights.deploy("--nightly", "* * * * *")
    cancelled = eventually(lambda: next(iter(nights.scheduled("Cancelled")), None), 240)
    assert cancelled.state and cancelled.state.message == "Deployment concurrency limit reached."
    (first,) = nights.scheduled("Running")
    assert first.expected_start_time and cancelled.expected_start_time
    assert cancelled.expected_start_time - first.expected_start_time >= timedelta(minutes=1)
    nights.deploy("--nightly", "off")  # no night but this one
    nights.teacher.held = False

    over = nights.ended(first.id)
    assert over.state and over.state_name == "Completed", over.state
    night = first.expected_start_time.date().isoformat()
    document = nights.told_of(night)
    assert document["state"] == "promoted"
    (entry,) = nights.history()
    assert (entry.how, entry.made_by, entry.number) == ("test", document["refresh"], 1)
    assert entry.teacher.startswith("teacher/") and entry.replaces and entry.replaces.startswith("scratch-teacher/")
    assert nights.scheduled("Completed") == [over] and not nights.scheduled("Running")

    again = nights.ended(nights.start(night=night))  # as a schedule of every minute would have it
    assert again.state_name == "Completed"
    assert nights.history() == [entry]


def test_a_night_that_fails_says_so_in_the_ui_tells_somebody_and_leaves_the_champion(nights: Nights) -> None:
    nights.deploy("--notify", "webhook/team")
    before = nights.history()
    failed = nights.ended(nights.start(night="2026-01-02", overrides=["budget.tokens=1", "name=poor"]))
    assert failed.state and failed.state_name == "Failed"
    message = str(failed.state.message)
    assert message.startswith("the refresh of 2026-01-02 failed, and changed no champion: ")
    assert "budget.tokens" in message
    assert champions.history(Folder(nights.store), "poor") == [] and nights.history() == before

    told = eventually(lambda: next((said for said in nights.told if said.startswith("A run has Failed: ")), None), 60)
    name, reason, page = told.removeprefix("A run has Failed: ").split("\n")
    assert (name, reason) == (failed.name, message)
    assert page.endswith(f"/runs/flow-run/{failed.id}")


def test_a_night_killed_with_its_worker_is_crashed_within_two_minutes_and_goes_on(nights: Nights) -> None:
    """Both -9: nobody is left who could say that it is gone, and its place as the only one is given back."""
    nights.teacher.held = True
    night = nights.start(night="2026-01-03", overrides=["name=killed"])
    eventually(lambda: nights.teacher.under_way or None, 120)
    eventually(lambda: _heartbeats(nights.client, night) or None, 60)
    nights.prefect.kill(nights.worker)
    for pid in processes("python"):
        if environment_of(pid).get("PREFECT__FLOW_RUN_ID") == str(night):
            os.kill(pid, signal.SIGKILL)
    killed = datetime.now(UTC)

    crashed = eventually(lambda: _when(nights.client, night, "Crashed"), 180)
    assert killed < crashed < killed + PROMISED
    eventually(lambda: _when(nights.client, night, "AwaitingRetry"), 120)
    nights.worker = nights.start_worker()
    nights.teacher.held = False
    over = nights.ended(night)
    assert (over.state_name, over.run_count) == ("Completed", 2), over.state
    (entry,) = champions.history(Folder(nights.store), "killed")
    assert entry.how == "test"


def _heartbeats(client: SyncPrefectClient, run: UUID) -> int:
    wanted = EventFilter(
        event=EventNameFilter(name=[HEARTBEAT]),
        resource=EventResourceFilter(id=[f"prefect.flow-run.{run}"]),
        occurred=EventOccurredFilter(since=datetime.now(UTC) - timedelta(hours=1)),
    )
    return int(client.read_events(filter=wanted, limit=1).total)


def _when(client: SyncPrefectClient, run: UUID, state: str) -> datetime | None:
    """When it first came into that state, by the server's clock."""
    return next((found.timestamp for found in client.read_flow_run_states(run) if found.name == state), None)


def test_somebody_hears_of_a_refresh_that_did_not_happen(nights: Nights) -> None:
    nights.deploy("--nightly", "0 0 29 2 *", "--notify", "webhook/team")
    (found,) = nights.client.read_automations_by_name(OURS + "tell of a refresh that did not happen")
    tree = found.model_dump(exclude={"id", "owner_resource"})
    tree["trigger"] |= {"within": timedelta(seconds=10)}  # of 26 hours
    nights.client.update_automation(found.id, AutomationCore.model_validate(tree))
    eventually(lambda: "No teacher-refresh was completed in 26 hours" in nights.told or None, 120)
    nights.deploy()  # what is not named stays
    assert nights.client.read_automations_by_name(found.name)
    nights.deploy("--nightly", "off")
    assert not nights.client.read_automations_by_name(found.name)
