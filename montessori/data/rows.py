"""Read and write rows: seed pools, reference sets and test points from a file, the hub or the pocket world.

Every source becomes rows of `id, instruction, response` (seeds may lack a response). A row has one of two forms:

    {"instruction": "Sort the words.", "input": "pear apple", "output": "apple pear"}
    {"messages": [{"role": "user", "content": "Name a colour."}, {"role": "assistant", "content": "Red."}]}

An Alpaca-style `input` is joined to its instruction by a space. The last user turn of a conversation is the
instruction, and the assistant's turn at the end the response. Without such a turn the first form's fields give the
response. The turns before the answer are kept as `messages` when any row of the source has more there than one user
turn. A row of both forms is read as a conversation. For a wrong row an InputError names the file and the line.
"""

import gzip
import hashlib
import json
import zlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from montessori.data.chat import Message, user
from montessori.errors import InputError
from montessori.extras import require
from montessori.settings.data import DataSource

Row = dict[str, Any]
FILE_TYPES = {".jsonl", ".json", ".parquet", ".gz"}
HUB_FILE = "hf://"  # the start of an address of one file in a hub repository
RESPONSE_FIELDS = ("response", "output", "answer")
ROLES = ("system", "user", "assistant")


def read(source: DataSource, role: str) -> list[Row]:
    """Read the rows of a file or hub dataset, in order. `role` is the settings field or the option, for error messages.

    Raises InputError for a file that is missing, empty, not UTF-8, or has a bad line.
    """
    raw = file_rows(Path(source.source).expanduser(), role) if is_file(source) else hub_rows(source)
    end = None if source.limit is None else source.skip + source.limit
    rows = [_row(where, row, role) for where, row in list(raw)[source.skip : end]]
    if not rows:
        raise InputError(f"{source_name(role)} = {source.source}: no rows" + (" after skip" if source.skip else ""))
    id, times = Counter(row["id"] for row in rows).most_common(1)[0]
    if times > 1:
        raise InputError(
            f"{source_name(role)} = {source.source}: {times} rows have the id {id}; each needs its own, or none"
        )
    if all(len(row["messages"]) == 1 for row in rows):
        for row in rows:
            del row["messages"]
    return rows


def source_name(role: str) -> str:
    """Return a source's name in error messages: its settings field, or its option unchanged."""
    return role if role.startswith("--") else f"{role}.source"


def is_file(source: DataSource) -> bool:
    """Return whether `source` is a path: it exists, or looks like a file's name."""
    name = source.source
    if name.startswith(HUB_FILE):
        return False
    return Path(name).exists() or name.startswith((".", "/", "~")) or Path(name).suffix in FILE_TYPES


def write_rows(path: Path, rows: list[Row]) -> None:
    """Write rows with the same keys as Parquet."""
    pq.write_table(pa.Table.from_pylist(rows), path)


def read_rows(path: Path) -> list[Row]:
    """Read the rows that `write_rows` wrote."""
    rows: list[Row] = pq.read_table(path).to_pylist()
    return rows


def file_rows(path: Path, role: str) -> Iterator[tuple[str, Row]]:
    """Yield the rows of a JSONL, JSON or Parquet file unchanged, each after its position."""
    field = f"{source_name(role)} = {path}"
    if not path.is_file():
        raise InputError(f"{field}: no such file")
    if path.suffix in {".csv", ".tsv", ".xlsx"}:
        raise InputError(f"{field}: a {path.suffix} file; JSONL, JSON or Parquet can be read")
    if path.stat().st_size == 0:
        raise InputError(f"{field}: the file is empty")
    if path.suffix == ".parquet":
        yield from ((f"{path}, row {n}", row) for n, row in enumerate(_parquet(path, field), 1))
        return
    opener = gzip.open if path.suffix == ".gz" else open
    try:
        with opener(path, "rt", encoding="utf-8-sig") as file:
            if path.name.removesuffix(".gz").endswith(".json"):
                rows = json.load(file)
                if not isinstance(rows, list):
                    raise InputError(f"{field}: expected a JSON list of objects")
                yield from ((f"{path}, element {n}", row) for n, row in enumerate(rows, 1))
                return
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield f"{path}, line {number}", _json(line, f"{field}: line {number}")
    except UnicodeDecodeError as error:
        raise InputError(f"{field}: not UTF-8 (byte {error.object[error.start]:#04x} cannot be decoded)") from None
    except json.JSONDecodeError as error:
        raise InputError(f"{field}: not JSON (line {error.lineno}: {error.msg})") from None
    except (gzip.BadGzipFile, zlib.error, EOFError) as error:
        raise InputError(f"{field}: not a whole gzip file ({error})") from None


def _json(line: str, where: str) -> Row:
    try:
        row: Row = json.loads(line)
    except json.JSONDecodeError as error:
        raise InputError(f"{where} is not JSON ({error.msg.removesuffix(' at')} at column {error.colno})") from None
    return row


def _parquet(path: Path, field: str) -> list[Row]:
    try:
        return read_rows(path)
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{field}: not a Parquet file ({error})") from None


def hub_rows(source: DataSource) -> Iterator[tuple[str, Row]]:
    """Yield the rows of a hub dataset unchanged, each after its position."""
    require("score", purpose=f"{source.source}, a dataset of the hub,")
    from datasets import load_dataset
    from datasets.exceptions import DatasetGenerationError, DatasetNotFoundError

    name, _, revision = source.source.partition("@")
    try:
        if name.startswith(HUB_FILE):
            kind = "parquet" if source.source.endswith(".parquet") else "json"
            table = load_dataset(kind, data_files=source.source, split="train")
        else:
            table = load_dataset(name, split=source.split, revision=revision or None)
    except (DatasetNotFoundError, DatasetGenerationError, FileNotFoundError, ValueError, RuntimeError) as error:
        raise InputError(f"{source.source}: cannot be loaded from the hub ({error})") from None
    yield from ((f"{source.source}, row {n}", row) for n, row in enumerate(table, 1))


def _row(where: str, row: object, role: str) -> Row:
    if not isinstance(row, dict):
        raise InputError(f"{where}: expected an object with the field instruction or messages")
    if row.get("messages") is None:
        prompt, response = user(_instruction(where, row)), _response(row)
    else:
        prompt, response = _conversation(where, row["messages"])
        if not response and (given := _response(row)) is not None:
            response = given
    instruction = next((turn["content"] for turn in reversed(prompt) if turn["role"] == "user"), "")
    if not instruction:
        raise InputError(f"{where}: messages lacks a user turn, or the last one is empty: it is the instruction")
    # A point with an empty answer gets a status instead of a score. A line without the field is a mistake.
    if not response and role != "seeds" and (response is None or role != "points"):
        raise InputError(
            f"{where}: lacks an answer{_wrong_field(row)} (one of the fields {', '.join(RESPONSE_FIELDS)}, "
            "or the assistant's turn at the end of messages)"
        )
    texts = [turn["content"] for turn in prompt]
    try:
        content = "\0".join([*texts, str(response or None), where.rpartition(" ")[2]]).encode()
        id = hashlib.sha256(content).hexdigest()[:12] if row.get("id") is None else str(row["id"])
        id.encode()
    except UnicodeEncodeError as error:
        half = ascii(error.object[error.start])[1:-1]
        raise InputError(f"{where}: {half} is half of a character; write both halves, or the character") from None
    return {"id": id, "instruction": instruction, "response": response or "", "messages": prompt}


def _instruction(where: str, row: Row) -> str:
    instruction, extra = row.get("instruction"), row.get("input")
    if not isinstance(instruction, str) or not instruction.strip():
        if instruction is None:
            raise InputError(f"{where}: the field instruction is missing (a conversation has messages instead)")
        what = "is empty" if isinstance(instruction, str) else f"is no text but {_shown(instruction)}"
        raise InputError(f"{where}: the field instruction {what}")
    if isinstance(extra, str) and extra.strip():
        return f"{instruction.strip()} {extra.strip()}"
    return instruction.strip()


def _response(row: Row) -> str | None:
    """Return the first answer that is not blank. "" when all are blank, None when no field has one."""
    given = [row[field] for field in RESPONSE_FIELDS if isinstance(row.get(field), str)]
    return next((text for text in given if text.strip()), "" if given else None)


def _wrong_field(row: Row) -> str:
    """Describe the problem with the first answer field, where there is one."""
    field = next((field for field in RESPONSE_FIELDS if row.get(field) is not None), None)
    if field is None:
        return ""
    return f": {field} is " + ("empty" if isinstance(row[field], str) else f"no text but {_shown(row[field])}")


def _shown(value: object) -> str:
    text = json.dumps(value, default=str)
    return text if len(text) <= 40 else text[:40] + "…"


def _conversation(where: str, messages: object) -> tuple[list[Message], str | None]:
    """Return the turns before the answer, and the answer. The chat template decides which roles may follow which."""
    if not isinstance(messages, list) or not messages:
        raise InputError(f"{where}: the field messages is empty or not a list of objects with role and content")
    for number, turn in enumerate(messages, 1):
        if not isinstance(turn, dict) or not {"role", "content"} <= turn.keys():
            raise InputError(f"{where}: turn {number} of messages is not an object with role and content")
        if turn["role"] not in ROLES:
            raise InputError(
                f"{where}: turn {number} of messages has the role {turn['role']!r}; expected {', '.join(ROLES)}"
            )
        if not isinstance(turn["content"], str):
            raise InputError(f"{where}: turn {number} of messages has a content that is not text")
    *before, last = messages
    if last["role"] != "assistant":
        before, last = messages, None
    prompt = [{"role": turn["role"], "content": turn["content"].strip()} for turn in before]
    if last is None:
        return prompt, None
    return prompt, last["content"] if last["content"].strip() else ""
