"""A user's own tasks.py, flows/ or montessori.py in the working folder is not taken for ours."""

import json
from importlib.resources import files
from pathlib import Path

import pytest

from montessori.artifacts import Folder, Request
from montessori.settings.execution import Compute
from tasks.runtime import training_processes
from tasks.runtime.local import local_executor

TEMPLATES = Path(str(files("flows.deployment"))) / "job_templates"
SEEDS = Request(stage="seeds", version=1, settings={"pocket": 3}, inputs={"source": ["pocket"]}, seed=0)


@pytest.fixture
def working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with modules of our names, which end whoever imports them."""
    folder = tmp_path / "work"
    (folder / "flows").mkdir(parents=True)
    for name in ("tasks.py", "montessori.py", "flows/__init__.py"):
        (folder / name).write_text("raise SystemExit('a module of the working folder was imported')\n")
    monkeypatch.chdir(folder)
    return folder


def test_the_processes_of_a_run_import_ours(working_folder: Path) -> None:
    store = Folder(working_folder / "store")
    with local_executor(store, Compute(retries=0)) as local:
        local.submit(SEEDS)
        local.finish()
    assert store.manifest(SEEDS.address)["summary"] == {"rows": 3}


def test_the_processes_of_one_training_import_ours(working_folder: Path, tmp_path: Path) -> None:
    store = Folder(working_folder / "store")
    assert training_processes.run(SEEDS, store, tmp_path, threads=1, world_size=1) == {"rows": 3}


@pytest.mark.parametrize("kind", ["process", "docker", "kubernetes"])
def test_the_jobs_of_a_worker_import_ours(kind: str) -> None:
    template = json.loads((TEMPLATES / f"{kind}.json").read_text(encoding="utf-8"))
    variables = template["variables"]["properties"]
    environment = template["job_configuration"]["env"]
    if isinstance(environment, str):
        environment = variables["env"]["default"]
    assert environment["PYTHONSAFEPATH"] == "1"
    assert variables["command"].get("default", "python -P").startswith("python -P")
