"""A journal of a task's answers so far, so that a kill loses none of them.

    <store>/.journals/<stage>+<fingerprint>/answers.jsonl + usage.json

Each entry is a line. A line torn by a kill is dropped, and its question is asked again. The journal is deleted after
the commit of the artifact.
"""

import json
import logging
import os
import threading
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from montessori.errors import MontessoriError

SYNC_EVERY_S = 2.0
READ_AT_ONCE = 16
log = logging.getLogger(__name__)

Record = dict[str, Any]


class Journal(Protocol):
    """The entries so far, to read once and to extend."""

    def entries(self) -> list[Record]:
        """Return all whole entries, in the order in which they were added."""

    def add(self, entry: Record, usage: dict[str, float]) -> None:
        """Add an entry. `usage` is the task's usage so far."""

    def sync(self, usage: dict[str, float]) -> None:
        """Save all entries, and show other tasks the usage so far."""


class Documents(Protocol):
    """A journal's view of a store."""

    def read(self, name: str) -> bytes | None:
        """Return the document `name`, or None."""

    def write(self, name: str, content: bytes) -> None:
        """Make `content` the document `name`."""

    def names(self, prefix: str) -> list[str]:
        """Return the names of the documents that begin with `prefix`, sorted."""


class FileJournal:
    """A journal in `folder`, for one writer at a time (`Folder.journal`)."""

    def __init__(self, folder: Path):
        self._lines, self._usage = folder / "answers.jsonl", folder / "usage.json"
        self._synced = 0.0
        self._file: BinaryIO | None = None

    def entries(self) -> list[Record]:
        """Return all whole entries, in the order in which they were added.

        Cuts off a torn last line, so that entries can be added.
        """
        if not self._lines.is_file():
            return []
        text = self._lines.read_bytes()
        whole = text.rfind(b"\n") + 1
        if whole < len(text):
            os.truncate(self._lines, whole)
        entries = (_parse_line(line) for line in text[:whole].splitlines())
        return [entry for entry in entries if entry is not None]

    def add(self, entry: Record, usage: dict[str, float]) -> None:
        """Add an entry. `usage` is the task's usage so far.

        The entry survives the end of this process at once, and that of this machine after `SYNC_EVERY_S`.
        """
        if self._file is None:
            self._file = self._lines.open("ab", buffering=0)
        self._file.write(json.dumps(entry).encode() + b"\n")
        if time.monotonic() - self._synced > SYNC_EVERY_S:
            self.sync(usage)

    def sync(self, usage: dict[str, float]) -> None:
        """Write all entries to the disk, and the usage to where other tasks read it."""
        if self._file is not None:
            os.fsync(self._file.fileno())
        new = self._usage.with_suffix(".new")
        new.write_text(json.dumps(usage))
        new.replace(self._usage)
        self._synced = time.monotonic()

    def close(self) -> None:
        """Close the file. No entry can be added after this."""
        if self._file is not None:
            self._file.close()

    def usage(self) -> dict[str, float]:
        """Return the usage so far, empty at the start."""
        try:
            used: dict[str, float] = json.loads(self._usage.read_text())
        except (FileNotFoundError, ValueError):
            return {}
        return used


class PartedJournal:
    """A journal as documents of a store, a new one every `SYNC_EVERY_S`. A kill loses the entries since the last."""

    def __init__(self, store: Documents, name: str):
        self._store, self._name = store, name
        self._lines: list[bytes] = []
        self._usage: dict[str, float] = {}
        self._timer: threading.Timer | None = None
        self._adding, self._writing = threading.Lock(), threading.Lock()

    def entries(self) -> list[Record]:
        """Return all entries, in the order in which they were added."""
        with ThreadPoolExecutor(READ_AT_ONCE) as pool:
            parts = list(pool.map(self._store.read, self._store.names(f"{self._name}/part-")))
        entries = (_parse_line(line) for part in parts for line in (part or b"").splitlines())
        return [entry for entry in entries if entry is not None]

    def add(self, entry: Record, usage: dict[str, float]) -> None:
        """Add an entry. `usage` is the task's usage so far.

        The entry survives the end of this process after `SYNC_EVERY_S`, also when no other entry follows.
        """
        with self._adding:
            self._lines.append(json.dumps(entry).encode())
            self._usage = dict(usage)
            if self._timer is None:
                self._timer = threading.Timer(SYNC_EVERY_S, self._write_soon)
                self._timer.daemon = True
                self._timer.start()

    def sync(self, usage: dict[str, float]) -> None:
        """Write the entries since the last time, and the usage."""
        with self._adding:
            self._usage = dict(usage)
        self._write()

    def _write_soon(self) -> None:
        """Write when the timer ends. Keep the entries for the next time when the store does not answer."""
        try:
            if self._lines:
                self._write()
        except MontessoriError as error:
            log.warning("the journal is behind: %s", error)

    def _write(self) -> None:
        with self._writing:
            with self._adding:
                lines, self._lines, usage = self._lines, [], self._usage
                if self._timer is not None:
                    self._timer.cancel()
                    self._timer = None
            try:
                if lines:
                    part = f"{self._name}/part-{time.time_ns():020d}-{uuid.uuid4().hex}.jsonl"
                    self._store.write(part, b"\n".join(lines))
                    lines = []
                self._store.write(f"{self._name}/usage.json", json.dumps(usage).encode())
            except BaseException:
                with self._adding:
                    self._lines = lines + self._lines
                raise


def _parse_line(line: bytes) -> Record | None:
    try:
        entry: Record = json.loads(line)
    except ValueError:  # a power cut left a block unwritten
        return None
    return entry
