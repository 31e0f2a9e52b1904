"""The example of CONTRIBUTING.md: its three pieces of code are a whole task."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

import tasks
from flows.requests.builder import Address, Requests, Shards, Who
from flows.requests.steps import Steps
from montessori.artifacts import Folder
from montessori.data.rows import write_rows
from montessori.settings import files, shipped
from montessori.settings.execution import Compute
from tasks.registry import TASKS, Task
from tasks.runtime.local import LocalExecutor
from tasks.runtime.places import Inline

TEXT = (Path(__file__).resolve().parents[2] / "CONTRIBUTING.md").read_text(encoding="utf-8")
MODULE, ROW, METHOD = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
SETTINGS = files.load(shipped.CONFIGS / "tiny.yaml")


def test_the_example_of_contributing_is_a_task_that_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "measure_lengths.py").write_text(MODULE)
    monkeypatch.setattr(tasks, "__path__", [*tasks.__path__, str(tmp_path)])
    (name, row), *_ = eval(f"{{{ROW}}}", {"Task": Task}).items()
    monkeypatch.setitem(TASKS, name, row)
    method: dict[str, Any] = {"Shards": Shards, "Who": Who, "Address": Address}
    exec(METHOD, method)

    store = Folder(tmp_path / "store")
    with store.staging() as folder:
        rows = [{"id": str(n), "response": " ".join(["word"] * n)} for n in (0, 2, 4)]
        write_rows(folder / "pairs.parquet", rows)
        store.commit("responses/ab12", folder, {})
    steps = Steps(SETTINGS, {})
    address = method["lengths"](steps, ["responses/ab12"], Who("Self-Instruct"))
    executor = LocalExecutor(store, Inline(Compute()), Compute(retries=0))
    for request in steps.requests.values():
        executor.submit(request)
    executor.finish()

    assert json.loads((store.open(address) / "lengths.json").read_text()) == [2, 4]
    assert store.manifest(address)["summary"] == {"answers": 2, "median": 3}
    assert steps.requests[address].title == "Self-Instruct: lengths of answers"


def test_each_piece_of_the_example_is_short() -> None:
    assert len((MODULE + ROW + METHOD).splitlines()) <= 34


def test_an_example_request_has_a_fingerprint_of_its_settings() -> None:
    one, two = Requests(), Requests()
    first = one.add("points", {"limit": 1}, {"source": ["pocket"]}, seed=0)
    assert first != two.add("points", {"limit": 2}, {"source": ["pocket"]}, seed=0)
