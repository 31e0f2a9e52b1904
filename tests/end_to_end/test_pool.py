"""Stages as flow runs of a work pool: a real Prefect server, a real worker, killed where it hurts."""

import json
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from harness import CONFIG, Montessori, command, contents
from prefect import flow
from prefect.blocks.webhook import Webhook
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import FlowRun, State
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.states import AwaitingRetry, Crashed, Running
from prefect_server import Prefect, environment_of, eventually, parent, processes, serving

from montessori.artifacts import Folder, Request
from montessori.errors import InputError, StageError
from montessori.settings.execution import Compute

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def prefect(environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prefect]:
    """A server with everything deployed, and a worker."""
    home = tmp_path_factory.mktemp("pool")
    with serving(environment | {"PREFECT_HOME": str(home)}, home) as prefect:
        deployed = run(prefect, "deploy", "--at-once", 4)
        assert deployed.returncode == 0, deployed.stderr
        prefect.start("worker", "start", "--pool", "montessori")
        yield prefect


def run(prefect: Prefect, *arguments: object) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        command(*arguments), env=prefect.environment, capture_output=True, text=True, timeout=600, check=False
    )


def started(prefect: Prefect, *arguments: object) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        command(*arguments), env=prefect.environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def without(store: Path, *stages: str) -> Path:
    for stage in stages:
        shutil.rmtree(store / stage)
    return store


def a_stage_at_work(store: Path) -> int:
    """The process of a stage that a worker has started for `store`."""
    return eventually(lambda: next(iter(processes("tasks.runtime.worker", "--tied", str(store))), None), 120)


def flow_runs(prefect: Prefect, name: str) -> list[FlowRun]:
    with temporary_settings({PREFECT_API_URL: prefect.api}), get_client(sync_client=True) as client:
        return [found for found in client.read_flow_runs(limit=200) if found.name == name]


def states_of(prefect: Prefect, run: UUID) -> list[State[Any]]:
    with temporary_settings({PREFECT_API_URL: prefect.api}), get_client(sync_client=True) as client:
        return client.read_flow_run_states(run)


def table(prefect: Prefect) -> list[dict[str, Any]]:
    """The latest run's table of shards."""
    with temporary_settings({PREFECT_API_URL: prefect.api}), get_client(sync_client=True) as client:
        found = [artifact for artifact in client.read_artifacts(limit=200) if artifact.key == "shards"]
    rows: list[dict[str, Any]] = json.loads(str(max(found, key=lambda one: str(one.created)).data))
    return rows


def test_a_run_whose_stages_are_in_the_pool_makes_the_same_bytes(prefect: Prefect, finished: Path, copy: Path) -> None:
    without(copy, "warm-up", "influence", "preferences", "runs")
    shutil.rmtree(next((copy / "responses").iterdir()))  # where sampling's seed tells
    done = run(prefect, "run", CONFIG, "--store", copy, "--place", "pool")
    assert done.returncode == 0, done.stdout + done.stderr
    assert contents(copy) == contents(finished)
    shards = flow_runs(prefect, "Montessori iteration 1: influence 1/2")
    assert [shard.state_name for shard in shards] == ["Completed"]
    assert {"influence", "gpu"} < set(shards[0].tags)
    assert any(tag.startswith("micro: ") for tag in shards[0].tags)  # the run that asked for it
    assert not flow_runs(prefect, "Montessori iteration 1: preferences")  # needs no torch: made beside the flow
    rows = {row["shard"]: row for row in table(prefect)}
    made = rows["Montessori iteration 1: influence 1/2"]
    assert made["state"] == "done" and made["attempts"] == 1 and made["worker"]
    assert rows["seeds"]["state"] == "cached"


def test_a_shard_whose_flow_run_is_killed_is_tried_again(prefect: Prefect, finished: Path, copy: Path) -> None:
    title = "Montessori iteration 1: warm-up"
    before = len(flow_runs(prefect, title))
    without(copy, "warm-up", "runs")
    going = started(prefect, "run", CONFIG, "--store", copy, "--place", "pool", "--set", "compute.retry_delay_s=0.1")
    stage = a_stage_at_work(copy)
    os.kill(parent(stage), signal.SIGKILL)
    output, _ = going.communicate(timeout=300)
    assert going.returncode == 0, output
    assert stage not in processes("tasks.runtime.worker", str(copy))  # it ended with the run that had started it
    states = sorted(str(found.state_name) for found in flow_runs(prefect, title))
    assert len(states) == before + 2 and "Crashed" in states
    assert contents(copy) == contents(finished)


def test_a_stage_whose_own_process_is_killed_says_so(prefect: Prefect, copy: Path) -> None:
    without(copy, "warm-up", "runs")
    options = ["--place", "pool", "--set", "compute.retries=0"]
    going = started(prefect, "run", CONFIG, "--store", copy, *options)
    os.kill(a_stage_at_work(copy), signal.SIGKILL)
    output, _ = going.communicate(timeout=300)
    assert going.returncode == 1
    assert "warm-up failed after one attempt: killed by signal 9" in output
    assert "/runs/flow-run/" in output


def test_a_run_outlives_a_server_that_is_killed_and_started_again(prefect: Prefect, finished: Path, copy: Path) -> None:
    without(copy, "tokens", "influence", "preferences", "runs")
    going = started(prefect, "run", CONFIG, "--store", copy, "--place", "pool")
    a_stage_at_work(copy)
    prefect.kill(prefect.server)
    prefect.server = prefect.start_server()
    output, _ = going.communicate(timeout=400)
    assert going.returncode == 0, output
    assert contents(copy) == contents(finished)


def test_a_run_of_the_ui_that_is_killed_goes_on_by_itself(prefect: Prefect, finished: Path, copy: Path) -> None:
    without(copy, "influence", "preferences", "runs")
    with temporary_settings({PREFECT_API_URL: prefect.api}), get_client(sync_client=True) as client:
        deployment = client.read_deployment_by_name("montessori/montessori")
        asked = {"config": str(CONFIG), "place": "pool", "store": str(copy)}
        run_id = client.create_flow_run_from_deployment(deployment.id, parameters=asked).id
        a_stage_at_work(copy)
        (flow,) = (pid for pid in processes("flows.deployment.engine") if environment_of(pid).get(RUN) == str(run_id))
        os.kill(flow, signal.SIGKILL)
        ended = eventually(lambda: _completed(client.read_flow_run(run_id)), 300)
    states = [(state.timestamp, state.name, state.message) for state in states_of(prefect, run_id)]
    assert ended.run_count == 2, states
    assert contents(copy) == contents(finished)


def test_a_run_is_given_up_at_its_fourth_crash_each_told_of_twice(
    prefect: Prefect, monkeypatch: pytest.MonkeyPatch
) -> None:
    from flows.form import _stop_after_crashes

    with temporary_settings({PREFECT_API_URL: prefect.api}):
        with get_client(sync_client=True) as client:
            run_id = client.create_flow_run(flow(lambda: None, name="crashes")).id
            monkeypatch.setenv(RUN, str(run_id))
            for state in [Running(), Crashed(), Crashed()] * 3:
                client.set_flow_run_state(run_id, state, force=True)
            _stop_after_crashes()
            for state in (AwaitingRetry(), Running(), Crashed()):
                client.set_flow_run_state(run_id, state, force=True)
        with pytest.raises(StageError, match="crashed 4 times, so not started again"):
            _stop_after_crashes()


RUN = "PREFECT__FLOW_RUN_ID"


def _completed(found: FlowRun) -> FlowRun | None:
    assert found.state_name != "Failed", found.state
    return found if found.state_name == "Completed" else None


def test_an_evaluation_of_the_ui_measures_a_runs_students(prefect: Prefect, copy: Path, tmp_path: Path) -> None:
    rows = "".join(f"What is {n} + {n}?,{2 * n},{n},{n + 1},0\n" for n in range(4))
    (tmp_path / "gpqa.csv").write_text(
        "Question,Correct Answer,Incorrect Answer 1,Incorrect Answer 2,Incorrect Answer 3\n" + rows
    )
    benchmark = {"task": "gpqa_main_zeroshot", "metric": "acc,none", "file": str(tmp_path / "gpqa.csv")}
    (tmp_path / "sums.yaml").write_text(json.dumps({"name": "sums", "benchmarks": {"gpqa": benchmark}}))
    (run_,) = (copy / "runs").iterdir()
    asked = {"models": [run_.name], "suite": str(tmp_path / "sums.yaml"), "place": "pool", "store": str(copy)}
    with temporary_settings({PREFECT_API_URL: prefect.api}), get_client(sync_client=True) as client:
        deployment = client.read_deployment_by_name("evaluate/evaluate")
        started_ = client.create_flow_run_from_deployment(deployment.id, parameters=asked).id
        eventually(lambda: _completed(client.read_flow_run(started_)), 300)
    (card,) = (copy / "evaluations").iterdir()
    measured = json.loads((card / "metrics.json").read_text())["models"]
    assert {model: columns["gpqa"]["n"] for model, columns in measured.items()} == {
        "No fine-tuning": 4, "Self-Instruct": 4, "Montessori iteration 1": 4
    }  # fmt: skip
    assert {row["state"] for row in table(prefect)} == {"done"}
    with temporary_settings({PREFECT_API_URL: prefect.api}), get_client(sync_client=True) as client:
        (scores,) = [artifact for artifact in client.read_artifacts(limit=200) if artifact.key == "scores"]
    assert [row["model"] for row in json.loads(str(scores.data)) if row["column"] == "gpqa"] == list(measured)


def test_cancelling_the_command_cancels_its_stages(prefect: Prefect, copy: Path) -> None:
    long = ("--set", "warm_up.epochs=300")  # it would else be over before it can be cancelled
    going = started(prefect, "run", CONFIG, "--store", copy, "--place", "pool", *long)
    stage = a_stage_at_work(copy)
    going.send_signal(signal.SIGINT)
    output, _ = going.communicate(timeout=120)
    assert going.returncode == 1, output
    eventually(lambda: None if stage in processes("tasks.runtime.worker", str(copy)) else True, 60)
    names = eventually(lambda: _all_ended(flow_runs(prefect, "Montessori iteration 1: warm-up")), 60)
    assert "Cancelled" in names


def _all_ended(found: list[FlowRun]) -> list[str] | None:
    names = [str(one.state_name) for one in found]
    return names if all(one.state and one.state.is_final() for one in found) else None


def test_a_parent_that_comes_back_takes_the_child_at_work(prefect: Prefect, copy: Path) -> None:
    title = "Montessori iteration 1: warm-up"
    before = len(flow_runs(prefect, title))
    without(copy, "warm-up", "runs")
    first = started(prefect, "run", CONFIG, "--store", copy, "--place", "pool")
    a_stage_at_work(copy)
    first.kill()
    first.communicate()
    again = run(prefect, "run", CONFIG, "--store", copy, "--place", "pool")
    assert again.returncode == 0, again.stdout + again.stderr
    assert len(flow_runs(prefect, title)) == before + 1


def test_what_a_stage_says_of_its_input_comes_back_as_it_was(prefect: Prefect, finished: Path, tmp_path: Path) -> None:
    from tasks.runtime.pool import Pool

    manifest = next((finished / "evaluation").glob("*/manifest.json"))
    asked = Request.model_validate(json.loads(manifest.read_text())["request"])
    missing = {**asked.inputs, "student": [f"file:{tmp_path / 'nowhere'}#0"]}
    with temporary_settings({PREFECT_API_URL: prefect.api}):
        pool = Pool(Compute(place="pool"), "python")
        with pytest.raises(InputError, match="nowhere"):
            pool.run(asked.model_copy(update={"inputs": missing}), Folder(finished), lambda *_: None)
        pool.close()


def test_deploying_again_changes_nothing(prefect: Prefect) -> None:
    before = _registered(prefect)
    again = run(prefect, "deploy", "--at-once", 4)
    assert again.returncode == 0, again.stderr
    assert _registered(prefect) == before


def test_deploying_takes_away_what_is_no_longer_wanted(prefect: Prefect) -> None:
    from prefect.automations import AutomationCore, DoNothing
    from prefect.client.schemas.actions import DeploymentScheduleCreate
    from prefect.client.schemas.schedules import CronSchedule

    from flows.deployment.automations import OURS

    before = _registered(prefect)
    with temporary_settings({PREFECT_API_URL: prefect.api}), get_client(sync_client=True) as client:
        ours = next(one for one in client.read_automations() if one.name.startswith(OURS))
        old = AutomationCore(name=OURS + "of an older version", trigger=ours.trigger, actions=[DoNothing()])
        client.create_automation(old)
        nightly = client.read_deployment_by_name("teacher-refresh/teacher-refresh").id
        schedule = DeploymentScheduleCreate(schedule=CronSchedule(cron="0 5 * * *"), active=False)
        client.create_deployment_schedules(nightly, [schedule])
    assert _registered(prefect) != before
    assert run(prefect, "deploy", "--at-once", 4).returncode == 0
    assert _registered(prefect) == before


def test_what_a_deploy_does_not_name_stays(prefect: Prefect) -> None:
    first = _registered(prefect)
    with temporary_settings({PREFECT_API_URL: prefect.api}):
        Webhook(url="http://127.0.0.1:9").save("team")
    named = run(prefect, "deploy", "--nightly", "30 3 * * *", "--notify", "webhook/team", "--config", "alpaca-mini")
    assert named.returncode == 0, named.stderr
    before = _registered(prefect)
    assert before != first
    assert run(prefect, "deploy").returncode == 0
    assert _registered(prefect) == before
    off = run(prefect, "deploy", "--nightly", "off", "--notify", "off", "--config", "tiny")
    assert off.returncode == 0, off.stderr
    assert "no schedule" in off.stdout
    assert _without_ids(_registered(prefect)) == _without_ids(first)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--at-once", "0"), ("--pool", "a/b"), ("--pool", ""), ("--gpus", "-1"), ("--nightly", ""), ("--store", "s3://"),
        ("--store", ""), ("--nightly", "every day"), ("--notify", "slack-webhook/nobody"), ("--type", "docker"),
        ("--config", "nosuch"), ("--memory", "lots"),
    ],
)  # fmt: skip
def test_a_wrong_option_of_deploy_is_named_and_nothing_is_changed(prefect: Prefect, option: str, value: str) -> None:
    before = _registered(prefect)
    wrong = run(prefect, "deploy", option, value)
    assert wrong.returncode == 2, wrong.stderr
    (line,) = wrong.stderr.splitlines()
    assert line.startswith(f"montessori: {option}" if option not in ("--type", "--store") else "montessori: ")
    assert _registered(prefect) == before


def _without_ids(registered: list[str]) -> list[str]:
    """For what is made anew."""
    return sorted(re.sub(r"[0-9a-f]{8}-[0-9a-f-]{27}|\d{4}-\d\d-\d\dT[^\"]*", "", one) for one in registered)


def _registered(prefect: Prefect) -> list[str]:
    """All that a deploy makes, without times and runs at work; of no pull steps Prefect has two kinds."""
    with temporary_settings({PREFECT_API_URL: prefect.api}), get_client(sync_client=True) as client:
        found = [
            *client.read_deployments(),
            *client.read_work_pools(),
            *client.read_work_queues(),
            *client.read_automations(),
        ]
    hidden = {"updated", "last_polled", "status", "pull_steps", "active_slots"}
    return sorted(json.dumps(one.model_dump(mode="json", exclude=hidden), sort_keys=True) for one in found)


def test_a_pool_without_a_server_is_wrong_input(montessori: Montessori, tmp_path: Path) -> None:
    none = montessori("run", CONFIG, "--store", tmp_path, "--place", "pool")
    assert none.returncode == 2
    assert "PREFECT_API_URL is not set" in none.stderr
    assert montessori("deploy").returncode == 2


def test_a_server_that_is_not_there_is_said_in_a_sentence(environment: dict[str, str], tmp_path: Path) -> None:
    nobody = environment | {"PREFECT_API_URL": "http://127.0.0.1:1/api"}
    run = ["run", CONFIG, "--store", tmp_path]
    for words in (run, [*run, "--place", "pool"], ["deploy"]):
        done = subprocess.run(command(*words), env=nobody, capture_output=True, text=True, check=False)
        assert done.returncode == 2
        assert done.stderr.startswith("montessori: PREFECT_API_URL = http://127.0.0.1:1/api:")


def test_a_pool_of_containers_wants_a_store_that_they_reach(prefect: Prefect, tmp_path: Path) -> None:
    from prefect.client.schemas.actions import WorkPoolCreate

    with temporary_settings({PREFECT_API_URL: prefect.api}), get_client(sync_client=True) as client:
        client.create_work_pool(WorkPoolCreate(name="containers", type="docker", base_job_template={}))
        flow = client.create_flow_from_name("stage")
        client.create_deployment(flow, "elsewhere", work_pool_name="containers", entrypoint="flows.stage.stage")
    options = ["--place", "pool", "--set", "compute.deployment=stage/elsewhere"]
    refused = run(prefect, "run", CONFIG, "--store", tmp_path, *options)
    assert refused.returncode == 2
    assert "cannot reach a folder of this machine" in refused.stderr
    unknown = run(prefect, "run", CONFIG, "--place", "pool", "--set", "compute.deployment=stage/no")
    assert unknown.returncode == 2
    assert "`montessori deploy` registers it" in unknown.stderr
