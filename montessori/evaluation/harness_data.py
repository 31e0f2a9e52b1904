"""Read local files in place of the hub's data, for machines that cannot reach the hub.

Files are JSON Lines, JSON, CSV, Parquet or Arrow. Their rows get the hub's form. Copies of the harness's task
configurations then read these rows and are otherwise unchanged.

    mmlu, mmlu_<subject>     subject, question, A to D (or choices), answer: a letter, or an index from 0
    arc_challenge, arc_easy  query, choices, gold; or the hub's question, choices {text, label}, answerKey
    gsm8k                    question, answer, which ends with #### and the number
    hellaswag                activity_label, ctx_a, ctx_b, endings, label
    gpqa_…                   Question, Correct Answer, Incorrect Answer 1 to 3

Rows of any other task stay as they are.
"""

import json
from collections import defaultdict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa

from montessori.data.rows import Row, file_rows, write_rows
from montessori.errors import InputError

Rows = dict[str, list[Row]]  # by the harness's task, one for each subject of mmlu

SUBJECTS = (  # MMLU's
    "abstract_algebra", "anatomy", "astronomy", "business_ethics", "clinical_knowledge", "college_biology",
    "college_chemistry", "college_computer_science", "college_mathematics", "college_medicine", "college_physics",
    "computer_security", "conceptual_physics", "econometrics", "electrical_engineering", "elementary_mathematics",
    "formal_logic", "global_facts", "high_school_biology", "high_school_chemistry", "high_school_computer_science",
    "high_school_european_history", "high_school_geography", "high_school_government_and_politics",
    "high_school_macroeconomics", "high_school_mathematics", "high_school_microeconomics", "high_school_physics",
    "high_school_psychology", "high_school_statistics", "high_school_us_history", "high_school_world_history",
    "human_aging", "human_sexuality", "international_law", "jurisprudence", "logical_fallacies", "machine_learning",
    "management", "marketing", "medical_genetics", "miscellaneous", "moral_disputes", "moral_scenarios",
    "nutrition", "philosophy", "prehistory", "professional_accounting", "professional_law", "professional_medicine",
    "professional_psychology", "public_relations", "security_studies", "sociology", "us_foreign_policy", "virology",
    "world_religions",
)  # fmt: skip


def read(file: str | Path, task: str, field: str = "file") -> Rows:
    """Return the rows of a file in the hub's form, by task. Needs neither models nor the harness.

    Raises InputError with the settings field and file, or with the file, line and column.
    """
    path = Path(file).expanduser()
    convert = _converter(task)
    by_task: Rows = defaultdict(list)
    for where, row in file_rows(path, field):
        if not isinstance(row, dict):
            raise InputError(f"{where}: expected an object with a field a column")
        name = _subtask(where, row, task)
        if name == task or task == "mmlu":
            by_task[name].append(convert(where, row))
    if not by_task:
        raise InputError(f"{field}.source = {path}: no rows of {task}")
    return {name: _alike(path, by_task[name]) for name in sorted(by_task)}


def splits(entry: Any, items: Rows, shots: Rows | None, field: str) -> Rows:
    """Return the rows of each split in use by the harness, for the task with this `entry` in its index.

    `shots` are the rows of few-shot examples, and `field` is the benchmark's. Raises InputError for a task whose data
    do not come from files, or whose examples the harness would not find.
    """
    name, task = entry.name, entry.cfg
    if not entry.yaml_path or "class" in task or task.get("custom_dataset"):
        raise InputError(f"{field}.task = {name}: the harness makes its items itself; leave {field}.file away")
    rows, (measured, shown) = items[name], _splits(task)
    tables = {measured: rows}
    if shots is not None:
        examples = shots.get(name)
        if not examples:
            raise InputError(f"{field}.shots_file: no examples of {name}; each subject of file needs its own")
        if shown == measured and examples != rows:
            raise InputError(
                f"{field}.shots_file: of {name} the harness shows other items as examples; "
                f"give the same file as in {field}.file"
            )
        if shown:
            tables[shown] = examples
    elif shown and shown != measured:
        tables[shown] = rows  # the harness reads the split even without examples
    return tables


def configure(index: Mapping[str, Any], items: Rows, shots: Rows | None, *, folder: Path, field: str) -> None:
    """Write data and configurations into `folder`, where the harness's TaskManager reads them.

    `index` is the manager's. Raises InputError as `splits` does.
    """
    for name in items:
        tables = splits(index[name], items, shots, field)
        files = {split: str(folder / f"{name}.{split}.parquet") for split in tables}
        for split, table in tables.items():
            write_rows(Path(files[split]), table)
        changed = {
            "include": str(index[name].yaml_path),
            "task": name,
            "dataset_path": "parquet",
            "dataset_name": None,
            "dataset_kwargs": {"data_files": files, "cache_dir": str(folder / "cache")},
        }
        (folder / f"{name}.yaml").write_text(json.dumps(changed))  # JSON is YAML too


def _splits(task: Mapping[str, Any]) -> tuple[str, str | None]:
    """Return the split of the items, and that of the examples, or None where the configuration holds them."""
    measured = task.get("test_split") or task["validation_split"]
    examples = task.get("fewshot_config") or {}
    shown = examples.get("split") or task.get("fewshot_split")
    if not shown and not examples.get("samples"):
        shown = task.get("training_split") or task.get("validation_split") or measured
    return measured, shown


def _subtask(where: str, row: Row, task: str) -> str:
    if task != "mmlu" and (task.removeprefix("mmlu_") not in SUBJECTS or "subject" not in row):
        return task
    subject = _text(where, row, "subject")
    if subject not in SUBJECTS:
        raise InputError(f"{where}: column subject is {subject!r}; expected one of MMLU's 57, such as {SUBJECTS[0]}")
    return f"mmlu_{subject}"


def _converter(task: str) -> Callable[[str, Row], Row]:
    if task == "mmlu" or task.removeprefix("mmlu_") in SUBJECTS:
        return _mmlu
    if task.startswith("gpqa_"):
        return _gpqa
    return {"arc_challenge": _arc, "arc_easy": _arc, "gsm8k": _gsm8k, "hellaswag": _hellaswag}.get(
        task, lambda _, row: row
    )


def _mmlu(where: str, row: Row) -> Row:
    if row.get("choices") is None:
        choices = [_text(where, row, letter) for letter in "ABCD"]
    else:
        choices = _texts(where, row, "choices", 4)
    question, answer = _text(where, row, "question"), _index(where, row, "answer", "ABCD")
    return {"question": question, "choices": choices, "answer": answer}


def _arc(where: str, row: Row) -> Row:
    if "query" in row:
        choices = _texts(where, row, "choices")
        letters = "ABCDEFGH"[: len(choices)]
        return {
            "question": _text(where, row, "query").removeprefix("Question: ").removesuffix("\nAnswer:"),
            "choices": {"text": choices, "label": list(letters)},
            "answerKey": letters[_index(where, row, "gold", letters)],
        }
    question, given, key = _text(where, row, "question"), row.get("choices"), _text(where, row, "answerKey")
    if not isinstance(given, dict):
        raise InputError(f"{where}: column choices is missing or not an object with text and label")
    texts = _texts(where, given, "text")
    labels = _texts(where, given, "label", len(texts))
    if key not in labels:
        raise InputError(f"{where}: column answerKey is {key!r}; expected one of the labels {', '.join(labels)}")
    return {"question": question, "choices": {"text": texts, "label": labels}, "answerKey": key}


def _gsm8k(where: str, row: Row) -> Row:
    question, answer = _text(where, row, "question"), _text(where, row, "answer")
    if "#### " not in answer:
        raise InputError(f"{where}: column answer has no '#### ' with the final number behind it")
    return {"question": question, "answer": answer}


def _hellaswag(where: str, row: Row) -> Row:
    endings = _texts(where, row, "endings", 4)
    label = _index(where, row, "label", "ABCD")
    texts = {column: _text(where, row, column) for column in ("activity_label", "ctx_a")}
    following = _text(where, row, "ctx_b", empty=True)
    return {**texts, "ctx_b": following, "endings": endings, "label": str(label)}


def _gpqa(where: str, row: Row) -> Row:
    columns = ("Question", "Correct Answer", *(f"Incorrect Answer {n}" for n in (1, 2, 3)))
    return {column: _text(where, row, column) for column in columns}


def _text(where: str, row: Row, column: str, empty: bool = False) -> str:
    value = row.get(column)
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise InputError(f"{where}: column {column} is missing or not text")
    if not empty and not str(value).strip():
        raise InputError(f"{where}: column {column} is empty")
    return str(value)


def _texts(where: str, row: Row, column: str, count: int | None = None) -> list[str]:
    values = row.get(column)
    if not isinstance(values, list) or (count and len(values) != count) or len(values) < 2:
        raise InputError(f"{where}: column {column} is missing or not a list of {count or 'two or more'} texts")
    return [_text(where, {column: value}, column) for value in values]


def _index(where: str, row: Row, column: str, letters: str) -> int:
    """Return an answer given as an index from 0 or as a letter."""
    if row.get(column) is None:
        raise InputError(f"{where}: column {column} is missing")
    value = str(row.get(column)).strip()
    if value.isdecimal() and int(value) < len(letters):
        return int(value)
    if len(value) == 1 and value in letters:
        return letters.index(value)
    last = len(letters) - 1
    raise InputError(
        f"{where}: column {column} is {row.get(column)!r}; expected a letter A to {letters[-1]} or an index 0 to {last}"
    )


def _alike(path: Path, rows: list[Row]) -> list[Row]:
    """Return `rows` with the same columns, so that they form a table."""
    columns = list(dict.fromkeys(column for row in rows for column in row))
    for column in columns:
        try:
            pa.array([row.get(column) for row in rows])
        except pa.ArrowException as error:
            raise InputError(f"{path}: column {column} has values of more than one kind ({error})") from None
    return [{column: row.get(column) for column in columns} for row in rows]
