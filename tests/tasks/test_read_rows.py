"""The rows of a source become an artifact, known by the part of the source that it holds."""

import json
from pathlib import Path

from making import Making

from montessori.data import sources
from montessori.data.rows import read_rows
from montessori.settings.data import DataSource


def test_the_rows_of_a_folder_are_read_with_its_split_and_columns(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    for split in ("train", "test"):
        row = {"frage": f"{split}?", "antwort": f"{split}!", "source": "web"}
        (folder / f"{split}.jsonl").write_text(json.dumps(row) + "\n")
    making = Making(tmp_path / "store")
    made = {}
    for split in ("train", "test"):
        columns = {"instruction": "frage", "response": "antwort"}
        source = DataSource(source=str(folder), split=split, columns=columns)
        address = sources.rows(source, "reference.source")
        made[split] = making.make("reference", source.part(), source=address)
    assert made["train"] != made["test"]
    (row,) = read_rows(made["test"] / "rows.parquet")
    assert (row["instruction"], row["response"]) == ("test?", "test!")
    summary = json.loads((made["test"] / "manifest.json").read_text())["summary"]
    assert summary == {"rows": 1, "unused_columns": ["source"]}


def test_seeds_need_no_answer_and_points_may_have_a_blank_one(tmp_path: Path) -> None:
    making = Making(tmp_path / "store")
    for task, row in (("seeds", {"instruction": "Say x."}), ("points", {"instruction": "Say x.", "response": ""})):
        (tmp_path / "rows.jsonl").write_text(json.dumps(row) + "\n")
        source = DataSource(source=str(tmp_path / "rows.jsonl"))
        folder = making.make(task, source.part(), source=sources.rows(source, task))
        assert [row["response"] for row in read_rows(folder / "rows.parquet")] == [""]
