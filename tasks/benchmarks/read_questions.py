"""Read a benchmark's questions: `questions.parquet` (`id, index, category, turns, references`, and `baseline`).

`alpaca_eval`: rows of an instruction and an output (see `montessori.data.rows`); the output is the baseline.
`mt_bench`: rows of `question_id, category, turns`, or of `prompt_id, category, prompt` as on the hub. Reference answers
are in a separate file (`question_id`, and the `turns` of the first of its `choices`), or in the rows (`reference`).
"""

from itertools import islice
from typing import Any, Literal

from montessori.data import rows as data
from montessori.data.chat import prompt_of
from montessori.data.rows import Row
from montessori.errors import InputError
from montessori.settings.data import DataSource, Part
from tasks.runtime.job import Job, location

Kind = Literal["alpaca_eval", "mt_bench"]
MOST_TURNS = 2  # a grading prompt has room for two
# MT-Bench grades the other categories without a reference, although some of their rows have notes on the answer.
REFERENCED = ("math", "reasoning", "coding")


class Settings(Part):
    """The kind of the source, and the part to read."""

    kind: Kind


def run(job: Job, settings: Settings) -> dict[str, Any]:
    """Read the source in its order."""
    (address,) = job.request.inputs["source"]
    source = DataSource(source=location(address), **settings.model_dump(exclude={"kind"}))
    references = location(job.request.inputs["references"][0]) if job.has("references") else None
    rows = read(source, settings.kind, references)
    data.write_rows(job.out / "questions.parquet", rows)
    return {
        "questions": len(rows),
        "turns": sum(len(row["turns"]) for row in rows),
        "with_reference": sum(row["references"] is not None for row in rows),
    }


def check(source: DataSource, kind: Kind, references: str | None = None, role: str | None = None) -> int | None:
    """Return the number of questions in a local file, or None for the hub's.

    `role` is the field or option with the source, by default the benchmark's questions. Raises InputError that names
    file, line and field.
    """
    return len(read(source, kind, references, role)) if data.is_file(source) else None


def read(source: DataSource, kind: Kind, references: str | None = None, role: str | None = None) -> list[Row]:
    """Return the rows of the artifact. `references` is the file of reference answers."""
    if kind == "alpaca_eval":
        return _alpaca_eval(source, role or "alpaca_eval.questions")
    return _mt_bench(source, references)


def _alpaca_eval(source: DataSource, role: str) -> list[Row]:
    rows = data.read(source, role)
    longer = next((row for row in rows if len(prompt_of(row)) > 1), None)
    if longer:
        raise InputError(
            f"{data.source_name(role)} = {source.source}: {longer['id']} is a conversation of several turns; "
            "expected rows of an instruction and an output"
        )
    return [
        {
            "id": row["id"],
            "index": index,
            "category": None,
            "turns": [row["instruction"]],
            "references": None,
            "baseline": row["response"],
        }
        for index, row in enumerate(rows, source.skip)
    ]


def _mt_bench(source: DataSource, references: str | None) -> list[Row]:
    field = f"mt_bench.questions.source = {source.source}"
    end = None if source.limit is None else source.skip + source.limit
    raw = list(islice(data.raw_rows(source, "mt_bench.questions"), source.skip, end))
    if not raw:
        raise InputError(f"{field}: no rows" + (f" after skip = {source.skip}" if source.skip else ""))
    rows = [_question(where, row, index) for index, (where, row) in enumerate(raw, source.skip)]
    by_id: dict[str, Row] = {}
    for (where, _), row in zip(raw, rows, strict=True):
        if row["id"] in by_id:
            raise InputError(f"{where}: a second question with the id {row['id']}; each needs its own")
        by_id[row["id"]] = row
    if references:
        _add_references(by_id, references, whole=not source.skip and source.limit is None)
    return rows


def _question(where: str, row: Any, index: int) -> Row:
    if not isinstance(row, dict):
        raise InputError(f"{where}: expected an object with question_id, category and turns")
    id = row.get("question_id", row.get("prompt_id"))
    if not isinstance(id, int | str) or not str(id).strip():
        raise InputError(f"{where}: the field question_id (on the hub prompt_id) is missing or not a number or text")
    category = row.get("category")
    if not isinstance(category, str) or not category:
        raise InputError(f"{where}: the field category is missing or not text")
    turns = _texts(where, "turns", row.get("turns", row.get("prompt")))
    if not 1 <= len(turns) <= MOST_TURNS or not all(turn.strip() for turn in turns):
        raise InputError(
            f"{where}: the field turns has {len(turns)} texts, or a blank one; expected one or two questions"
        )
    references = None
    if category in REFERENCED and row.get("reference"):
        references = _texts(where, "reference", row["reference"])
        if len(references) != len(turns):
            raise InputError(f"{where}: the field reference has {len(references)} texts for {len(turns)} turns")
    return {"id": str(id), "index": index, "category": category, "turns": turns, "references": references}


def _add_references(questions: dict[str, Row], references: str, whole: bool) -> None:
    """Set the reference answers of the questions from a file, or None where the file has none.

    Raises InputError when the questions are the `whole` benchmark, and the file has an answer to none of them.
    """
    for row in questions.values():
        row["references"] = None
    matched = False
    for where, row in data.raw_rows(DataSource(source=references), "mt_bench.references"):
        if not isinstance(row, dict) or "question_id" not in row:
            raise InputError(f"{where}: the field question_id is missing")
        try:
            turns = row["choices"][0]["turns"]
        except (KeyError, IndexError, TypeError):
            raise InputError(f"{where}: the field choices is missing, or its first element has no turns") from None
        answers = _texts(where, "choices[0].turns", turns)
        question = questions.get(str(row["question_id"]))
        if question is None:  # a limit may have left it out
            continue
        if len(answers) != len(question["turns"]):
            raise InputError(f"{where}: choices[0].turns has {len(answers)} texts for {len(question['turns'])} turns")
        question["references"], matched = answers, True
    if whole and not matched:
        raise InputError(f"mt_bench.references = {references}: none of its question_id is one of the questions'")


def _texts(where: str, field: str, value: Any) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(text, str) for text in value):
        raise InputError(f"{where}: the field {field} is missing or not a list of texts")
    return value
