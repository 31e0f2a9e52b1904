"""Save and read the status of the runs in a store.

    .status/<address of the run>.json        .status/runs/tiny-1a2b3c4d.json

A run writes its document while it works. A killed run writes nothing more, so its document becomes old.
"""

from datetime import UTC, datetime
from typing import Literal

from pydantic import ValidationError

from montessori.artifacts import Store
from montessori.errors import ArtifactError
from montessori.settings.base import Frozen

FOLDER = ".status"
BEAT_S = 60.0  # a running run writes at least this often
SILENT_S = 3 * BEAT_S


class Shard(Frozen):
    """A task, or one of its shards."""

    address: str
    title: str  # without the cell
    cell: str = ""  # the cell of a study
    state: Literal["waiting", "running", "done", "cached", "failed"] = "waiting"
    attempts: int = 0
    seconds: float = 0.0  # of the current or last attempt
    done: int = 0
    total: int = 0  # 0: not reported yet
    unit: str = ""
    rate: float | None = None  # units per second
    where: str = ""  # the machine, if it is not the run's
    error: str = ""

    @property
    def progress(self) -> str:
        """Return the progress, like "12/32 points", or "" before the first report."""
        return f"{self.done}/{self.total} {self.unit}" if self.total else ""


class Status(Frozen):
    """The status of a run, refresh, evaluation or study."""

    run: str  # address of the run's artifact, made or not
    state: Literal["running", "done", "failed", "stopped"] = "running"
    started: datetime
    heard: datetime  # when this was written
    error: str = ""
    who: dict[str, str]  # user and host of the process
    shards: list[Shard]  # all of the run, in the order of the plan
    uses: list[str]  # artifacts from outside the run

    @property
    def document(self) -> str:
        """Return the name of this document in the store."""
        return f"{FOLDER}/{self.run}.json"

    @property
    def finished(self) -> int:
        """Return the number of tasks and shards with an artifact."""
        return sum(shard.state in ("done", "cached") for shard in self.shards)

    def heard_s(self, now: datetime) -> float:
        """Return the seconds since the run last wrote."""
        return max(0.0, (now - self.heard).total_seconds())

    def silent(self, now: datetime) -> bool:
        """Tell whether the run should have written since, and was probably killed."""
        return self.state == "running" and self.heard_s(now) > SILENT_S

    def at_work(self, now: datetime, grace_s: float) -> bool:
        """Tell whether the run works, or stopped or failed less than `grace_s` seconds ago."""
        limit = max(grace_s, SILENT_S) if self.state == "running" else grace_s
        return self.state != "done" and self.heard_s(now) <= limit


def save(store: Store, status: Status) -> None:
    """Write `status` as the document of its run."""
    store.write(status.document, status.model_dump_json(indent=1).encode() + b"\n")


def load(store: Store, document: str) -> Status | None:
    """Return the status in `document`, or None when it is gone. Raises ArtifactError when it is no status."""
    text = store.read(document)
    try:
        return Status.model_validate_json(text) if text is not None else None
    except ValidationError as error:
        reason = error.errors()[0]["msg"]
        raise ArtifactError(f"{store.uri}: {document} is no status of a run ({reason}); delete it") from None


def all_statuses(store: Store) -> list[Status]:
    """Return the status of every run, the latest first."""
    statuses = (load(store, document) for document in store.names(f"{FOLDER}/"))
    return sorted((status for status in statuses if status), key=lambda status: status.heard, reverse=True)


def now() -> datetime:
    """Return the current time in UTC, as documents have it."""
    return datetime.now(UTC)
