"""A journal: what a stage has received so far towards an artifact that is not made yet, so that no kill loses it.

    <store>/.journals/<stage>-<fingerprint>/answers.jsonl + usage.json

Each entry is a line. A line counts when it is whole; the one that a kill has torn is left behind and asked for again.
The folder goes when the artifact has been committed.
"""

import json
import os
import time
from pathlib import Path
from typing import Any, BinaryIO

SYNC_EVERY_S = 2.0

Entry = dict[str, Any]


class Journal:
    """The journal in `folder`. One process at a time writes it: see `Store.journal`."""

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


def _parsed(line: bytes) -> Entry | None:
    try:
        entry: Entry = json.loads(line)
    except ValueError:  # blocks that a power cut left unwritten
        return None
    return entry
