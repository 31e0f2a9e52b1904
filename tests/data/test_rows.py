"""Rows from files and from the hub."""

import gzip
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets.exceptions import DatasetNotFoundError

from montessori.data import rows as data
from montessori.errors import InputError
from montessori.settings.data import DataSource

SAMPLES = Path(__file__).resolve().parents[2] / "../shared/data"
ROWS = [
    {"instruction": "Sort the words.", "input": "pear apple", "output": "apple pear"},
    {"instruction": "Name a colour.", "input": "", "output": "Red."},
    {"instruction": "Sag etwas auf Grönländisch.", "input": None, "output": "Aluu – 你好"},
    {"instruction": "Name a colour.", "input": "", "output": "Blue."},
]


def turn(role: object, content: object) -> dict:
    return {"role": role, "content": content}


def user(content: object) -> dict:
    return turn("user", content)


def assistant(content: object) -> dict:
    return turn("assistant", content)


CHAT = [
    {"messages": [user("Name a colour."), assistant("Red.")]},
    {"messages": [turn("system", "Be brief."), user("Name a colour."), assistant("Red.")]},
    {"messages": [user("Name a colour."), assistant("Red."), user(" Another.\n"), assistant(" Blue.")]},
]


def lines(rows: list) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def jsonl(folder: Path, *rows: object, name: str = "rows.jsonl") -> DataSource:
    path = folder / name
    path.write_text(lines(list(rows)), encoding="utf-8")
    return DataSource(source=str(path))


def refused(path: Path, role: str = "reference") -> str:
    with pytest.raises(InputError) as error:
        data.read(DataSource(source=str(path)), role)
    assert str(path) in str(error.value)
    return str(error.value)


def save(path: Path, rows: list) -> None:
    whole = json.dumps(rows) if ".json" in path.suffixes else lines(rows)
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif path.suffix == ".gz":
        path.write_bytes(gzip.compress(whole.encode()))
    else:
        path.write_text(whole, encoding="utf-8")


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.jsonl.gz", "a.json.gz", "a.parquet"])
def test_every_file_format_gives_the_same_rows(tmp_path, name):
    save(tmp_path / name, ROWS)
    rows = data.read(DataSource(source=str(tmp_path / name)), "seeds")
    assert [(row["instruction"], row["response"]) for row in rows] == [
        ("Sort the words. pear apple", "apple pear"),
        ("Name a colour.", "Red."),
        ("Sag etwas auf Grönländisch.", "Aluu – 你好"),
        ("Name a colour.", "Blue."),
    ]
    assert [row["id"] for row in rows] == [row["id"] for row in data.read(jsonl(tmp_path, *ROWS), "seeds")]


def test_ids_differ_even_between_equal_rows_and_stay_when_read_again(tmp_path):
    source = jsonl(tmp_path, ROWS[1], ROWS[1], ROWS[1])
    ids = [row["id"] for row in data.read(source, "seeds")]
    assert len(set(ids)) == 3
    moved = jsonl(tmp_path, ROWS[1], ROWS[1], ROWS[1], name="elsewhere and else.jsonl")
    assert ids == [row["id"] for row in data.read(moved, "seeds")]
    later = source.model_copy(update={"skip": 1})
    assert ids[1:] == [row["id"] for row in data.read(later, "seeds")]


def test_ids_of_the_file_are_kept_and_must_differ(tmp_path):
    rows = [{"id": n, "instruction": f"Count to {n}.", "answer": "…"} for n in range(3)]
    assert [row["id"] for row in data.read(jsonl(tmp_path, *rows), "reference")] == ["0", "1", "2"]
    with pytest.raises(InputError, match="rows have the id"):
        data.read(jsonl(tmp_path, rows[0], rows[0]), "reference")


def test_skip_and_limit_choose_rows_in_order(tmp_path):
    rows = [{"instruction": f"Task {n}", "response": "x"} for n in range(10)]
    source = jsonl(tmp_path, *rows).model_copy(update={"skip": 3, "limit": 4})
    assert [row["instruction"] for row in data.read(source, "test")] == [f"Task {n}" for n in range(3, 7)]
    with pytest.raises(InputError, match="no rows after skip"):
        data.read(source.model_copy(update={"skip": 10}), "test")


def test_blank_lines_are_passed_over(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text("\n" + lines(ROWS[:1]) + "  \n" + lines(ROWS[1:2]))
    assert len(data.read(DataSource(source=str(path)), "seeds")) == 2


def test_a_home_folder_is_expanded(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    jsonl(tmp_path, *ROWS)
    assert len(data.read(DataSource(source="~/rows.jsonl"), "seeds")) == 4


def test_a_missing_file_is_refused(tmp_path):
    assert "reference.source" in refused(tmp_path / "no.jsonl")
    assert "no such file" in refused(tmp_path / "no.jsonl")


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.parquet", "a.jsonl.gz"])
def test_an_empty_file_is_refused(tmp_path, name):
    (tmp_path / name).touch()
    assert "the file is empty" in refused(tmp_path / name)


@pytest.mark.parametrize(("name", "content"), [("a.jsonl", "\n \n"), ("a.json", "[]")])
def test_a_file_without_rows_is_refused(tmp_path, name, content):
    (tmp_path / name).write_text(content)
    assert "no rows" in refused(tmp_path / name)


def test_a_file_that_is_not_utf8_is_refused(tmp_path):
    (tmp_path / "a.jsonl").write_bytes('{"instruction": "Grüße", "response": "x"}'.encode("latin-1"))
    assert "not UTF-8 (byte 0xfc" in refused(tmp_path / "a.jsonl")


@pytest.mark.parametrize("bad", ["{not json", '{"instruction": "x"', '{"instruction": "cut'])
def test_a_line_that_is_not_json_is_named(tmp_path, bad):
    (tmp_path / "a.jsonl").write_text(lines(ROWS) * 4 + bad + "\n" + lines(ROWS))
    assert "line 17 is not JSON" in refused(tmp_path / "a.jsonl")


@pytest.mark.parametrize("field", ["id", "instruction", "output"])
def test_half_of_a_character_is_named(tmp_path, field):
    (tmp_path / "a.jsonl").write_text(json.dumps(ROWS[0] | {field: "Hm \ud83d."}) + "\n")
    assert r"line 1: \ud83d is half of a character" in refused(tmp_path / "a.jsonl")


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({"output": "x"}, "the field instruction is missing"),
        ({"messages": None, "output": "x"}, "the field instruction is missing"),
        ({"instruction": "  ", "output": "x"}, "the field instruction is empty"),
        ({"instruction": 3, "output": "x"}, "the field instruction is no text but 3"),
        ({"instruction": ["x"] * 99, "output": "x"}, "the field instruction is no text but ["),
        (["x"], "expected an object"),
        ({"instruction": "Say x."}, "lacks an answer (one of the fields response, output, answer"),
        ({"instruction": "Say x.", "output": " "}, "lacks an answer: output is empty (one of"),
        ({"instruction": "Say x.", "output": 3}, "lacks an answer: output is no text but 3 (one of"),
        ({"messages": []}, "messages is empty or not a list of objects with role and content"),
        ({"messages": "Say x."}, "messages is empty or not a list"),
        ({"messages": {"role": "user", "content": "x"}}, "messages is empty or not a list"),
        ({"messages": [user("x"), "y"]}, "turn 2 of messages is not an object with role and content"),
        ({"messages": [user("x"), {"role": "assistant"}]}, "turn 2 of messages is not an object with role and content"),
        ({"messages": [{"content": "x"}, assistant("y")]}, "turn 1 of messages is not an object with role and content"),
        ({"messages": [turn("human", "x"), assistant("y")]}, "'human'; expected system, user, assistant"),
        ({"messages": [turn(["user"], "x"), assistant("y")]}, "turn 1 of messages has the role ['user']; expected"),
        ({"messages": [user([{"type": "text", "text": "x"}])]}, "turn 1 of messages has a content that is not text"),
        ({"messages": [user("x"), assistant(None)]}, "turn 2 of messages has a content that is not text"),
        ({"messages": [user("x")]}, "lacks an answer (one of the fields response, output, answer, or the assistant's"),
        ({"messages": [user("x"), assistant("y"), turn("system", "z")]}, "lacks an answer"),
        ({"messages": [user("x"), assistant(" ")]}, "lacks an answer"),
        ({"messages": [turn("system", "x"), assistant("y")]}, "messages lacks a user turn, or the last one is empty"),
        ({"messages": [user("x"), user(" "), assistant("y")]}, "messages lacks a user turn, or the last one is empty"),
    ],
)
def test_a_line_that_lacks_a_field_is_named(tmp_path, row, says):
    good = {"instruction": "Say y.", "response": "y"}
    jsonl(tmp_path, *[good] * 16, row, good)
    message = refused(tmp_path / "rows.jsonl")
    assert says in message
    assert f"{tmp_path / 'rows.jsonl'}, line 17:" in message


def test_seeds_need_no_answer_but_reference_and_test_points_do(tmp_path):
    source = jsonl(tmp_path, {"instruction": "Say x."})
    assert data.read(source, "seeds")[0]["response"] == ""
    for role in ("reference", "test"):
        with pytest.raises(InputError, match="lacks an answer"):
            data.read(source, role)


def test_an_empty_answer_gives_way_to_the_next_field(tmp_path):
    source = jsonl(tmp_path, {"instruction": "Say x.", "response": "", "output": "x"})
    assert data.read(source, "reference")[0]["response"] == "x"


def test_a_conversation_of_one_question_is_the_same_row_as_its_instruction(tmp_path):
    chat = [{"messages": [user(" Name a colour."), assistant("Red.")]}, {"messages": [user("Say x."), assistant("x")]}]
    plain = [{"instruction": "Name a colour.", "output": "Red."}, {"instruction": "Say x.", "response": "x"}]
    expected = data.read(jsonl(tmp_path, *plain), "reference")
    assert data.read(jsonl(tmp_path, *chat, name="chat.jsonl"), "reference") == expected
    assert set(expected[0]) == {"id", "instruction", "response"}


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.jsonl.gz", "a.parquet"])
def test_what_comes_before_an_answer_is_kept(tmp_path, name):
    save(tmp_path / name, CHAT)
    rows = data.read(DataSource(source=str(tmp_path / name)), "reference")
    assert [(row["instruction"], row["response"]) for row in rows] == [
        ("Name a colour.", "Red."),
        ("Name a colour.", "Red."),
        ("Another.", " Blue."),
    ]
    assert [row["messages"] for row in rows] == [
        [user("Name a colour.")],
        [turn("system", "Be brief."), user("Name a colour.")],
        [user("Name a colour."), assistant("Red."), user("Another.")],
    ]
    assert len({row["id"] for row in rows}) == 3


def test_rows_of_both_forms_have_like_keys_and_come_back_when_written_and_when_read_as_a_source(tmp_path):
    rows = data.read(jsonl(tmp_path, ROWS[1], *CHAT, {"messages": None, **ROWS[0]}), "reference")
    assert {tuple(row) for row in rows} == {("id", "instruction", "response", "messages")}
    assert rows[0]["messages"] == [user("Name a colour.")]
    assert rows[4]["messages"] == [user("Sort the words. pear apple")]
    data.write_rows(tmp_path / "rows.parquet", rows)
    assert data.read_rows(tmp_path / "rows.parquet") == rows
    assert data.read(DataSource(source=str(tmp_path / "rows.parquet")), "reference") == rows


def test_ids_of_conversations_differ_by_every_turn(tmp_path):
    def id_of(*messages: dict) -> str:
        return data.read(jsonl(tmp_path, {"messages": list(messages)}), "reference")[0]["id"]

    whole = [turn("system", "Be brief."), user("Name a colour."), assistant("Red."), user("Why?"), assistant("So.")]
    ids = [id_of(*whole[:i], {**whole[i], "content": "Another text."}, *whole[i + 1 :]) for i in range(5)]
    assert len({*ids, id_of(*whole)}) == 6


def test_a_conversation_without_an_answer_is_a_seed_and_elsewhere_takes_it_from_its_field(tmp_path):
    asked = {"messages": [turn("system", "Be brief."), user("Name a colour.")]}
    (seed,) = data.read(jsonl(tmp_path, asked), "seeds")
    assert (seed["instruction"], seed["response"], seed["messages"]) == ("Name a colour.", "", asked["messages"])
    (row,) = data.read(jsonl(tmp_path, {**asked, "output": "Red."}), "reference")
    assert (row["response"], row["messages"]) == ("Red.", asked["messages"])


def test_a_row_of_both_forms_is_read_as_a_conversation(tmp_path):
    (row,) = data.read(jsonl(tmp_path, {"instruction": "Say x.", "input": "y", "output": "x", **CHAT[0]}), "test")
    assert (row["instruction"], row["response"]) == ("Name a colour.", "Red.")


@pytest.mark.parametrize("content", ["{}", '"text"', "3"])
def test_json_that_is_not_a_list_is_refused(tmp_path, content):
    (tmp_path / "a.json").write_text(content)
    assert "expected a JSON list" in refused(tmp_path / "a.json")


def test_json_lines_named_json_are_refused_with_the_line(tmp_path):
    (tmp_path / "a.json").write_text(lines(ROWS))
    assert "not JSON (line 2" in refused(tmp_path / "a.json")


def test_a_broken_gzip_file_is_refused(tmp_path):
    path, whole = tmp_path / "a.jsonl.gz", gzip.compress(lines(ROWS).encode() * 50)
    middle = len(whole) // 2
    for broken in (whole[:middle], b"plain text", whole[:middle] + b"\0" * 20 + whole[middle + 20 :]):
        path.write_bytes(broken)
        assert "not a whole gzip file" in refused(path)


def test_a_broken_parquet_file_is_refused(tmp_path):
    path = tmp_path / "a.parquet"
    save(path, ROWS)
    whole = path.read_bytes()
    for broken in (whole[:-10], b"plain text", b"PAR1" + b"\0" * (len(whole) - 12) + whole[-8:]):
        path.write_bytes(broken)
        assert "not a Parquet file" in refused(path)


def test_a_hub_name_is_loaded_with_its_revision_and_split(monkeypatch):
    asked = {}

    def load_dataset(name, **options):
        asked.update(options, name=name)
        return [{"instruction": "Say x.", "output": "x"}, {"instruction": "Say y.", "output": "y"}]

    monkeypatch.setattr("datasets.load_dataset", load_dataset)
    source = DataSource(source="user/name@v1", split="validation", limit=1)
    (row,) = data.read(source, "reference")
    assert asked == {"name": "user/name", "split": "validation", "revision": "v1"}
    assert (row["instruction"], row["response"]) == ("Say x.", "x")
    data.read(DataSource(source="user/name"), "reference")
    assert asked == {"name": "user/name", "split": "train", "revision": None}


def test_one_file_of_a_hub_repository_is_read(monkeypatch):
    asked = {}

    def load_dataset(kind, **options):
        asked.update(kind=kind, **options)
        return [{"instruction": "Say x.", "output": "x"}]

    monkeypatch.setattr("datasets.load_dataset", load_dataset)
    source = DataSource(source="hf://datasets/user/name@v1/rows.json")
    assert not data.is_file(source)
    assert len(data.read(source, "reference")) == 1
    assert asked == {"kind": "json", "data_files": source.source, "split": "train"}


def test_a_hub_name_that_does_not_exist_is_wrong_input_and_a_broken_network_is_not(monkeypatch):
    def load_dataset(name, **options):
        raise error

    monkeypatch.setattr("datasets.load_dataset", load_dataset)
    error: Exception = DatasetNotFoundError("no such name")
    with pytest.raises(InputError, match=r"user/name: cannot be loaded from the hub \(no such name\)"):
        data.read(DataSource(source="user/name"), "seeds")
    error = ConnectionError("no network")  # worth another try, which an InputError never gets
    with pytest.raises(ConnectionError):
        data.read(DataSource(source="user/name"), "seeds")


@pytest.mark.parametrize(
    ("source", "file"),
    [
        ("a.jsonl", True),
        ("data/a.parquet", True),
        ("./seeds", True),
        ("/data/seeds", True),
        ("~/seeds.txt", True),
        ("tatsu-lab/alpaca", False),
        ("user/name@v1.0", False),
        ("gsm8k", False),
    ],
)
def test_a_path_is_told_from_a_hub_name(source, file):
    assert data.is_file(DataSource(source=source)) is file


def test_written_rows_come_back(tmp_path):
    rows = [{"id": "a", "prompt": [{"role": "user", "content": "x"}], "tokens": 3, "text": "你好 \u2028"}]
    data.write_rows(tmp_path / "rows.parquet", rows)
    assert data.read_rows(tmp_path / "rows.parquet") == rows


@pytest.mark.skipif(not SAMPLES.is_dir(), reason="no sample data")
@pytest.mark.parametrize(
    ("file", "role", "rows"),
    [
        ("seeds/alpaca_gpt4_sample_999.jsonl", "seeds", 999),
        ("seeds/alpaca_gpt4_short_9038.jsonl.gz", "seeds", 9038),
        ("seeds/self_instruct_seed_tasks.jsonl", "seeds", 175),
        ("oasst1/oasst1_first_turn_seeds.jsonl", "seeds", 188),
        ("reference/montessori_reference_set.jsonl", "reference", 256),
        ("alpaca_eval/gpt4_1106_preview.jsonl", "test", 805),
    ],
)
def test_real_files_are_read_whole(file, role, rows):
    found = data.read(DataSource(source=str(SAMPLES / file)), role)
    assert len({row["id"] for row in found}) == len(found) == rows
