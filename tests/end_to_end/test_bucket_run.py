"""A run whose store is a bucket on a real S3 server."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from harness import CONFIG, command, contents
from s3 import KEYS, Server, s3_keys, s3_server  # noqa: F401

from montessori.artifacts import Request, open_store
from montessori.settings.execution import Compute
from tasks.runtime.places import Processes, StageCrash


def test_a_run_in_a_bucket_makes_what_one_in_a_folder_does(
    finished: Path,
    environment: dict[str, str],
    s3_server: Server,  # noqa: F811
    s3_keys: None,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    uri = s3_server.uri("a run")
    machine = {**environment, **KEYS, "MONTESSORI_CACHE": str(tmp_path / "cache")}
    for state in ("done", "cached"):
        run = subprocess.run(
            command("run", CONFIG, "--store", uri),
            env=machine,
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )
        assert run.returncode == 0, run.stdout + run.stderr
        assert {found[1] for found in re.finditer(r"^(done|cached|failed) .*? \S+/\S+$", run.stdout, re.M)} == {state}
    monkeypatch.setenv("MONTESSORI_CACHE", str(tmp_path / "elsewhere"))
    store = open_store(uri)
    made = {m["address"]: {name: file["sha256"] for name, file in m["files"].items()} for m in store.manifests()}
    (page,) = store.addresses("runs")
    assert {address: files for address, files in made.items() if address != page} == contents(finished)
    assert (store.open(page) / "report.html").stat().st_size > 10_000
    assert store.names(".journals/") == []
    assert store.sweep(0, dry=True) == 0
    logs = {path.name for path in tmp_path.glob("cache/*/logs/*.log")}
    assert logs >= {address.replace("/", "-") + ".log" for address in store.addresses("teacher")}


def test_a_stage_that_crashes_names_its_log_on_this_machine(
    s3_server: Server,  # noqa: F811
    s3_keys: None,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MONTESSORI_CACHE", str(tmp_path / "cache"))
    store, place = open_store(s3_server.uri()), Processes(Compute(), sys.executable)
    wrong = Request(stage="split", version=1, settings={"nonsense": 1}, inputs={}, seed=0)
    try:
        with pytest.raises(StageCrash) as crash:
            place.run(wrong, store, lambda *_: None)
    finally:
        place.close()
    named = re.search(r"\(log: (.*\.log)\)", str(crash.value))
    assert named and Path(named[1]).is_relative_to(tmp_path / "cache")
    assert "nonsense" in Path(named[1]).read_text()
