"""The wheel in an empty folder, without the clone: each extra does what it is for, by the names that ship with it."""

import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from environments import ROOT, Environment, build_wheel
from prefect_server import Prefect, eventually

from montessori.artifacts import Folder, Request

pytestmark = pytest.mark.long
POINTS = [
    {"instruction": f"Name the number after {n}.", "response": f"The number after {n} is {n + 1}."} for n in range(6)
]
TRAINERS = {"trl", "accelerate"}
SEEDS = Request(stage="seeds", version=1, settings={"pocket": 3}, inputs={"source": ["pocket"]}, seed=0)


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_wheel(tmp_path_factory.mktemp("wheel"))


@pytest.fixture
def environment(wheel: Path, tmp_path: Path) -> Callable[..., Environment]:
    def make(*extras: str) -> Environment:
        made = Environment(tmp_path, wheel, *extras)
        (made.work / "flows").mkdir()  # of the user's own, which must not be taken for ours
        for name in ("tasks.py", "montessori.py", "flows/__init__.py"):
            (made.work / name).write_text("raise SystemExit('a module of the working folder was imported')\n")
        return made

    return make


def test_the_base_plans_and_says_what_a_run_would_need(environment: Callable[..., Environment]) -> None:
    base = environment()
    assert not base.packages & ({"prefect", "torch", "transformers", "datasets", "boto3", "matplotlib"} | TRAINERS)
    for words, said in [
        (("run", "tiny", "--dry-run"), "scratch-teacher"),
        (("run", "llama3-8b", "--help"), "usage: montessori run"),
        (("study", "pocket", "--dry-run"), "influence"),
        (("evaluate", "someone/model", "--suite", "quick", "--dry-run"), "scorecard"),
        (("estimate", "llama3-8b"), "tokens"),
    ]:
        done = base.montessori(*words)
        assert done.returncode == 0, (words, done.stderr)
        assert said in done.stdout, (words, done.stdout)
    done = base.montessori("run", "tiny")
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert done.stderr.rstrip().endswith("pip install 'montessori[train]'")


def test_score_needs_no_prefect(
    environment: Callable[..., Environment], tiny_llama: Callable[..., object], tiny_tokenizer: object
) -> None:
    score = environment("score")
    assert not any(package.startswith("prefect") for package in score.packages)
    assert not score.packages & {"boto3", "openai", "fastapi", "sqlalchemy"}
    model = score.work / "student"
    tiny_llama().save_pretrained(model)
    tiny_tokenizer.save_pretrained(model)
    for name, rows in (("points", POINTS[:4]), ("reference", POINTS[4:])):
        (score.work / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    files = ("--student=student", "--data=points.jsonl", "--reference=reference.jsonl", "--out=scores.jsonl")
    done = score.montessori("score", *files)
    assert done.returncode == 0, done.stdout + done.stderr
    scores = [json.loads(line) for line in (score.work / "scores.jsonl").read_text().splitlines()]
    assert len(scores) == 4
    assert all(isinstance(row["influence"], float) for row in scores)


def test_train_runs_the_method_without_prefect(environment: Callable[..., Environment]) -> None:
    train = environment("train")
    assert not any(package.startswith("prefect") for package in train.packages)
    (train.work / "micro.yaml").write_bytes((ROOT / "tests" / "end_to_end" / "micro.yaml").read_bytes())
    done = train.montessori("run", "micro.yaml")
    assert done.returncode == 0, done.stdout + done.stderr
    (report,) = (train.work / "store").glob("runs/*/report.html")
    assert report.is_file()


@pytest.fixture
def prefect(environment: Callable[..., Environment], tmp_path: Path) -> Iterator[tuple[Environment, Prefect]]:
    made = environment("flows")
    server = Prefect(made.variables | {"PREFECT_HOME": str(tmp_path / "prefect")}, tmp_path)
    try:
        yield made, server
    finally:
        server.end()


def test_flows_deploys_to_a_server_and_its_worker_runs_our_code(prefect: tuple[Environment, Prefect]) -> None:
    """The worker's folder has a tasks.py and a flows/ of the user's own."""
    flows, server = prefect
    done = flows.montessori("deploy", PREFECT_API_URL=server.api)
    assert done.returncode == 0, done.stderr
    assert "deployment  montessori/montessori" in done.stdout
    command = [flows.python, "-P", "-m", "prefect"]
    parameters = json.dumps({"request": SEEDS.model_dump_json(), "store": str(flows.work / "store")})
    worker = subprocess.Popen(
        [*command, "worker", "start", "--pool", "montessori"], cwd=flows.work, env=server.environment
    )
    try:
        asked = [*command, "deployment", "run", "stage/stage", "--params", parameters]
        subprocess.run(asked, cwd=flows.work, env=server.environment, check=True)
        store = Folder(flows.work / "store")
        eventually(lambda: store.exists(SEEDS.address) or None, 120)
    finally:
        worker.terminate()
        worker.wait()
    assert store.manifest(SEEDS.address)["summary"] == {"rows": 3}


def test_the_wheel_has_its_licence_and_its_types(wheel: Path) -> None:
    listed = subprocess.run(
        ["python3", "-m", "zipfile", "-l", wheel], capture_output=True, text=True, check=True
    ).stdout
    for name in ("licenses/LICENSE", "montessori/py.typed", "tasks/py.typed", "flows/py.typed", "configs/tiny.yaml"):
        assert name in listed
    assert "tests/" not in listed
