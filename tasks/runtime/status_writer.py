"""A run tells the store how it goes, every few seconds while things change: `montessori status` reads it.

In: what the run is to make, and the records of its attempts.  Out: the document of `tasks.runtime.status`.
"""

import logging
import threading
import time
from collections.abc import Mapping
from datetime import datetime

from montessori.artifacts import Request, Store
from montessori.artifacts.gc import artifacts_in
from montessori.artifacts.store import signature
from montessori.errors import MontessoriError
from tasks.runtime import status
from tasks.runtime.executor import Record
from tasks.runtime.status import Shard, Status

EVERY_S = 5.0
LEAVING_S = 2.0  # for a last word, when the process is told to end
log = logging.getLogger(__name__)
_telling: list["Telling"] = []


class Telling:
    """Tells of `requests`, the last of which is the run itself, inside the block."""

    def __init__(self, store: Store, requests: Mapping[str, Request], records: Mapping[str, Record]):
        self._store, self._records = store, records
        self._titles = {address: request.title for address, request in requests.items()}
        taken = {a for request in requests.values() for a in artifacts_in(request.inputs, store.uri)}
        self._uses = sorted(taken - set(requests))
        self._run = list(requests)[-1]
        self._started = status.now()
        self._seen: dict[tuple[str, int], tuple[float, int]] = {}  # when an attempt was first seen, and how far it was
        self._told: tuple[object, float] = (None, 0.0)
        self._turn = threading.Lock()
        self._ended = threading.Event()
        self.failed = ""  # why it counts as failed, though no error ended it
        self._thread = threading.Thread(target=self._follow, daemon=True)

    def __enter__(self) -> "Telling":
        self._tell()
        _telling.append(self)
        self._thread.start()
        return self

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        _telling.remove(self)
        self._ended.set()
        self._thread.join()
        if error is None:
            self._tell("failed" if self.failed else "done", self.failed)
        else:
            self._tell("failed" if isinstance(error, Exception) else "stopped", str(error))

    def instead(self, planned: str, made: Request) -> None:
        """The run is not at the address `planned`, where it was told of so far, but is `made`."""
        with self._turn:
            self._store.remove(f"{status.PLACE}/{planned}.json")
            self._titles = {a: t for a, t in self._titles.items() if a != planned} | {made.address: made.title}
            self._run = made.address
            self._told = (None, 0.0)

    def leave(self) -> None:
        """Say that the run was stopped, as the process's last word."""
        self._ended.set()
        self._tell("stopped")

    def _follow(self) -> None:
        while not self._ended.wait(EVERY_S):
            self._tell()

    def _tell(self, state: str = "running", error: str = "") -> None:
        """Write the document when it says something new, or to show that the run lives."""
        with self._turn:
            if state == "running" and self._ended.is_set():
                return
            now = time.monotonic()
            shards = [self._shard(address, title, now) for address, title in self._titles.items()]
            news = (state, [shard.model_dump(exclude={"seconds", "rate"}) for shard in shards])
            before, told = self._told
            if news == before and now - told < status.BEAT_S:
                return
            try:
                status.tell(self._store, self._status(state, error, shards))
                self._told = (news, now)
            except (MontessoriError, OSError) as problem:  # the run itself is worth more than its news
                log.warning("not told to the store: %s", problem)

    def _status(self, state: str, error: str, shards: list[Shard]) -> Status:
        heard: datetime = status.now()
        return Status.model_validate(
            {
                "run": self._run,
                "state": state,
                "started": self._started,
                "heard": heard,
                "error": error,
                "who": signature(),
                "shards": shards,
                "uses": self._uses,
            }
        )

    def _shard(self, address: str, title: str, now: float) -> Shard:
        found = shard_of(address, self._records.get(address) or Record(title))
        if found.state != "running":
            return found
        began, from_done = self._seen.setdefault((address, found.attempts), (now, found.done))
        seconds = now - began
        rate = (found.done - from_done) / seconds if seconds > 0 and found.done > from_done else None
        return found.model_copy(update={"seconds": round(seconds, 1), "rate": rate})


def shard_of(address: str, record: Record) -> Shard:
    """What `record` says, for people who look on."""
    done, total, unit = record.done or (0, 0, "")
    if record.state == "done":
        done = total  # the last of a worker's news may have been its end
    return Shard.model_validate(
        {
            "address": address,
            "title": record.title,
            "state": record.state,
            "attempts": record.attempts,
            "seconds": round(record.seconds, 1),
            "done": done,
            "total": total,
            "unit": unit,
            "rate": done / record.seconds if record.state == "done" and done and record.seconds else None,
            "where": record.where,
            "error": record.error,
        }
    )


def leave() -> None:
    """Let all runs of this process say that they were stopped, as far as that takes no time."""
    last = [threading.Thread(target=telling.leave, daemon=True) for telling in _telling]
    for thread in last:
        thread.start()
    for thread in last:
        thread.join(LEAVING_S)
