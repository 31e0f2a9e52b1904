"""How each run of a store goes, as a document that the run writes while it goes.

    .status/<address of the run>.json        .status/runs/tiny-1a2b3c4d.json

A run that is killed cannot say so: it is silent, and that its last word is old says it.
"""

from datetime import UTC, datetime
from typing import Literal

from pydantic import ValidationError

from montessori.artifacts import Store
from montessori.errors import ArtifactError
from montessori.settings.base import Frozen

PLACE = ".status"
BEAT_S = 60.0  # a run says something at least so often
SILENT_S = 3 * BEAT_S


class Shard(Frozen):
    """One stage, or one shard of it."""

    address: str
    title: str  # without the cell
    cell: str = ""  # of a study
    state: Literal["waiting", "running", "done", "cached", "failed"] = "waiting"
    attempts: int = 0
    seconds: float = 0.0  # of this attempt so far, or of the last
    done: int = 0
    total: int = 0  # 0: it has not said
    unit: str = ""
    rate: float | None = None  # units a second
    where: str = ""  # the machine, where it is not the run's
    error: str = ""

    @property
    def progress(self) -> str:
        """12/32 points; nothing when it has not said."""
        return f"{self.done}/{self.total} {self.unit}" if self.total else ""


class Status(Frozen):
    """One run or refresh."""

    run: str  # where it is, or will be, in the store
    state: Literal["running", "done", "failed", "stopped"] = "running"
    started: datetime
    heard: datetime  # when this was written
    error: str = ""
    who: dict[str, str]  # user and host of the process
    shards: list[Shard]  # all of the run, in the order in which they were asked for
    uses: list[str]  # artifacts that it was given and does not make

    @property
    def document(self) -> str:
        """The name of this document."""
        return f"{PLACE}/{self.run}.json"

    @property
    def finished(self) -> int:
        """How many stages and shards have their artifact."""
        return sum(shard.state in ("done", "cached") for shard in self.shards)

    def heard_s(self, now: datetime) -> float:
        """How many seconds ago the run said something."""
        return max(0.0, (now - self.heard).total_seconds())

    def silent(self, now: datetime) -> bool:
        """Whether it should have said something since, and so has probably been killed."""
        return self.state == "running" and self.heard_s(now) > SILENT_S

    def at_work(self, now: datetime, grace_s: float) -> bool:
        """Whether somebody is making it, or may go on with it within `grace_s` of its last word."""
        limit = max(grace_s, SILENT_S) if self.state == "running" else grace_s
        return self.state != "done" and self.heard_s(now) <= limit


def tell(store: Store, status: Status) -> None:
    """Make `status` the last word of its run."""
    store.write(status.document, status.model_dump_json(indent=1).encode() + b"\n")


def read(store: Store, document: str) -> Status | None:
    """What `document` says; None when it has gone."""
    text = store.read(document)
    try:
        return Status.model_validate_json(text) if text is not None else None
    except ValidationError as error:
        reason = error.errors()[0]["msg"]
        raise ArtifactError(f"{store.uri}: {document} tells of no run ({reason}); delete it") from None


def known(store: Store) -> list[Status]:
    """The last word of every run, the one that spoke last first."""
    found = (read(store, document) for document in store.names(f"{PLACE}/"))
    return sorted((status for status in found if status), key=lambda status: status.heard, reverse=True)


def now() -> datetime:
    """The time, as documents have it."""
    return datetime.now(UTC)
