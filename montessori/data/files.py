"""Stream the rows of files and folders unchanged, each after its place in the file.

JSON Lines and JSON, CSV and TSV, Parquet and Arrow. Text files may be compressed (.gz, .bz2, .xz, .zst). A folder has
files of one kind, or is one that `datasets` saved to disk. A reader holds few rows at a time, so the first ten rows of
a large file cost no more than those of a small one. For a file that cannot be read an InputError names file and line.
"""

import bz2
import codecs
import csv
import gzip
import io
import itertools
import json
import lzma
import re
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TextIO, cast

import pyarrow as pa
import pyarrow.parquet as pq

from montessori.errors import InputError

KINDS = {
    ".jsonl": "JSON Lines",
    ".ndjson": "JSON Lines",
    ".json": "JSON",
    ".csv": "CSV",
    ".tsv": "CSV",
    ".parquet": "Parquet",
    ".arrow": "Arrow",
}
PACKED: dict[str, Callable[[Path], Any]] = {
    ".gz": gzip.GzipFile,
    ".bz2": bz2.BZ2File,
    ".xz": lzma.LZMAFile,
    ".zst": lambda path: io.BufferedReader(pa.CompressedInputStream(str(path), "zstd")),
}
MARKS = (  # the byte order marks of UTF-32 begin with those of UTF-16
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
UNREADABLE = (".xlsx", ".xls", ".ods", ".zip", ".tar", ".pdf", ".pkl", ".bin")
SPLITS = {"train", "training", "test", "testing", "validation", "valid", "val", "dev", "eval"}
CARDS = {"dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json"}  # JSON files without rows
CHUNK = 1 << 20  # characters of a JSON list read at once
BATCH = 500  # rows of a table in Python at once


def source_name(role: str) -> str:
    """Return a source's name in error messages: its settings field, or its option unchanged."""
    return role if role.startswith("--") else f"{role}.source"


def kind_of(path: Path) -> str:
    """Return the kind of a file by its name, compressed or not. A file with another name is taken for JSON Lines."""
    plain = path.with_suffix("") if path.suffix in PACKED else path
    return KINDS.get(plain.suffix.lower(), "JSON Lines")


def has_data_suffix(path: Path) -> bool:
    """Return whether the name ends like a data file's."""
    return path.suffix in PACKED or path.suffix.lower() in KINDS


def data_files(path: Path, split: str, field: str) -> list[Path]:
    """Return the files to read in order: `path` itself, or those of a folder that belong to `split`.

    Raises InputError that begins with `field`.
    """
    if path.is_file():
        if split != "train":
            raise InputError(f"{field}: a file has no split {split}; leave split out")
        return [path]
    if not path.is_dir():
        raise InputError(f"{field}: no such file")
    if (card := path / "dataset_dict.json").is_file():
        splits = _document(card, field)["splits"]
        if split not in splits:
            raise InputError(f"{field}: the folder has no split {split}; set split to one of {', '.join(splits)}")
        path, split = path / split, "train"
    if (state := path / "state.json").is_file():
        saved = _document(state, field)
        if split not in ("train", saved.get("_split")):
            raise InputError(f"{field}: a saved dataset without a split {split}; leave split out")
        return [path / file["filename"] for file in saved["_data_files"]]
    return _shards(path, split, field)


def file_rows(path: Path, role: str, named: str | None = None) -> Iterator[tuple[str, Any]]:
    """Yield the rows of one file unchanged, each after its place. `named` replaces the path in error messages."""
    name = named or str(path)
    field = f"{source_name(role)} = {name}"
    if not path.is_file():
        raise InputError(f"{field}: no such file")
    if path.suffix in UNREADABLE:
        raise InputError(f"{field}: a {path.suffix} file; save its rows as CSV, JSON Lines or Parquet")
    if path.stat().st_size == 0:
        raise InputError(f"{field}: the file is empty")
    kind = kind_of(path)
    if kind in ("Parquet", "Arrow"):
        if path.suffix in PACKED:
            raise InputError(f"{field}: a compressed {kind} file; unpack it first")
        read = _parquet_rows if kind == "Parquet" else _arrow_rows
        try:
            yield from ((f"{name}, row {n}", row) for n, row in enumerate(read(path), 1))
        except (pa.ArrowException, OSError) as error:
            raise InputError(f"{field}: not {_article(kind)} file ({_first_line(error)})") from None
        return
    try:
        yield from _csv_rows(path, name) if kind == "CSV" else _json_rows(path, name, field)
    except UnicodeDecodeError as error:
        raise InputError(
            f"{field}: not UTF-8 (byte {error.object[error.start]:#04x} cannot be decoded); save the file as UTF-8"
        ) from None
    except UnicodeError as error:
        raise InputError(f"{field}: not text in the encoding of its first bytes ({error})") from None
    except json.JSONDecodeError as error:
        raise InputError(f"{field}: not JSON (line {error.lineno}: {error.msg})") from None
    except csv.Error as error:
        raise InputError(f"{field}: not CSV ({error})") from None
    except (gzip.BadGzipFile, zlib.error, lzma.LZMAError, EOFError, OSError) as error:
        packed = {".gz": "gzip", ".bz2": "bzip2", ".xz": "xz", ".zst": "zstd"}.get(path.suffix)
        if packed is None:
            raise
        raise InputError(f"{field}: not a whole {packed} file ({_first_line(error)})") from None


def table_rows(table: pa.RecordBatch | pa.Table) -> Iterator[dict[str, Any]]:
    """Yield the rows of a table, with JSON columns parsed and without the nulls that a column of objects invents.

    Objects in one column share their keys, so an object without a key comes back with null. Such a key is left out.
    """
    kinds = {field.name: field.type for field in table.schema}
    for start in range(0, table.num_rows, BATCH):
        for row in table.slice(start, BATCH).to_pylist():
            yield {name: _value(value, kinds[name]) for name, value in row.items()}


def _value(value: Any, kind: pa.DataType) -> Any:
    if value is None:
        return None
    if isinstance(kind, pa.JsonType):
        return json.loads(value)
    if pa.types.is_struct(kind):
        return {key.name: _value(value[key.name], key.type) for key in kind if value[key.name] is not None}
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        return [_value(element, kind.value_type) for element in value]
    return value


def _shards(folder: Path, split: str, field: str) -> list[Path]:
    files = [file for file in sorted(folder.iterdir()) if file.is_file() and has_data_suffix(file)]
    files = [file for file in files if file.name not in CARDS and not file.name.startswith(".")]
    if not files:
        below = sorted(one.name for one in folder.iterdir() if one.is_dir() and not one.name.startswith("."))
        hint = f"; name one of the folders in it ({', '.join(below[:5])})" if below else ""
        raise InputError(f"{field}: a folder without data files ({', '.join(KINDS)}){hint}")
    parts = {file: re.split(r"[-_.]", file.name)[0] for file in files}
    if splits := sorted(SPLITS & set(parts.values())):
        files = [file for file in files if parts[file] == split]
        if not files:
            raise InputError(f"{field}: no file of the split {split} in the folder; there are {', '.join(splits)}")
    elif split != "train":
        raise InputError(f"{field}: the names of the folder's files name no split {split}; leave split out")
    kinds = {kind_of(file) for file in files}
    if len(kinds) > 1:
        raise InputError(f"{field}: the folder has files of several kinds ({', '.join(sorted(kinds))}); name one file")
    return files


def _document(path: Path, field: str) -> dict[str, Any]:
    try:
        document: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{field}: {path.name} is not JSON ({error}); save the dataset again") from None
    return document


def _text(path: Path, newline: str | None = None) -> TextIO:
    """Open a text file, compressed or not, in the encoding of its byte order mark or as UTF-8."""
    open_bytes: Callable[[Path], Any] = PACKED.get(path.suffix, lambda path: path.open("rb"))
    with open_bytes(path) as file:
        head = file.read(4)
    encoding = next((name for mark, name in MARKS if head.startswith(mark)), "utf-8")
    return io.TextIOWrapper(open_bytes(path), encoding=encoding, newline=newline)


def _json_rows(path: Path, name: str, field: str) -> Iterator[tuple[str, Any]]:
    """Yield the rows of a JSON file: lines, a list, or an object with one list."""
    with _text(path) as file:
        head = file.read(CHUNK)
        if head.lstrip().startswith("["):
            yield from ((f"{name}, element {n}", row) for n, row in enumerate(_elements(head, file), 1))
            return
    if kind_of(path) == "JSON" and (rows := _listed(path, field)) is not None:
        yield from ((f"{name}, element {n}", row) for n, row in enumerate(rows, 1))
        return
    with _text(path) as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                try:
                    yield f"{name}, line {number}", json.loads(line)
                except json.JSONDecodeError as error:
                    reason = f"{error.msg.removesuffix(' at')} at column {error.colno}"
                    raise InputError(f"{field}: line {number} is not JSON ({reason})") from None


def _listed(path: Path, field: str) -> list[Any] | None:
    """Return the one list of rows in a JSON object, or None where the file has an object a line."""
    with _text(path) as file:
        filled = (line for line in file if line.strip())
        first, second = next(filled, ""), next(filled, "")
    try:
        whole = json.loads(first)
    except json.JSONDecodeError:  # an object of several lines
        with _text(path) as file:
            whole = json.load(file)
    else:
        if second:
            return None
    lists = [value for value in whole.values() if _has_rows(value)] if isinstance(whole, dict) else []
    if len(lists) == 1:
        return cast(list[Any], lists[0])
    if isinstance(whole, dict) and not lists and whole:
        return [whole]
    raise InputError(f"{field}: expected a JSON list of rows, an object with one list of rows, or a row a line")


def _has_rows(value: object) -> bool:
    """Return whether `value` is a list of objects that are not the turns of a conversation."""
    return (
        isinstance(value, list)
        and bool(value)
        and all(isinstance(row, dict) and not {"role", "from", "speaker"} & row.keys() for row in value)
    )


def _elements(text: str, file: TextIO) -> Iterator[Any]:
    """Yield the elements of the JSON list that begins in `text` and goes on in `file`, with few in memory at a time."""
    decode, space, first, line = json.JSONDecoder().raw_decode, re.compile(r"[ \t\r\n]*"), True, 1
    at = text.index("[") + 1

    def skip_space(start: int) -> int:
        match = space.match(text, start)
        return match.end() if match else start

    while True:
        at, problem = skip_space(at), None
        if first and text[at : at + 1] == "]":
            end = at
        else:
            try:
                value, end = decode(text, at)
                end = skip_space(end)
                if text[end : end + 1] not in (",", "]"):
                    problem = json.JSONDecodeError("Expecting ',' delimiter", text, end)
            except json.JSONDecodeError as error:
                problem = error
        if problem:
            if more := file.read(max(CHUNK, len(text))):  # doubled, so that a long element is read a few times
                line += text.count("\n", 0, at)
                text, at = text[at:] + more, 0
                continue
            problem.lineno += line - 1
            raise problem
        if not (first and end == at):
            yield value
        if text[end] == "]":
            break
        first, at = False, end + 1
    rest = text[end + 1 :] + file.read()
    if rest.strip():
        line += text.count("\n", 0, end)
        problem = json.JSONDecodeError("Extra data", rest, len(rest) - len(rest.lstrip()))
        problem.lineno += line - 1
        raise problem


def _csv_rows(path: Path, name: str) -> Iterator[tuple[str, dict[str, str]]]:
    csv.field_size_limit(2**31 - 1)  # the default refuses a text of 128 KiB
    with _text(path, newline="") as file:
        first = file.readline()
        mark = "\t" if ".tsv" in path.name.lower() else max(",;\t", key=first.count)
        reader = csv.DictReader(itertools.chain([first], file), strict=True, delimiter=mark)
        reader.fieldnames = [column.strip() for column in reader.fieldnames or []]
        columns = [column for column in reader.fieldnames if column]
        twice = next((column for column in columns if columns.count(column) > 1), None)
        if twice:
            raise InputError(f"{name}, line 1: two columns have the name {twice}; rename one")
        for row in reader:
            where = f"{name}, line {reader.line_num}"
            if None in row:
                raise InputError(f"{where}: more values than columns in the first line")
            if None in row.values():
                raise InputError(f"{where}: fewer values than columns in the first line")
            yield where, row


def _parquet_rows(path: Path) -> Iterator[dict[str, Any]]:
    with pq.ParquetFile(path, memory_map=True) as file:
        for batch in file.iter_batches(BATCH):
            yield from table_rows(batch)


def _arrow_rows(path: Path) -> Iterator[dict[str, Any]]:
    with pa.memory_map(str(path)) as file:
        if file.read(6) == b"ARROW1":
            reader = pa.RecordBatchFileReader(file)
            batches = (reader.get_batch(number) for number in range(reader.num_record_batches))
        else:
            file.seek(0)
            batches = iter(pa.RecordBatchStreamReader(file))
        for batch in batches:
            yield from table_rows(batch)


def _article(kind: str) -> str:
    return f"an {kind}" if kind == "Arrow" else f"a {kind}"


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]
