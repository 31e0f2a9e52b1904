"""`montessori run` as a user meets it: the whole method, its cache, its report, its replay."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from harness import CONFIG, Montessori, command, contents, summary, the_run


def lines(output: str) -> dict[str, str]:
    """Which stages the screen says are done or cached, by artifact."""
    return {address: state for state, address in re.findall(r"^(done|cached|failed) .*? (\S+/\S+)$", output, re.M)}


def test_a_run_measures_every_system_and_iteration(finished: Path) -> None:
    found = summary(finished)
    assert list(found["systems"]) == ["No fine-tuning", "Self-Instruct", "Montessori iteration 1"]
    for system in found["systems"].values():
        for metric in ("reference_loss", "held_out_loss", "accuracy"):
            assert {"mean", "standard_error", "n"} <= set(system[metric])
    assert found["systems"]["No fine-tuning"]["training_points"] == 0
    assert found["systems"]["Self-Instruct"]["training_points"] == 32
    assert found["systems"]["Montessori iteration 1"]["training_points"] == 32
    iteration = found["iterations"]["1"]
    assert iteration["pairs"] > 0
    assert 0 < iteration["positive_share"] < 1
    assert iteration["above"] == "momentum"
    assert 0 <= iteration["above_before"] <= 1
    assert 0 <= iteration["above_after"] <= 1
    cost = found["cost"]["instructions"]
    estimated, actual = cost["tokens"]
    assert actual > 0 and 0.2 < estimated / actual < 5
    assert cost["hours"][1] * 3600 == pytest.approx(found["seconds"]["instructions"], rel=0.01)
    assert set(found["seconds"]) >= {"instructions", "warm-up", "influence", "teacher", "student", "evaluation"}


HOOK = """
import os, sys
def hook(event, arguments):
    if event == "socket.bind" and sys._getframe(1).f_code.co_name == "_has_ipv6":
        return  # urllib3 looks whether this machine has IPv6; nothing listens
    if event == "socket.bind" or (event == "import" and arguments[0] == "prefect"):
        with open(os.environ["SEEN"], "a") as file:
            file.write(f"{event} {arguments}\\n")
sys.addaudithook(hook)
"""


def test_a_run_opens_no_port_and_does_not_import_prefect(
    finished: Path, environment: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "hook").mkdir()
    (tmp_path / "hook" / "sitecustomize.py").write_text(HOOK)
    path = os.pathsep.join([str(tmp_path / "hook"), environment.get("PYTHONPATH", "")])
    watched = {**environment, "PYTHONPATH": path, "SEEN": str(tmp_path / "seen")}
    copied = shutil.copytree(finished, tmp_path / "store")
    run = command("run", CONFIG, "--store", copied, "--set", "dpo.beta=0.3")
    done = subprocess.run(run, env=watched, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    assert "done" in lines(done.stdout).values()  # so tasks ran, in processes of their own
    assert not (tmp_path / "seen").exists()
    bind = "import socket; socket.socket().bind(('127.0.0.1', 0))"
    subprocess.run([sys.executable, "-c", bind], env=watched, check=True)
    assert (tmp_path / "seen").read_text().startswith("socket.bind")  # the hook does see it


def test_a_run_leaves_a_report_that_needs_nothing_else(finished: Path) -> None:
    run = the_run(finished)
    page = (run / "report.html").read_text()
    assert "Self-Instruct" in page and "Montessori iteration 1" in page
    assert not re.search(r'(?:src|href)="https?:', page)
    assert {p.suffix for p in (run / "figures").iterdir()} == {".png", ".svg"}


def test_the_same_command_finds_everything_done(here: Montessori, copy: Path) -> None:
    before = contents(copy)
    again = here("run", CONFIG, "--store", copy)
    assert again.returncode == 0, again.stderr
    assert set(lines(again.stdout).values()) == {"cached"}
    assert contents(copy) == before


def test_another_beta_redoes_only_what_follows_the_preferences(here: Montessori, copy: Path) -> None:
    changed = here("run", CONFIG, "--store", copy, "--set", "dpo.beta=0.2")
    assert changed.returncode == 0, changed.stderr
    done = {address.split("/")[0] for address, state in lines(changed.stdout).items() if state == "done"}
    cached = {address.split("/")[0] for address, state in lines(changed.stdout).items() if state == "cached"}
    assert done == {"teacher", "instructions", "responses", "tokens", "influence", "student", "evaluation", "runs"}
    assert cached >= {"seeds", "scratch-teacher", "warm-up", "reference-gradient", "influence", "preferences"}
    assert len(list((copy / "runs").iterdir())) == 2


def test_a_run_replays_from_its_run_yaml_to_the_same_bytes(
    here: Montessori, finished: Path, only_models: Path, tmp_path: Path
) -> None:
    shutil.copy(the_run(finished) / "run.yaml", tmp_path / "run.yaml")
    replay = here("run", tmp_path / "run.yaml", "--store", only_models)
    assert replay.returncode == 0, replay.stdout + replay.stderr
    assert contents(only_models) == contents(finished)
    assert the_run(only_models).name == the_run(finished).name


def test_every_artifact_tells_where_it_came_from(finished: Path) -> None:
    manifests = {m.parent: json.loads(m.read_text()) for m in finished.glob("*/*/manifest.json")}
    student = next(m for p, m in manifests.items() if p.parent.name == "student")
    seen, todo = set(), list(student["parents"])
    while todo:
        address = todo.pop()
        seen.add(address.split("/")[0])
        todo += manifests[finished / address]["parents"]
    assert {"responses", "instructions", "scratch-teacher", "seeds", "scratch-student"} <= seen
    assert student["versions"]["cpu"] == torch.backends.cpu.get_cpu_capability()
    assert {"fingerprint", "request", "versions", "seconds", "made_by", "files"} <= set(student)


def test_a_dry_run_shows_the_plan_and_starts_nothing(here: Montessori, finished: Path, tmp_path: Path) -> None:
    plan = here("run", CONFIG, "--store", tmp_path / "new", "--dry-run")
    assert plan.returncode == 0, plan.stderr
    assert "31 tasks and shards, 31 to do" in plan.stdout
    assert not (tmp_path / "new").exists()
    cached = here("run", CONFIG, "--store", finished, "--dry-run")
    assert "31 tasks and shards, 0 to do" in cached.stdout


@pytest.mark.parametrize("name", ["tinyllama-1.1b", "llama3-8b"])
def test_the_papers_settings_plan_without_a_gpu(here: Montessori, tmp_path: Path, name: str) -> None:
    config = CONFIG.parents[2] / "montessori/configs" / f"{name}.yaml"
    plan = here("run", config, "--store", tmp_path / "s", "--dry-run")
    assert plan.returncode == 0, plan.stderr
    assert "influence 8/8" in plan.stdout and "Nothing was started" in plan.stdout


@pytest.mark.parametrize(
    "change",
    [
        ["--set", "influence.estimator=exact", "--set", "preferences.split=momentum"],
        ["--set", "student.lora.rank=2", "--set", "teacher.lora.rank=2", "--set", "dpo.learning_rate=1e-3"],
    ],
    ids=["exact", "lora"],
)
def test_other_ways_to_run_come_to_an_end(here: Montessori, copy: Path, change: list[str]) -> None:
    done = here("run", CONFIG, "--store", copy, *change, "--set", "seed=0", "--set", "dpo.beta=0.3")
    assert done.returncode == 0, done.stdout + done.stderr
    tuned = [a for a, state in lines(done.stdout).items() if state == "done" and a.startswith("teacher/")]
    assert (copy / tuned[0] / "model" / "model.safetensors").is_file()
    assert not list((copy / tuned[0]).glob("**/adapter*"))


def test_the_stage_command_does_one_request_without_prefect(copy: Path, tmp_path: Path) -> None:
    import subprocess
    import sys

    manifest = next((copy / "split").glob("*/manifest.json"))
    tree = json.loads(manifest.read_text())
    (tmp_path / "request.json").write_text(json.dumps(tree["request"]))
    shutil.rmtree(manifest.parent)
    done = subprocess.run(
        [sys.executable, "-m", "tasks.runtime.worker", tmp_path / "request.json", "--store", copy],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(manifest.read_text())["files"] == tree["files"]
