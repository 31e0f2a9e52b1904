"""Files in place of the hub's data: what is read, what is refused, and that nothing else of a benchmark changes."""

import csv
import gzip
import io
import json
from pathlib import Path
from typing import Any

import pytest

from montessori.data.rows import Row, write_rows
from montessori.errors import InputError
from montessori.evaluation import harness_data, harness_tasks

DATA = Path(__file__).resolve().parents[2].parent / "shared" / "data"
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="the shared data is not here")
MMLU = {"subject": "virology", "question": "Which, then?", "A": "a", "B": "b", "C": "c", "D": "d", "answer": "B"}
ARC = {"query": "Question: Which?", "choices": ["x", "y", "z"], "gold": 2}
HUB_ARC = {"question": "Which?", "choices": {"text": ["x", "y"], "label": ["1", "2"]}, "answerKey": "2"}
GSM8K = {"question": "How many?", "answer": "1 + 1 = 2\n#### 2"}
HELLASWAG = {"activity_label": "Tea", "ctx_a": "It is hot.", "ctx_b": "", "endings": ["a", "b", "c", "d"], "label": 3}
GPQA = {"Question": "Why?", "Correct Answer": "so", "Incorrect Answer 1": "a", "Incorrect Answer 2": "b"}
GPQA |= {"Incorrect Answer 3": "c"}


def save(path: Path, rows: list[Any]) -> Path:
    """`rows` in the form that the name of `path` says."""
    kind = path.name.removesuffix(".gz").rpartition(".")[2]
    if kind == "parquet":
        write_rows(path, rows)
        return path
    text = io.StringIO()
    if kind == "csv":
        writer = csv.DictWriter(text, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    else:
        text.write(json.dumps(rows) if kind == "json" else "".join(json.dumps(row) + "\n" for row in rows))
    path.write_bytes((gzip.compress if path.suffix == ".gz" else bytes)(text.getvalue().encode()))
    return path


def refused(path: Path, task: str, **more: Any) -> str:
    with pytest.raises(InputError) as raised:
        harness_data.read(path, task, **more)
    return str(raised.value)


def count(path: Path, task: str) -> int:
    return sum(len(rows) for rows in harness_data.read(path, task).values())


@pytest.mark.parametrize("name", ["a.csv", "a.csv.gz", "a.jsonl", "a.jsonl.gz", "a.json", "a.json.gz", "a.parquet"])
def test_every_kind_of_file_gives_the_same_rows(name, tmp_path):
    rows = [MMLU, MMLU | {"question": 'Is "a, b"\none line?', "A": "0", "answer": "A"}]
    assert harness_data.read(save(tmp_path / name, rows), "mmlu") == {
        "mmlu_virology": [
            {"question": "Which, then?", "choices": ["a", "b", "c", "d"], "answer": 1},
            {"question": 'Is "a, b"\none line?', "choices": ["0", "b", "c", "d"], "answer": 0},
        ]
    }


@pytest.mark.parametrize(
    ("task", "row", "expected"),
    [
        ("mmlu_virology", {**MMLU, "answer": 3}, {"answer": 3}),
        ("mmlu_virology", {"question": "Q", "choices": [1, 2, 3, 4], "answer": "2"}, {"choices": ["1", "2", "3", "4"]}),
        ("arc_challenge", ARC, {"question": "Which?", "answerKey": "C"}),
        ("arc_challenge", ARC, {"choices": {"text": ["x", "y", "z"], "label": ["A", "B", "C"]}}),
        ("arc_easy", HUB_ARC, HUB_ARC),
        ("gsm8k", GSM8K, GSM8K),
        ("hellaswag", HELLASWAG, {**HELLASWAG, "label": "3"}),
        ("gpqa_main_zeroshot", {**GPQA, "Subdomain": "Physics"}, GPQA),
        ("boolq", {"passage": "p", "label": 1, "more": ["x"]}, {"passage": "p", "label": 1, "more": ["x"]}),
    ],
)
def test_rows_take_the_form_that_the_hub_has(task, row, expected, tmp_path):
    ((name, (converted,)),) = harness_data.read(save(tmp_path / "a.jsonl", [row]), task).items()
    assert name == task
    assert {column: converted[column] for column in expected} == expected


def test_mmlu_is_split_by_subject_and_a_subject_takes_its_own_rows(tmp_path):
    path = save(tmp_path / "a.csv", [MMLU, MMLU | {"subject": "anatomy"}, MMLU])
    assert {name: len(rows) for name, rows in harness_data.read(path, "mmlu").items()} == {
        "mmlu_anatomy": 1,
        "mmlu_virology": 2,
    }
    assert count(path, "mmlu") == 3
    assert count(path, "mmlu_virology") == 2
    assert refused(path, "mmlu_nutrition").endswith("a.csv: no rows of mmlu_nutrition")


@needs_data
@pytest.mark.parametrize(
    ("task", "file", "items"),
    [
        ("mmlu", "mmlu/test_sample.csv", 1482),
        ("mmlu", "mmlu/dev.csv", 285),
        ("arc_challenge", "arc/arc_challenge_test.jsonl", 1172),
        ("gsm8k", "gsm8k/train.jsonl.gz", 7473),
        ("hellaswag", "hellaswag/hellaswag_val_1000.jsonl", 1000),
    ],
)
def test_real_files_are_read_whole(task, file, items):
    assert count(DATA / file, task) == items
    if task == "mmlu":
        assert len(harness_data.read(DATA / file, task)) == 57


@pytest.mark.parametrize(
    ("task", "good", "change", "said"),
    [
        ("mmlu", MMLU, {"subject": "alchemy"}, "column subject is 'alchemy'; expected one of MMLU's 57, such as"),
        ("mmlu", MMLU, {"subject": None}, "column subject is missing or not text"),
        ("mmlu", MMLU, {"D": None}, "column D is missing or not text"),
        ("mmlu", MMLU, {"question": " "}, "column question is empty"),
        ("mmlu", MMLU, {"answer": "E"}, "column answer is 'E'; expected a letter A to D or an index 0 to 3"),
        ("mmlu", MMLU, {"answer": 4}, "column answer is 4; expected a letter A to D or an index 0 to 3"),
        ("mmlu", MMLU, {"answer": None}, "column answer is missing"),
        ("mmlu", MMLU, {"choices": ["a", "b"]}, "column choices is missing or not a list of 4 texts"),
        ("arc_challenge", ARC, {"gold": 3}, "column gold is 3; expected a letter A to C or an index 0 to 2"),
        ("arc_challenge", ARC, {"choices": "x, y"}, "column choices is missing or not a list of two or more texts"),
        ("arc_challenge", ARC, {"choices": ["x", ""]}, "column choices is empty"),
        ("arc_challenge", HUB_ARC, {"answerKey": "C"}, "column answerKey is 'C'; expected one of the labels 1, 2"),
        ("arc_challenge", HUB_ARC, {"choices": ["x", "y"]}, "column choices is missing or not an object with text and"),
        ("gsm8k", GSM8K, {"answer": "2"}, "column answer has no '#### ' with the final number behind it"),
        ("gsm8k", GSM8K, {"question": ["How"]}, "column question is missing or not text"),
        ("hellaswag", HELLASWAG, {"ctx_b": None}, "column ctx_b is missing or not text"),
        ("hellaswag", HELLASWAG, {"endings": ["a"] * 3}, "column endings is missing or not a list of 4 texts"),
        ("hellaswag", HELLASWAG, {"label": ""}, "column label is ''; expected"),
        ("gpqa_main_zeroshot", GPQA, {"Incorrect Answer 2": None}, "column Incorrect Answer 2 is missing or not text"),
    ],
)
def test_a_wrong_column_is_named_with_its_line(task, good, change, said, tmp_path):
    path = save(tmp_path / "a.jsonl", [good, {**good, **change}])
    assert refused(path, task).startswith(f"{path}, line 2: {said}")


def test_the_line_of_a_csv_is_the_files(tmp_path):
    rows = [MMLU | {"question": "two\nlines"}, MMLU | {"answer": "b"}]
    assert refused(save(tmp_path / "a.csv", rows), "mmlu").startswith(
        f"{tmp_path / 'a.csv'}, line 4: column answer is 'b'"
    )
    (tmp_path / "long.csv").write_text("question,answer\nHow many?,#### 1,2\n")
    assert refused(tmp_path / "long.csv", "gsm8k").endswith("line 2: more values than columns in the first line")
    (tmp_path / "short.csv").write_text("question,answer\nHow many?\n")
    assert refused(tmp_path / "short.csv", "gsm8k").endswith("line 2: fewer values than columns in the first line")


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.csv", b"question,answer\nHow m\xfcch?,2\n", "not UTF-8 (byte 0xfc cannot be decoded)"),
        ("a.csv", b'question,answer\n"How many?,2\n', "not CSV (unexpected end of data)"),
        ("a.csv.gz", b"question,answer\n", "not a whole gzip file"),
        ("a.csv", b"", "the file is empty"),
        ("a.csv", b"question,answer\n", "no rows of gsm8k"),
        ("a.jsonl", b'{"question": 1}\n{', "line 1: column answer is missing"),
        ("a.jsonl", b"[1]\n", "element 1: expected an object with a field a column"),
        ("a.json", b'{"question": 1}', "element 1: column answer is missing"),
        ("a.parquet", b"PAR1", "not a Parquet file"),
    ],
)
def test_a_file_that_is_not_what_it_is_called_is_refused(name, content, said, tmp_path):
    (tmp_path / name).write_bytes(content)
    message = refused(tmp_path / name, "gsm8k", field="benchmarks.gsm8k.file")
    assert said in message
    assert str(tmp_path / name) in message


def test_a_file_that_is_not_there_is_named_with_its_field(tmp_path):
    for name in ("a.csv", "a.jsonl"):
        said = refused(tmp_path / name, "gsm8k", field="benchmarks.gsm8k.shots_file")
        assert said == f"benchmarks.gsm8k.shots_file.source = {tmp_path / name}: no such file"


def test_a_column_of_two_kinds_is_refused_in_a_task_whose_form_is_not_known(tmp_path):
    path = save(tmp_path / "a.jsonl", [{"passage": "p", "label": 1}, {"passage": "q", "label": "yes"}])
    assert refused(path, "boolq").startswith(f"{path}: column label has values of more than one kind")
    path = save(tmp_path / "b.jsonl", [{"passage": "p"}, {"passage": "q", "label": "yes"}])
    assert harness_data.read(path, "boolq") == {
        "boolq": [{"passage": "p", "label": None}, {"passage": "q", "label": "yes"}]
    }


def test_the_subjects_are_those_of_the_harness():
    _, index = harness_tasks.find("mmlu", "benchmarks.mmlu")

    def members(name: str) -> set[str]:
        entry = index[name]
        within = {"GROUP": lambda: entry.cfg["task"], "TAG": lambda: entry.tags}.get(entry.kind.name)
        return set().union(*map(members, within())) if within else {name}

    assert members("mmlu") == {f"mmlu_{subject}" for subject in harness_data.SUBJECTS}


@pytest.mark.parametrize(
    ("task", "row", "splits"),
    [
        ("mmlu_virology", MMLU, {"test", "dev"}),
        ("arc_challenge", ARC, {"test", "train"}),
        ("gsm8k", GSM8K, {"test", "train"}),
        ("hellaswag", HELLASWAG, {"validation", "train"}),
        ("gpqa_main_zeroshot", GPQA, {"train"}),
    ],
)
def test_nothing_of_a_task_changes_but_where_its_data_is(task, row, splits, tmp_path):
    from lm_eval.tasks import TaskManager

    where, index = harness_tasks.find(task, "benchmarks.it")
    items = harness_data.read(save(tmp_path / "a.jsonl", [row, row]), task)
    harness_data.configure(index, items, items, folder=tmp_path, field="benchmarks.it")
    changed: Row = TaskManager(include_defaults=False, include_path=[where, tmp_path]).task_index[task].cfg
    data = {key: changed.pop(key) for key in ("dataset_path", "dataset_name", "dataset_kwargs")}
    assert changed == {key: value for key, value in index[task].cfg.items() if not key.startswith("dataset_")}
    assert set(data["dataset_kwargs"]["data_files"]) == splits
    assert all(Path(file).is_relative_to(tmp_path) for file in data["dataset_kwargs"]["data_files"].values())


def test_a_task_that_makes_its_own_items_takes_no_file(tmp_path):
    _, index = harness_tasks.find("squadv2", "benchmarks.it")
    with pytest.raises(
        InputError, match=r"it.task = squadv2: the harness makes its items itself; leave benchmarks.it.file away"
    ):
        harness_data.configure(
            index, {"squadv2": [{"question": "Which?"}]}, None, folder=tmp_path, field="benchmarks.it"
        )


def test_a_question_that_ends_in_its_prompt_for_the_answer_has_it_once(tmp_path):
    (tmp_path / "arc.jsonl").write_text(json.dumps({**ARC, "query": "Question: Which?\nAnswer:"}))
    (row,) = harness_data.read(tmp_path / "arc.jsonl", "arc_challenge")["arc_challenge"]
    assert row["question"] == "Which?"
