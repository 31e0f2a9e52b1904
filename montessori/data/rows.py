"""Read and write rows: seed pools, reference sets and test points from a file, a folder, the hub or the pocket world.

Every source becomes rows of `id, instruction, response` (seeds may lack a response). The last user turn is the
instruction. Where any row of the source has more than a user turn and a text as its answer, all rows also have

    messages  the turns before the answer
    answer    the assistant's turn, where it has more than a text, else None
    tools     the tools of the conversation, or None

`files` and `hub` read the sources, `forms` finds these parts in a row.
"""

import hashlib
import json
import logging
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from montessori.data import files, forms
from montessori.data.columns import unused, value_at, without_answer
from montessori.data.files import file_rows, source_name
from montessori.data.hub import HUB_FILE, hub_rows
from montessori.data.turns import shown
from montessori.errors import InputError
from montessori.settings.data import DataSource

__all__ = ["HUB_FILE", "Row", "file_rows", "is_file", "read", "read_rows", "source_name", "write_rows"]

Row = dict[str, Any]
Answers = Literal["needed", "may be blank", "optional"]
CONVERSATION = ("messages", "answer", "tools")  # columns with JSON: as objects they would share their keys
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Source:
    """Hold the rows of a source, and the columns that no row was read from."""

    rows: list[Row]
    unused: list[str]


def read(source: DataSource, role: str, answers: Answers = "needed") -> list[Row]:
    """Read the rows of a file, folder or hub dataset, in order. `role` is the settings field or the option.

    `answers` decides which rows without an answer are read. Raises InputError for a source that is missing, empty or
    not text, or that has a row of no known form.
    """
    return load(source, role, answers).rows


def load(source: DataSource, role: str, answers: Answers = "needed") -> Source:
    """Read the rows as `read` does, and note the columns that were not used."""
    field = f"{source_name(role)} = {source.source}"
    rows, seen, found = [], dict[str, None](), set[str]()
    end = None if source.limit is None else source.skip + source.limit
    columns = {str(part): name for part, name in source.columns.items()}
    number = 0
    for number, (where, raw) in enumerate(islice(raw_rows(source, role), end), 1):
        if number <= source.skip:
            continue
        if not isinstance(raw, dict):
            raise InputError(f"{where}: expected an object with fields such as instruction and response, or messages")
        parts = forms.find(where, raw, role, columns)
        rows.append(_row(where, number, parts, answers))
        seen.update(dict.fromkeys(raw))
        found.update(part for part, name in columns.items() if value_at(raw, name) is not None)
    if not rows:
        raise InputError(f"{field}: no rows" + (f" after skip = {source.skip}; it has {number}" if number else ""))
    if missing := next((part for part in columns if part not in found), None):
        raise InputError(f"{field}: no row has the column {columns[missing]}, which columns.{missing} names")
    id, times = Counter(row["id"] for row in rows).most_common(1)[0]
    if times > 1:
        raise InputError(f"{field}: {times} rows have the id {id}; each needs its own, or none")
    if all(_is_simple(row) for row in rows):
        rows = [{key: value for key, value in row.items() if key not in CONVERSATION} for row in rows]
    return Source(rows, unused(columns, seen))


def check(source: DataSource, role: str, answers: Answers = "needed") -> list[Row]:
    """Read the rows before anything starts, and log the columns that are not used."""
    read = load(source, role, answers)
    if read.unused:
        log.warning("%s = %s: not used are the columns %s", source_name(role), source.source, ", ".join(read.unused))
    return read.rows


def raw_rows(source: DataSource, role: str) -> Iterator[tuple[str, Any]]:
    """Yield the rows of a file, folder or hub dataset unchanged, each after its place."""
    if not is_file(source):
        yield from hub_rows(source, role)
        return
    path, field = Path(source.source).expanduser(), f"{source_name(role)} = {source.source}"
    if source.config is not None:
        raise InputError(f"{field}: a file has no config {source.config}; leave config out")
    for file in files.data_files(path, source.split, field):
        yield from file_rows(file, role)


def is_file(source: DataSource) -> bool:
    """Return whether `source` is a path: it exists, or looks like a file's name."""
    name = source.source
    if name.startswith(HUB_FILE):
        return False
    return Path(name).exists() or name.startswith((".", "/", "~")) or files.has_data_suffix(Path(name))


def write_rows(path: Path, rows: list[Row]) -> None:
    """Write rows with the same keys as Parquet. The columns of a conversation are JSON, without invented nulls."""
    names = list(rows[0]) if rows else []
    table = pa.Table.from_pylist([{name: row[name] for name in names if name not in CONVERSATION} for row in rows])
    for name in CONVERSATION:
        if name in names:
            table = table.append_column(name, _column([row[name] for row in rows]))
    pq.write_table(table.select(names), path)


def read_rows(path: Path) -> list[Row]:
    """Read the rows that `write_rows` wrote."""
    table = pq.read_table(path)
    rows: list[Row] = table.to_pylist()
    for name in [field.name for field in table.schema if isinstance(field.type, pa.JsonType)]:
        for row in rows:
            row[name] = None if row[name] is None else json.loads(row[name])
    return rows


def _column(values: list[Any]) -> pa.Array:
    if not any(isinstance(value, list | dict) for value in values):
        return pa.array(values)
    texts = [None if value is None else json.dumps(value, ensure_ascii=False) for value in values]
    return pa.ExtensionArray.from_storage(pa.json_(), pa.array(texts, pa.string()))


def _row(where: str, number: int, parts: forms.Found, answers: Answers) -> Row:
    prompt, answer = parts.prompt, parts.answer or {"role": "assistant", "content": ""}
    instruction = next((turn["content"] for turn in reversed(prompt) if turn["role"] == "user"), "")
    if not instruction.strip():
        raise InputError(f"{where}: the conversation lacks a user turn, or its last one is empty")
    if not answer["content"].strip() and not answer.get("tool_calls"):
        if answers == "needed" or (answers == "may be blank" and not parts.is_blank):
            raise InputError(without_answer(parts.reader))
        answer = {**answer, "content": ""}
    row = {
        "id": None if parts.id is None else _id(where, parts.id),
        "instruction": instruction,
        "response": answer["content"],
        "messages": prompt,
        "answer": answer if len(answer) > 2 else None,
        "tools": parts.tools,
    }
    _check_texts(where, [prompt, row["id"], row["response"], row["answer"], row["tools"]])
    if row["id"] is None:
        extras = [json.dumps([prompt, row["answer"], row["tools"]], sort_keys=True)] if not _is_plain(row) else []
        texts = [*(turn["content"] for turn in prompt), str(row["response"] or None), *extras, str(number)]
        row["id"] = hashlib.sha256("\0".join(texts).encode()).hexdigest()[:12]
    return row


def _is_simple(row: Row) -> bool:
    return len(row["messages"]) == 1 and _is_plain(row)


def _is_plain(row: Row) -> bool:
    """Return whether all turns of a row are texts alone."""
    return row["answer"] is None and row["tools"] is None and all(len(turn) == 2 for turn in row["messages"])


def _id(where: str, value: object) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise InputError(f"{where}: the id is no text and no number but {shown(value)}")
    return str(value)


def _check_texts(where: str, value: object) -> None:
    """Raise InputError for a text that cannot be written as UTF-8, or has a NUL character."""
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError as error:
            half = ascii(value[error.start])[1:-1]
            raise InputError(f"{where}: {half} is half of a character; write both halves, or the character") from None
        if "\0" in value:
            before = value[: value.index("\0")][-40:]
            raise InputError(f"{where}: a text has a NUL character after {before!r}; remove it")
    elif isinstance(value, dict | list):
        for element in [*value, *value.values()] if isinstance(value, dict) else value:
            _check_texts(where, element)
