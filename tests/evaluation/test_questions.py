"""Questions of AlpacaEval and MT-Bench, from real files and from wrong ones."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from montessori.artifacts import Folder, Request
from montessori.data.rows import read_rows
from montessori.errors import InputError
from montessori.settings.data import DataSource
from tasks.benchmarks import read_questions
from tasks.runtime import worker

DATA = Path(__file__).resolve().parents[2].parent / "shared" / "data"
MT_BENCH, REFERENCES = DATA / "mt_bench" / "question.jsonl", DATA / "mt_bench" / "reference_answer_gpt-4.jsonl"
ALPACA_EVAL = DATA / "alpaca_eval" / "gpt4_1106_preview.jsonl"


def there(*paths: Path) -> None:
    for path in paths:
        if not path.is_file():
            pytest.skip(f"{path} is not there")


def source(path: Path, **more: Any) -> DataSource:
    return DataSource(source=str(path), **more)


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def write(path: Path, *rows: Any) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_alpaca_evals_file_gives_instructions_with_the_outputs_to_beat() -> None:
    there(ALPACA_EVAL)
    rows, raw = read_questions.read(source(ALPACA_EVAL), "alpaca_eval"), lines(ALPACA_EVAL)
    assert [row["turns"] for row in rows] == [[row["instruction"]] for row in raw]
    assert [row["baseline"] for row in rows] == [row["output"] for row in raw]
    assert [row["index"] for row in rows] == list(range(805))
    assert len({row["id"] for row in rows}) == 805
    cut = read_questions.read(source(ALPACA_EVAL, skip=3, limit=2), "alpaca_eval")
    assert cut == rows[3:5]


def test_mt_benchs_questions_get_the_answers_of_the_reference_file() -> None:
    there(MT_BENCH, REFERENCES)
    rows, raw = read_questions.read(source(MT_BENCH), "mt_bench", str(REFERENCES)), lines(MT_BENCH)
    assert [(row["id"], row["category"], row["turns"]) for row in rows] == [
        (str(row["question_id"]), row["category"], row["turns"]) for row in raw
    ]
    given = {str(row["question_id"]): row["choices"][0]["turns"] for row in lines(REFERENCES)}
    assert {row["id"]: row["references"] for row in rows if row["references"]} == given
    assert len(given) == 30


def test_without_that_file_the_rows_own_references_count_where_mt_bench_uses_references() -> None:
    there(MT_BENCH)
    rows = read_questions.read(source(MT_BENCH), "mt_bench")
    given = {str(row["question_id"]): row.get("reference") for row in lines(MT_BENCH)}
    assert all(row["references"] in (None, given[row["id"]]) for row in rows)
    counted = Counter(row["category"] for row in rows if row["references"])
    assert counted == {"math": 10, "reasoning": 10, "coding": 9}


def test_the_hubs_form_is_read_too(tmp_path: Path) -> None:
    row = {"prompt": ["1+1?", "And twice that?"], "prompt_id": 4711, "category": "math", "reference": ["2", "4"]}
    rows = read_questions.read(
        source(write(tmp_path / "q.jsonl", row, {**row, "prompt_id": 5, "reference": []})), "mt_bench"
    )
    assert rows[0] == {
        "id": "4711",
        "index": 0,
        "category": "math",
        "turns": ["1+1?", "And twice that?"],
        "references": ["2", "4"],
    }
    assert rows[1]["references"] is None


GOOD = {"question_id": 1, "category": "math", "turns": ["1+1?", "Why?"]}


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"category": "math", "turns": ["x"]}, r"line 2: the field question_id \(on the hub prompt_id\) is missing"),
        ({"question_id": 2, "turns": ["x"]}, "line 2: the field category is missing"),
        ({"question_id": 2, "category": "math"}, "line 2: the field turns is missing or not a list of texts"),
        ({"question_id": 2, "category": "math", "turns": "x"}, "line 2: the field turns is missing or not a list"),
        (
            {"question_id": 2, "category": "math", "turns": ["x", " "]},
            "line 2: the field turns has 2 texts, or a blank one",
        ),
        ({"question_id": 2, "category": "math", "turns": ["a", "b", "c"]}, "line 2: the field turns has 3 texts"),
        ({**GOOD, "question_id": 2, "reference": ["2"]}, "line 2: the field reference has 1 texts for 2 turns"),
        ({**GOOD, "turns": ["x"]}, "line 2: a second question with the id 1"),
        ({"instruction": "x", "output": "y"}, "line 2: the field question_id"),
        ([], "line 2: expected an object with question_id, category and turns"),
    ],
)
def test_wrong_questions_are_named_by_file_line_and_field(tmp_path: Path, row: Any, message: str) -> None:
    path = write(tmp_path / "q.jsonl", GOOD, row)
    with pytest.raises(InputError, match=f"q.jsonl, {message}"):
        read_questions.check(source(path), "mt_bench")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"choices": [{"turns": ["2", "so"]}]}, "r.jsonl, line 1: the field question_id is missing"),
        ({"question_id": 1}, "r.jsonl, line 1: the field choices is missing, or its first element has no turns"),
        ({"question_id": 1, "choices": []}, "r.jsonl, line 1: the field choices is missing"),
        ({"question_id": 1, "choices": [{"turns": ["2"]}]}, r"line 1: choices\[0\].turns has 1 texts for 2 turns"),
        ({"question_id": 9, "choices": [{"turns": ["2", "so"]}]}, "mt_bench.references = .*none of its question_id"),
    ],
)
def test_wrong_references_are_named_by_file_line_and_field(tmp_path: Path, row: Any, message: str) -> None:
    path, references = write(tmp_path / "q.jsonl", GOOD), write(tmp_path / "r.jsonl", row)
    with pytest.raises(InputError, match=message):
        read_questions.check(source(path), "mt_bench", str(references))


def test_wrong_instructions_are_named_by_file_and_line(tmp_path: Path) -> None:
    path = write(tmp_path / "q.jsonl", {"instruction": "x", "output": "y"}, {"instruction": "x"})
    with pytest.raises(InputError, match=r"q\.jsonl, line 2: lacks an answer"):
        read_questions.check(source(path), "alpaca_eval")
    with pytest.raises(InputError, match=r"q\.jsonl, line 1: the field question_id"):
        read_questions.check(source(path), "mt_bench")
    turns = [{"role": role, "content": "x"} for role in ("user", "assistant", "user", "assistant")]
    with pytest.raises(InputError, match=r"alpaca_eval\.questions\.source = .*is a conversation of several turns"):
        read_questions.check(source(write(path, {"messages": turns})), "alpaca_eval")
    with pytest.raises(InputError, match=r"mt_bench\.questions\.source = .*no\.jsonl: no such file"):
        read_questions.check(source(tmp_path / "no.jsonl"), "mt_bench")


def test_what_is_on_the_hub_is_not_looked_at_before_it_is_needed() -> None:
    read_questions.check(DataSource(source="nobody/has-this"), "mt_bench")


def test_the_stage_writes_what_was_read(tmp_path: Path) -> None:
    path = write(tmp_path / "q.jsonl", GOOD, {**GOOD, "question_id": 2, "turns": ["One turn"]})
    references = write(tmp_path / "r.jsonl", {"question_id": 1, "choices": [{"turns": ["2", "so"]}]})
    request = Request(
        stage="questions",
        version=1,
        settings={"kind": "mt_bench"},
        inputs={"source": [f"file:{path}#0"], "references": [f"file:{references}#1"]},
        seed=0,
    )
    store = Folder(tmp_path / "store")
    assert worker.run(request, store)["summary"] == {"questions": 2, "turns": 3, "with_reference": 1}
    rows = read_rows(store.open(request.address) / "questions.parquet")
    assert rows == read_questions.read(source(path), "mt_bench", str(references))
