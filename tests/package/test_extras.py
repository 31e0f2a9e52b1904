"""A missing extra ends in one sentence with the `pip install` that mends it, and nothing is guessed."""

import re
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from flows.commands import cli
from montessori.artifacts import Folder, Request, open_store
from montessori.errors import InputError, StageError
from montessori.extras import LIBRARIES, require
from montessori.settings.execution import Compute
from tasks import registry
from tasks.runtime import worker
from tasks.runtime.local import local_executor

PROJECT = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
STUDENT = Request(stage="student", version=registry.TASKS["student"].version, settings={}, inputs={}, seed=0)


def without(monkeypatch: pytest.MonkeyPatch, *libraries: str) -> None:
    for library in libraries:
        monkeypatch.setitem(sys.modules, library, None)  # as Python itself marks what cannot be imported


def packages(extra: str) -> set[str]:
    """The packages that an extra names, itself or through other extras of ours."""
    found = set()
    for requirement in map(Requirement, PROJECT["optional-dependencies"][extra]):
        if requirement.name == "montessori":
            found |= {name for other in requirement.extras for name in packages(other)}
        else:
            found.add(requirement.name)
    return found


@pytest.mark.parametrize("extra", LIBRARIES)
def test_an_extra_brings_the_libraries_that_are_looked_for(extra: str) -> None:
    assert {name.replace("_", "-") for name in LIBRARIES[extra]} <= packages(extra)


def test_the_base_and_the_scores_bring_no_prefect() -> None:
    base = {Requirement(line).name for line in PROJECT["dependencies"]}
    assert not (base | packages("score")) & (packages("flows") | {"boto3", "openai"})
    assert "torch" not in base


def test_what_is_installed_is_not_complained_about() -> None:
    require("score", "train", purpose="a run")


def test_a_missing_library_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    without(monkeypatch, "trl")
    with pytest.raises(InputError) as caught:
        require("score", "train", purpose="a run")
    assert str(caught.value) == "a run needs trl, which is not installed: pip install 'montessori[train]'"


def test_several_missing_libraries_make_one_install(monkeypatch: pytest.MonkeyPatch) -> None:
    without(monkeypatch, "torch", "trl", "boto3")
    with pytest.raises(InputError) as caught:
        require("score", "train", "s3", purpose="a run")
    assert str(caught.value) == (
        "a run needs torch, trl and boto3, which are not installed: pip install 'montessori[train,s3]'"
    )


def test_a_folder_called_like_a_library_is_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delitem(sys.modules, "boto3", raising=False)
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    (tmp_path / "boto3").mkdir()
    with pytest.raises(InputError, match="boto3, which is not installed"):
        require("s3", purpose="a bucket")


def test_a_bucket_without_boto3(monkeypatch: pytest.MonkeyPatch) -> None:
    without(monkeypatch, "boto3")
    with pytest.raises(InputError, match=re.escape("store = s3://b/p needs boto3")):
        open_store("s3://b/p")


@pytest.mark.parametrize(
    ("words", "library", "install"),
    [
        (["score", "--student", "s", "--data", "d", "--reference", "r", "--out", "o.jsonl"], "torch", "score"),
        (["score", "--student=s", "--data=d", "--reference=r", "--out=o.jsonl", "--warm-up=3"], "trl", "score"),
        (["deploy"], "prefect", "flows"),
    ],
)
def test_a_command_says_it_before_anything_starts(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    words: list[str],
    library: str,
    install: str,
) -> None:
    without(monkeypatch, library)
    monkeypatch.chdir(tmp_path)
    assert cli.main(words) == 2
    said = capsys.readouterr().err
    assert f"needs {library}, which is not installed: pip install 'montessori[{install}]'" in said
    assert said.count("\n") == 1
    assert not any(tmp_path.iterdir())


def test_a_worker_says_it_and_is_not_asked_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    without(monkeypatch, "trl")
    store = Folder(tmp_path / "store")
    with pytest.raises(InputError, match=re.escape("needs trl, which is not installed: pip install 'montessori[train")):
        worker.run(STUDENT, store)
    assert worker.perform(STUDENT, store, threads=1) == 2


def test_a_worker_needs_only_what_its_task_uses(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    without(monkeypatch, *LIBRARIES["train"], "prefect", "boto3", "openai")
    seeds = Request(stage="seeds", version=1, settings={"pocket": 3}, inputs={"source": ["pocket"]}, seed=0)
    assert worker.run(seeds, Folder(tmp_path / "store"))["summary"] == {"rows": 3}


def test_a_listener_that_cannot_start_gives_its_own_reason_once(tmp_path: Path) -> None:
    """Its last line is the reason. No signal and no want of memory is made up, and there is no second try."""
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho \"ModuleNotFoundError: No module named 'tasks'\" >&2\nexit 1\n")
    python.chmod(0o755)
    request = STUDENT.model_copy(update={"settings": {"engine": "vllm"}})
    with local_executor(Folder(tmp_path / "store"), Compute(retries=2), str(python)) as local:
        local.submit(request)
        with pytest.raises(StageError) as caught:
            local.finish()
    assert "failed after one attempt: the process that starts tasks ended with code 1" in str(caught.value)
    assert "No module named 'tasks'" in str(caught.value)
    assert not re.search("signal|memory", str(caught.value))
