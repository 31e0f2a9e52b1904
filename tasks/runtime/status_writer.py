"""Write a run's status document while the run works, for `montessori status`.

The document (tasks/runtime/status.py) is written every few seconds while something changes, and at least once a minute.
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
LAST_WRITE_S = 2.0  # limit of the last write of an interrupted process
log = logging.getLogger(__name__)
_writers: list["StatusWriter"] = []


class StatusWriter(PeriodicDisplay):
    """Write the status of `requests` inside the block. `run` is the address of the run's own artifact."""

    def __init__(self, store: Store, requests: Mapping[str, Request], records: Mapping[str, Record], *, run: str):
        super().__init__(EVERY_S)
        self._store, self._records, self._requests = store, records, dict(requests)
        taken = {a for request in requests.values() for a in artifacts_in(request.inputs, store.uri)}
        self._uses = sorted(taken - set(requests))
        self._run = run
        self._started = status.now()
        self._seen: dict[tuple[str, int], tuple[float, int]] = {}  # the time and progress at first sight of an attempt
        self._written: tuple[object, float] = (None, 0.0)
        self._turn = threading.Lock()
        self.failed = ""  # the reason when the run failed without an exception

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
        """Write that the run works, if something is new."""
        self._write("running")

    def replace(self, planned: str, request: Request) -> None:
        """Make `request` the run's own, in place of the request at the address `planned`."""
        with self._turn:
            self._store.remove(f"{status.FOLDER}/{planned}.json")
            self._requests.pop(planned, None)
            self._requests[request.address] = request
            self._run = request.address
            self._written = (None, 0.0)

    def write_stopped(self) -> None:
        """Write that the run was stopped, just before the process ends."""
        self._ended.set()
        self._write("stopped")

    def _write(self, state: str, error: str = "") -> None:
        """Write the document if it has something new, or if the last write is a minute old."""
        with self._turn:
            if state == "running" and self._ended.is_set():
                return
            now = time.monotonic()
            shards = [self._shard(request, now) for request in self._requests.values()]
            content = (state, [shard.model_dump(exclude={"seconds", "rate"}) for shard in shards])
            before, when = self._written
            if content == before and now - when < status.BEAT_S:
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
                status.save(self._store, document)
                self._written = (content, now)
            except (MontessoriError, OSError) as problem:  # a run must not fail because of its status
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
    """Return a record as a row of the status document."""
    done, total, unit = record.done or (0, 0, "")
    if record.state == "done":
        done = total  # the last progress may have come before the end
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
    """Write for all runs of this process that they were stopped, within two seconds."""
    last = [threading.Thread(target=writer.write_stopped, daemon=True) for writer in _writers]
    for thread in last:
        thread.start()
    for thread in last:
        thread.join(LAST_WRITE_S)
