"""Rows come back the same from every kind of file and folder, and a limit reads the start alone."""

import bz2
import csv
import gzip
import io
import json
import lzma
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset, DatasetDict
from hypothesis import given
from hypothesis import strategies as st

from montessori.data import files, sources
from montessori.data import rows as data
from montessori.errors import InputError
from montessori.settings.data import DataSource

TOOL = {"type": "function", "function": {"name": "f", "parameters": {"properties": {"x": {"default": None}}}}}
ROWS = [
    {"instruction": "Sort, the words.", "input": "pear\n  apple", "output": 'apple "pear"'},
    {"instruction": " Name a colour.", "input": "", "output": "Red. \n"},
    {"instruction": "Sag etwas auf Grönländisch;", "input": "", "output": "Aluu\t你好\u2028"},
]
CHATS = [
    {
        "messages": [
            {"role": "user", "content": "Call f."},
            {
                "role": "assistant",
                "content": "",
                "tool_calls": [{"type": "function", "function": {"name": "f", "arguments": {"x": 1}}}],
            },
            {"role": "tool", "content": "2", "name": "f"},
            {"role": "assistant", "content": "Two."},
        ],
        "tools": [TOOL],
    },
    {
        "messages": [{"role": "user", "content": "Hi."}, {"role": "assistant", "content": "Ho."}],
        "tools": None,
    },
]


def as_lines(rows: list[dict]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def as_csv(rows: list[dict], delimiter: str = ",") -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, rows[0], delimiter=delimiter)
    writer.writeheader()
    for row in rows:
        writer.writerow({k: v if isinstance(v, str) else json.dumps(v) for k, v in row.items() if v is not None})
    return text.getvalue()


def save_arrow(path: Path, rows: list[dict], stream: bool = True) -> None:
    table = pa.Table.from_pylist(rows)
    writer = pa.RecordBatchStreamWriter if stream else pa.RecordBatchFileWriter
    with pa.OSFile(str(path), "wb") as file, writer(file, table.schema) as to:
        to.write_table(table, 2)


SAVE: dict[str, Callable[[Path, list[dict]], object]] = {
    "a.jsonl": lambda path, rows: path.write_text(as_lines(rows), encoding="utf-8"),
    "a.ndjson": lambda path, rows: path.write_text(as_lines(rows), encoding="utf-8"),
    "a.json": lambda path, rows: path.write_text(json.dumps(rows)),
    "indented.json": lambda path, rows: path.write_text(json.dumps(rows, indent=2)),
    "lines.json": lambda path, rows: path.write_text(as_lines(rows), encoding="utf-8"),
    "object.json": lambda path, rows: path.write_text(json.dumps({"version": "1.0", "data": rows}, indent=1)),
    "list.jsonl": lambda path, rows: path.write_text(json.dumps(rows)),
    "a.csv": lambda path, rows: path.write_text(as_csv(rows), encoding="utf-8"),
    "semicolons.csv": lambda path, rows: path.write_text(as_csv(rows, ";"), encoding="utf-8"),
    "a.tsv": lambda path, rows: path.write_text(as_csv(rows, "\t"), encoding="utf-8"),
    "marked.csv": lambda path, rows: path.write_text(as_csv(rows), encoding="utf-8-sig"),
    "wide.csv": lambda path, rows: path.write_text(as_csv(rows), encoding="utf-16"),
    "wide.jsonl": lambda path, rows: path.write_text(as_lines(rows), encoding="utf-32"),
    "a.parquet": lambda path, rows: pq.write_table(pa.Table.from_pylist(rows), path),
    "stream.arrow": save_arrow,
    "file.arrow": lambda path, rows: save_arrow(path, rows, stream=False),
    "a.csv.gz": lambda path, rows: path.write_bytes(gzip.compress(as_csv(rows).encode())),
    "a.json.gz": lambda path, rows: path.write_bytes(gzip.compress(json.dumps(rows).encode())),
    "a.jsonl.bz2": lambda path, rows: path.write_bytes(bz2.compress(as_lines(rows).encode())),
    "a.jsonl.xz": lambda path, rows: path.write_bytes(lzma.compress(as_lines(rows).encode())),
    "a.jsonl.zst": lambda path, rows: path.write_bytes(pa.compress(as_lines(rows).encode(), "zstd", asbytes=True)),
    "a.json.zst": lambda path, rows: path.write_bytes(pa.compress(json.dumps(rows).encode(), "zstd", asbytes=True)),
    "shards": lambda path, rows: [
        path.mkdir(),
        *(pq.write_table(pa.Table.from_pylist([row]), path / f"part-{n}.parquet") for n, row in enumerate(rows)),
    ],
    "saved": lambda path, rows: Dataset.from_list(rows).save_to_disk(path, num_shards=2),
    "saved dict": lambda path, rows: DatasetDict(train=Dataset.from_list(rows)).save_to_disk(path),
}


def read(path: Path, role: str = "reference", **settings: object) -> list[dict]:
    return data.read(DataSource(source=str(path), **settings), role)


def refused(path: Path, **settings: object) -> str:
    with pytest.raises(InputError) as error:
        read(path, **settings)
    assert str(path) in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("name", SAVE)
def test_every_kind_gives_the_same_rows_and_ids(tmp_path, name):
    SAVE[name](tmp_path / name, ROWS)
    rows = read(tmp_path / name)
    assert [(row["instruction"], row["response"]) for row in rows] == [
        ("Sort, the words.\npear\n  apple", 'apple "pear"'),
        (" Name a colour.", "Red. \n"),
        ("Sag etwas auf Grönländisch;", "Aluu\t你好\u2028"),
    ]
    SAVE["a.jsonl"](tmp_path / "plain.jsonl", ROWS)
    assert [row["id"] for row in rows] == [row["id"] for row in read(tmp_path / "plain.jsonl")]


@pytest.mark.parametrize("name", [name for name in SAVE if name != "shards"])
def test_conversations_with_tools_are_the_same_in_every_kind(tmp_path, name):
    """Columns of objects share their keys, and an invented null would be rendered into the prompt."""
    chats = json.loads(json.dumps(CHATS).replace('{"default": null}', '{"type": "int"}'))
    SAVE[name](tmp_path / name, chats)
    first, second = read(tmp_path / name)
    assert first["messages"] == chats[0]["messages"][:-1]
    assert (first["response"], first["answer"], first["tools"]) == ("Two.", None, chats[0]["tools"])
    assert second["messages"] == [{"role": "user", "content": "Hi."}]
    assert (second["response"], second["answer"], second["tools"]) == ("Ho.", None, None)


def test_a_null_that_a_file_has_stays_and_rows_come_back_as_they_were_written(tmp_path):
    SAVE["a.jsonl"](tmp_path / "a.jsonl", CHATS)
    rows = read(tmp_path / "a.jsonl")
    assert rows[0]["tools"] == [TOOL]
    data.write_rows(tmp_path / "rows.parquet", rows)
    assert data.read_rows(tmp_path / "rows.parquet") == rows
    assert read(tmp_path / "rows.parquet") == rows


TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1).filter(str.strip)


@given(st.lists(st.tuples(TEXTS, TEXTS), min_size=1, max_size=4))
def test_no_text_changes_on_its_way(tmp_path_factory, pairs):
    folder = tmp_path_factory.mktemp("texts")
    for name in ("a.jsonl", "a.json", "a.csv", "a.tsv", "wide.csv", "a.parquet", "stream.arrow"):
        path = folder / name
        rows = [{"prompt": prompt, "completion": answer} for prompt, answer in pairs]
        with path.open("w", encoding="utf-16" if "wide" in name else "utf-8", newline="") as file:
            if name.endswith("sv"):
                file.write(as_csv(rows, "\t" if "tsv" in name else ","))
        if not name.endswith("sv"):
            SAVE[name](path, rows)
        assert [(row["instruction"], row["response"]) for row in read(path)] == pairs


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.jsonl.gz", "a.csv", "a.parquet", "stream.arrow"])
def test_a_limit_reads_the_start_alone(tmp_path, name):
    rows = [{"prompt": f"Question {n}", "completion": "word " * 50} for n in range(20_000)]
    if name == "a.jsonl.gz":
        (tmp_path / name).write_bytes(gzip.compress(as_lines(rows).encode(), 1))
    else:
        SAVE[name](tmp_path / name, rows)
    del rows
    tracemalloc.start()
    found = read(tmp_path / name, skip=2, limit=3)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert [row["instruction"] for row in found] == ["Question 2", "Question 3", "Question 4"]
    assert peak < 4e6 + 2e6  # bytes: a chunk of text and a batch of rows, of a file of 6 MB


def test_a_list_longer_than_a_chunk_is_read_whole_and_a_wrong_line_of_it_named(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "CHUNK", 7)
    text = json.dumps(ROWS, indent=1)
    (tmp_path / "a.json").write_text(text)
    assert len(read(tmp_path / "a.json")) == 3
    (tmp_path / "a.json").write_text(text.replace('"input": "",', '"input" "",', 1))
    assert "not JSON (line 9: Expecting ':' delimiter)" in refused(tmp_path / "a.json")
    for broken in (text[:-1], text + "x", text[:-1] + ",]"):
        (tmp_path / "a.json").write_text(broken)
        assert "not JSON (line 17" in refused(tmp_path / "a.json")
    (tmp_path / "a.json").write_text(json.dumps(ROWS[0], indent=1))
    assert len(read(tmp_path / "a.json")) == 1


@pytest.mark.parametrize("content", ["3", '"text"', '{"a": [{"x": 1}], "b": [{"x": 1}]}', "{}"])
def test_a_json_file_without_a_list_of_rows_is_refused(tmp_path, content):
    (tmp_path / "a.json").write_text(content)
    assert "expected a JSON list of rows" in refused(tmp_path / "a.json")


@pytest.mark.parametrize("text", [as_csv(ROWS)[:-30], "a,b\n1\n", "a,b\n1,2,3\n", "a,a\n1,2\n"])
def test_a_broken_csv_file_is_refused(tmp_path, text):
    (tmp_path / "a.csv").write_text(text)
    says = refused(tmp_path / "a.csv")
    assert any(part in says for part in ("not CSV", "values than columns", "two columns have the name a"))


def test_a_long_text_in_a_csv_file_is_read(tmp_path):
    SAVE["a.csv"](tmp_path / "a.csv", [{"prompt": "Say x.", "completion": "x" * 200_000}])
    assert len(read(tmp_path / "a.csv")[0]["response"]) == 200_000


@pytest.mark.parametrize("name", ["a.parquet", "stream.arrow", "file.arrow"])
def test_a_broken_table_is_refused(tmp_path, name):
    path, kind = tmp_path / name, "a Parquet" if name == "a.parquet" else "an Arrow"
    SAVE[name](path, ROWS)
    whole = path.read_bytes()
    for broken in (whole[: len(whole) // 3], b"plain text", whole[:8] + b"\0" * (len(whole) - 16) + whole[-8:]):
        path.write_bytes(broken)
        assert f"not {kind} file" in refused(path)


@pytest.mark.parametrize("name", ["a.jsonl.gz", "a.jsonl.bz2", "a.jsonl.xz", "a.jsonl.zst"])
def test_a_broken_compressed_file_is_refused(tmp_path, name):
    packed = {"gz": gzip.compress, "bz2": bz2.compress, "xz": lzma.compress}.get(
        name.rpartition(".")[2], lambda text: pa.compress(text, "zstd", asbytes=True)
    )(as_lines(ROWS * 50).encode())
    for broken in (packed[: len(packed) // 2], b"plain text of some length"):
        (tmp_path / name).write_bytes(broken)
        assert "not a whole" in refused(tmp_path / name)


@pytest.mark.parametrize(("name", "says"), [("a.xlsx", "save its rows as CSV"), ("a.parquet.gz", "unpack it first")])
def test_a_kind_that_cannot_be_read_is_refused(tmp_path, name, says):
    (tmp_path / name).write_bytes(b"x")
    assert says in refused(tmp_path / name)


def test_a_folder_gives_the_files_of_a_split_in_order(tmp_path):
    for split, shard in (("train", 1), ("train", 0), ("test", 0)):
        SAVE["a.jsonl"](tmp_path / f"{split}-0000{shard}-of-00002.jsonl", [{"prompt": f"{split} {shard}", "answer": 1}])
    (tmp_path / "dataset_info.json").write_text("{}")
    (tmp_path / "README.md").write_text("A card.")
    assert [row["instruction"] for row in read(tmp_path)] == ["train 0", "train 1"]
    assert [row["instruction"] for row in read(tmp_path, split="test")] == ["test 0"]
    assert "no file of the split dev in the folder; there are test, train" in refused(tmp_path, split="dev")
    (tmp_path / "train.csv").touch()
    assert "files of several kinds (CSV, JSON Lines); name one file" in refused(tmp_path)


def test_equal_rows_in_two_shards_have_ids_of_their_own(tmp_path):
    for shard in "ab":
        SAVE["a.jsonl"](tmp_path / f"{shard}.jsonl", ROWS[:1])
    assert len({row["id"] for row in read(tmp_path)}) == 2


def test_a_saved_dataset_is_read_by_split(tmp_path):
    splits = {name: Dataset.from_list([{"prompt": name, "completion": "x"}]) for name in ("train", "test")}
    DatasetDict(splits).save_to_disk(tmp_path / "saved")
    assert [row["instruction"] for row in read(tmp_path / "saved", split="test")] == ["test"]
    assert "no split dev; set split to one of train, test" in refused(tmp_path / "saved", split="dev")
    assert [row["instruction"] for row in read(tmp_path / "saved" / "test")] == ["test"]
    assert "a saved dataset without a split dev" in refused(tmp_path / "saved" / "test", split="dev")


def test_a_split_or_config_of_a_file_and_an_empty_folder_are_refused(tmp_path):
    SAVE["a.jsonl"](tmp_path / "a.jsonl", ROWS)
    assert "a file has no split test; leave split out" in refused(tmp_path / "a.jsonl", split="test")
    assert "a file has no config main; leave config out" in refused(tmp_path / "a.jsonl", config="main")
    (tmp_path / "empty" / "data").mkdir(parents=True)
    assert "a folder without data files" in refused(tmp_path / "empty")
    assert "name one of the folders in it (data)" in refused(tmp_path / "empty")


def test_a_folder_is_known_by_the_files_of_its_split(tmp_path):
    def address(split: str = "train") -> str:
        return sources.rows(DataSource(source=str(tmp_path), split=split), "seeds.source").rpartition("#")[2]

    SAVE["a.jsonl"](tmp_path / "train.jsonl", ROWS)
    SAVE["a.jsonl"](tmp_path / "test.jsonl", ROWS[:1])
    before = address()
    assert address("test") != before
    SAVE["a.jsonl"](tmp_path / "test.jsonl", ROWS[:2])
    assert address() == before
    SAVE["a.jsonl"](tmp_path / "train.jsonl", ROWS[:2])
    assert address() != before


def test_spaces_around_the_names_of_a_csv_file_do_not_count(tmp_path):
    (tmp_path / "rows.csv").write_text("instruction, response\nName a colour.,Red.\n")
    (row,) = data.read(DataSource(source=str(tmp_path / "rows.csv")), "points")
    assert (row["instruction"], row["response"]) == ("Name a colour.", "Red.")
