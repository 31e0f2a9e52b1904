"""`python -m tasks.runtime.worker`: one request from a file, without Prefect."""

import json
from pathlib import Path

import pytest

from montessori.artifacts import Folder, Request
from tasks.runtime import worker

REQUEST = Request(stage="seeds", version=1, settings={"pocket": 12}, inputs={"source": ["pocket"]}, seed=3)


@pytest.mark.parametrize("wrapped", [False, True], ids=["request", "manifest"])
def test_it_does_what_a_request_or_a_manifest_asks(tmp_path: Path, wrapped: bool) -> None:
    tree = json.loads(REQUEST.model_dump_json())
    (tmp_path / "file.json").write_text(json.dumps({"request": tree} if wrapped else tree))
    store = Folder(tmp_path / "store")
    assert worker.main([str(tmp_path / "file.json"), "--store", str(store.root)]) == 0
    assert store.manifest(REQUEST.address)["summary"] == {"rows": 12}
    before = store.manifest(REQUEST.address)
    assert worker.main([str(tmp_path / "file.json"), "--store", str(store.root)]) == 0
    assert store.manifest(REQUEST.address) == before  # found done, not done again


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (None, "No such file"),
        ("{", "Expecting property name"),
        ("[]", "expected a JSON object"),
        ('{"request": 3}', "expected a JSON object"),
        ('{"stage": "seeds"}', "version is missing)"),
    ],
)
def test_what_is_no_request_is_said_in_a_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str | None, reason: str
) -> None:
    path = tmp_path / "file.json"
    if text is not None:
        path.write_text(text)
    assert worker.main([str(path), "--store", str(tmp_path / "store")]) == 2
    err = capsys.readouterr().err
    assert f"{path}: neither a request nor a manifest (" in err and reason in err
    assert len(err.splitlines()) == 1 and "http" not in err and "attribute" not in err


def test_a_stage_that_finds_wrong_input_says_so_with_its_exit_code(tmp_path: Path) -> None:
    bad = REQUEST.model_copy(update={"settings": {}, "inputs": {"source": [f"file:{tmp_path / 'no.jsonl'}#0"]}})
    (tmp_path / "file.json").write_text(bad.model_dump_json())
    assert worker.main([str(tmp_path / "file.json"), "--store", str(tmp_path / "store")]) == 2
    assert not Folder(tmp_path / "store").exists(bad.address)
