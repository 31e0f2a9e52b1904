"""Write a run's status document while it works: `montessori status` reads it.

In: the requests of a plan, and the records of their attempts. Out: the document of tasks/runtime/status.py, every few
seconds while something changes, and at least once a minute.
"""

import logging
import threading
import time
from collections.abc import Mapping

from montessori.artifacts import Request, Store
from montessori.artifacts.gc import artifacts_in
from montessori.artifacts.store import signature
from montessori.errors import MontessoriError
from tasks.runtime import status
from tasks.runtime.executor import PeriodicDisplay, Record
from tasks.runtime.status import Shard, Status

EVERY_S = 5.0
LAST_WORD_S = 2.0  # for the last write, when the process is told to end
log = logging.getLogger(__name__)
_writers: list["StatusWriter"] = []


class StatusWriter(PeriodicDisplay):
    """Writes the status of `requests` inside the block; `run` is the address of the run itself."""

    def __init__(self, store: Store, requests: Mapping[str, Request], records: Mapping[str, Record], *, run: str):
        super().__init__(EVERY_S)
        self._store, self._records, self._requests = store, records, dict(requests)
        taken = {a for request in requests.values() for a in artifacts_in(request.inputs, store.uri)}
        self._uses = sorted(taken - set(requests))
        self._run = run
        self._started = status.now()
        self._seen: dict[tuple[str, int], tuple[float, int]] = {}  # when an attempt was first seen, and how far it was
        self._written: tuple[object, float] = (None, 0.0)
        self._turn = threading.Lock()
        self.failed = ""  # why the run counts as failed, though no error ended it

    def __enter__(self) -> "StatusWriter":
        self.show()
        _writers.append(self)
        self.start()
        return self

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        _writers.remove(self)
        self.stop()
        if error is None:
            self._write("failed" if self.failed else "done", self.failed)
        else:
            self._write("failed" if isinstance(error, Exception) else "stopped", str(error))

    def show(self) -> None:
        """Write that the run is at work, when that says something new."""
        self._write("running")

    def replace(self, planned: str, made: Request) -> None:
        """Take the request `made` for the run in place of the one at the address `planned`."""
        with self._turn:
            self._store.remove(f"{status.PLACE}/{planned}.json")
            self._requests.pop(planned, None)
            self._requests[made.address] = made
            self._run = made.address
            self._written = (None, 0.0)

    def write_stopped(self) -> None:
        """Write that the run was stopped, as the process's last word."""
        self._ended.set()
        self._write("stopped")

    def _write(self, state: str, error: str = "") -> None:
        """Write the document when it says something new, or to show that the run lives."""
        with self._turn:
            if state == "running" and self._ended.is_set():
                return
            now = time.monotonic()
            shards = [self._shard(request, now) for request in self._requests.values()]
            news = (state, [shard.model_dump(exclude={"seconds", "rate"}) for shard in shards])
            before, when = self._written
            if news == before and now - when < status.BEAT_S:
                return
            document = Status.model_validate(
                {
                    "run": self._run,
                    "state": state,
                    "started": self._started,
                    "heard": status.now(),
                    "error": error,
                    "who": signature(),
                    "shards": shards,
                    "uses": self._uses,
                }
            )
            try:
                status.tell(self._store, document)
                self._written = (news, now)
            except (MontessoriError, OSError) as problem:  # a run must not fail for its status
                log.warning("status not written to the store: %s", problem)

    def _shard(self, request: Request, now: float) -> Shard:
        shard = shard_of(self._records.get(request.address) or Record(request))
        if shard.state != "running":
            return shard
        began, from_done = self._seen.setdefault((request.address, shard.attempts), (now, shard.done))
        seconds = now - began
        rate = (shard.done - from_done) / seconds if seconds > 0 and shard.done > from_done else None
        return shard.model_copy(update={"seconds": round(seconds, 1), "rate": rate})


def shard_of(record: Record) -> Shard:
    """Return a record as the row of a status document."""
    done, total, unit = record.done or (0, 0, "")
    if record.state == "done":
        done = total  # the last progress that came may have been from before its end
    return Shard.model_validate(
        {
            "address": record.request.address,
            "title": record.request.name,
            "cell": record.request.cell,
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


def write_stopped() -> None:
    """Let all runs of this process write that they were stopped, within two seconds."""
    last = [threading.Thread(target=writer.write_stopped, daemon=True) for writer in _writers]
    for thread in last:
        thread.start()
    for thread in last:
        thread.join(LAST_WORD_S)
