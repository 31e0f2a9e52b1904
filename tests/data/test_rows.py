"""Rows from files and from the hub."""

import json
from collections.abc import Iterator
from pathlib import Path

import hub as hubs
import pytest
from datasets import Dataset
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
    with pytest.raises(InputError, match="no rows after skip = 5000; it has 10"):
        data.read(source.model_copy(update={"skip": 5000}), "test")


def test_blank_lines_are_passed_over(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text("\n" + lines(ROWS[:1]) + "  \n" + lines(ROWS[1:2]))
    assert len(data.read(DataSource(source=str(path)), "seeds")) == 2


def test_a_home_folder_is_expanded(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    jsonl(tmp_path, *ROWS)
    assert len(data.read(DataSource(source="~/rows.jsonl"), "seeds")) == 4


def test_columns_that_are_not_used_are_noted(tmp_path, caplog):
    rows = [{**ROWS[0], "id": 1, "source": "web", "score": 3}, {**ROWS[1], "note": "x", "prompt": "y"}]
    source = jsonl(tmp_path, *rows)
    assert data.load(source, "seeds").unused == ["source", "score", "note", "prompt"]
    data.check(source, "seeds")
    assert f"seeds.source = {source.source}: not used are the columns source, score, note, prompt" in caplog.text


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


def test_a_row_without_an_answer_is_read_where_none_is_needed(tmp_path):
    without, blank = {"instruction": "Say x."}, {"instruction": "Say x.", "output": " "}
    chat = {"messages": [user("Say x."), assistant(" ")]}
    for row, answers in ((without, "optional"), (blank, "optional"), (blank, "may be blank"), (chat, "may be blank")):
        assert data.read(jsonl(tmp_path, row), "points", answers)[0]["response"] == ""
    for row, answers in ((without, "needed"), (blank, "needed"), (without, "may be blank"), (chat, "needed")):
        with pytest.raises(InputError, match=r"rows\.jsonl, line 1: lacks an answer"):
            data.read(jsonl(tmp_path, row), "points", answers)


def test_rows_of_both_forms_have_like_keys_and_come_back_when_written_and_when_read_as_a_source(tmp_path):
    rows = data.read(jsonl(tmp_path, ROWS[1], *CHAT, {"messages": None, **ROWS[0]}), "reference")
    assert {tuple(row) for row in rows} == {("id", "instruction", "response", "messages", "answer", "tools")}
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
    (seed,) = data.read(jsonl(tmp_path, asked), "seeds", "optional")
    assert (seed["instruction"], seed["response"], seed["messages"]) == ("Name a colour.", "", asked["messages"])
    (row,) = data.read(jsonl(tmp_path, {**asked, "output": "Red."}), "reference")
    assert (row["response"], row["messages"]) == ("Red.", asked["messages"])


def test_rows_of_one_question_alone_have_no_conversation(tmp_path):
    for row in (CHAT[0], {"instruction": "Name a colour.", "output": "Red."}):
        (found,) = data.read(jsonl(tmp_path, row), "reference")
        assert found == {"id": found["id"], "instruction": "Name a colour.", "response": "Red."}


def test_a_hub_name_is_loaded_with_its_revision_config_and_split(monkeypatch):
    asked = {}

    def load_dataset(name, config, **options):
        asked.update(options, name=name, config=config)
        table = Dataset.from_list([{"instruction": "Say x.", "output": "x"}, {"instruction": "Say y.", "output": "y"}])
        return table.to_iterable_dataset() if options["streaming"] else table

    monkeypatch.setattr("datasets.load_dataset", load_dataset)
    source = DataSource(source="user/name@v1", split="validation", config="main", limit=1)
    (row,) = data.read(source, "reference")
    whole = {"name": "user/name", "config": "main", "split": "validation", "revision": "v1", "streaming": True}
    assert asked == whole
    assert (row["instruction"], row["response"]) == ("Say x.", "x")
    assert len(data.read(DataSource(source="user/name"), "reference")) == 2
    assert asked == {"name": "user/name", "config": None, "split": "train", "revision": None, "streaming": False}
    data.read(DataSource(source="user/name", split="train[:50%]", limit=1), "reference")
    assert not asked["streaming"]


def test_a_hub_name_that_does_not_exist_is_wrong_input_and_a_broken_network_is_not(monkeypatch):
    def load_dataset(name, config, **options):
        raise error

    monkeypatch.setattr("datasets.load_dataset", load_dataset)
    error: Exception = DatasetNotFoundError("no such name")
    with pytest.raises(InputError, match=r"seeds.source = user/name: cannot be loaded from the hub \(no such name\)"):
        data.read(DataSource(source="user/name"), "seeds")
    error = ValueError("Config name is missing. Please pick one among the available configs: ['main', 'socratic']")
    with pytest.raises(InputError, match=r"'socratic'\]\); name one with config"):
        data.read(DataSource(source="user/name"), "seeds")
    error = ConnectionError("no network")  # worth another try, which an InputError never gets
    with pytest.raises(ConnectionError):
        data.read(DataSource(source="user/name"), "seeds")


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[hubs.Hub]:
    """A hub with one dataset of two files."""
    text = lines([{"prompt": "Say 007.", "completion": "007"}, {"prompt": "Say NA.", "completion": "NA"}])
    csv = "prompt,completion\nSay 007.,007\nSay NA.,NA\n"
    with hubs.running() as hub:
        files = {"a.jsonl": text.encode(), "data/a.csv": csv.encode()}
        hub.repositories["datasets/user/name"] = hubs.Repository(private=False, files=files)
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", hub.url)
        template = f"{hub.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
        monkeypatch.setenv("NO_PROXY", "*")
        yield hub


@pytest.mark.parametrize("file", ["a.jsonl", "data/a.csv"])
def test_one_file_of_a_hub_repository_is_read_as_it_stands(hub, file):
    source = DataSource(source=f"hf://datasets/user/name@main/{file}", limit=2)
    assert not data.is_file(source)
    assert [row["response"] for row in data.read(source, "reference")] == ["007", "NA"]


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ({"source": "hf://datasets/user/name/no.jsonl"}, "the hub has no such file, or HF_TOKEN may not see it"),
        ({"source": "hf://datasets/user/none/a.jsonl"}, "the hub has no such file, or HF_TOKEN may not see it"),
        ({"source": "hf://datasets/user/name"}, r"expected hf://datasets/user/name\[@revision\]/file"),
        ({"source": "hf://user/name/a.jsonl"}, "expected hf://datasets/user/name"),
        ({"source": "hf://datasets/user/name/a.jsonl", "split": "test"}, "a file has no config and no split"),
    ],
)
def test_a_file_that_the_hub_does_not_have_is_wrong_input(hub, source, says):
    with pytest.raises(InputError, match=rf"^seeds\.source = {source['source']}: {says}"):
        data.read(DataSource(**source), "seeds")


@pytest.mark.parametrize(
    ("source", "file"),
    [
        ("a.jsonl", True),
        ("a.csv.gz", True),
        ("a.arrow", True),
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
