"""A journal: what a stage has received so far towards an artifact that is not made yet, so that no kill loses it.

    <store>/.journals/<stage>+<fingerprint>/answers.jsonl + usage.json

Each entry is a line. A line counts when it is whole; the one that a kill has torn is left behind and asked for again.
The folder goes when the artifact has been committed.
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

Entry = dict[str, Any]


class Journal(Protocol):
    """What has come so far, to read once and to add to."""

    def entries(self) -> list[Entry]:
        """All whole entries, in the order in which they were added."""

    def add(self, entry: Entry, usage: dict[str, float]) -> None:
        """Add `entry`; `usage` is the stage's so far."""

    def sync(self, usage: dict[str, float]) -> None:
        """Make sure of all that was added, and let other stages see what was used."""


class Documents(Protocol):
    """What a journal needs of a store."""

    def read(self, name: str) -> bytes | None:
        """The document of that name."""

    def write(self, name: str, content: bytes) -> None:
        """Make `content` the document of that name."""

    def names(self, prefix: str) -> list[str]:
        """The documents whose names begin so, sorted."""


class FileJournal:
    """The journal in `folder`. One process at a time writes it: see `Folder.journal`."""

    def __init__(self, folder: Path):
        self._lines, self._usage = folder / "answers.jsonl", folder / "usage.json"
        self._synced = 0.0
        self._file: BinaryIO | None = None

    def entries(self) -> list[Entry]:
        """All whole entries, in the order in which they were added. Cuts off a torn end, so that adding is safe."""
        if not self._lines.is_file():
            return []
        text = self._lines.read_bytes()
        whole = text.rfind(b"\n") + 1
        if whole < len(text):
            os.truncate(self._lines, whole)
        found = (_parsed(line) for line in text[:whole].splitlines())
        return [entry for entry in found if entry is not None]

    def add(self, entry: Entry, usage: dict[str, float]) -> None:
        """Add `entry`; `usage` is the stage's so far. Outlives this process at once, this machine within seconds."""
        if self._file is None:
            self._file = self._lines.open("ab", buffering=0)
        self._file.write(json.dumps(entry).encode() + b"\n")
        if time.monotonic() - self._synced > SYNC_EVERY_S:
            self.sync(usage)

    def sync(self, usage: dict[str, float]) -> None:
        """Bring all that was added onto the disk, and what was used to where other stages see it."""
        if self._file is not None:
            os.fsync(self._file.fileno())
        new = self._usage.with_suffix(".new")
        new.write_text(json.dumps(usage))
        new.replace(self._usage)
        self._synced = time.monotonic()

    def close(self) -> None:
        """Nothing more is added."""
        if self._file is not None:
            self._file.close()

    def usage(self) -> dict[str, float]:
        """What was used so far; empty when nothing was."""
        try:
            found: dict[str, float] = json.loads(self._usage.read_text())
        except (FileNotFoundError, ValueError):
            return {}
        return found


class PartedJournal:
    """The journal as documents of a store, a new one every few seconds; a kill loses what came since the last."""

    def __init__(self, store: Documents, name: str):
        self._store, self._name = store, name
        self._lines: list[bytes] = []
        self._usage: dict[str, float] = {}
        self._timer: threading.Timer | None = None
        self._adding, self._writing = threading.Lock(), threading.Lock()

    def entries(self) -> list[Entry]:
        """All entries, in the order in which they were added."""
        with ThreadPoolExecutor(READ_AT_ONCE) as pool:
            parts = list(pool.map(self._store.read, self._store.names(f"{self._name}/part-")))
        found = (_parsed(line) for part in parts for line in (part or b"").splitlines())
        return [entry for entry in found if entry is not None]

    def add(self, entry: Entry, usage: dict[str, float]) -> None:
        """Add `entry`; `usage` is the stage's so far. It outlives this process within seconds, come another or not."""
        with self._adding:
            self._lines.append(json.dumps(entry).encode())
            self._usage = dict(usage)
            if self._timer is None:
                self._timer = threading.Timer(SYNC_EVERY_S, self._write_soon)
                self._timer.daemon = True
                self._timer.start()

    def sync(self, usage: dict[str, float]) -> None:
        """Write what was added since the last time, and what was used."""
        with self._adding:
            self._usage = dict(usage)
        self._write()

    def _write_soon(self) -> None:
        """What the timer does. While the store is away all is kept for the next time."""
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


def _parsed(line: bytes) -> Entry | None:
    try:
        entry: Entry = json.loads(line)
    except ValueError:  # blocks that a power cut left unwritten
        return None
    return entry
