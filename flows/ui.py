"""The table of a run's stages and shards in Prefect's UI, while it runs and at its end.

In: an execution.  Out: the table artifact `shards`, updated in place, a row a shard; its description says how many are
in which state, and what those that failed say.
"""

import json
import logging
import threading
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from contextvars import copy_context
from typing import Any
from uuid import UUID

from prefect.artifacts import create_table_artifact
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import ArtifactUpdate

from montessori.errors import MontessoriError
from tasks.runtime.executor import Record
from tasks.runtime.prefect_executor import Execution
from tasks.runtime.status_writer import shard_of

EVERY_S = 10.0
STATES = ("failed", "running", "waiting", "done", "cached")
log = logging.getLogger(__name__)


class Shards:
    """Shows the records of an execution, inside the block."""

    def __init__(self, execution: Execution):
        self._execution, self._client = execution, get_client(sync_client=True)
        self._artifact: UUID | None = None
        self._shown = ""
        self._ended = threading.Event()
        self._hosts: dict[str, str] = {}  # that made an artifact
        context = copy_context()  # which knows the flow run
        self._thread = threading.Thread(target=context.run, args=(self._follow,), daemon=True)

    def __enter__(self) -> "Shards":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()
        self._show()

    def _follow(self) -> None:
        while not self._ended.wait(EVERY_S):
            self._show()

    def _show(self) -> None:
        rows = [self._row(address, record) for address, record in list(self._execution.records.items())]
        if not rows or (table := json.dumps(rows)) == self._shown:
            return
        if self._artifact is None:
            self._artifact = show(create_table_artifact, table=rows, key="shards", description=_summary(rows))
        else:
            change = ArtifactUpdate(data=table, description=_summary(rows))
            show(self._client.update_artifact, artifact_id=self._artifact, artifact=change)
        self._shown = table

    def _row(self, address: str, record: Record) -> dict[str, Any]:
        shard = shard_of(address, record)
        return {
            "shard": record.title,
            "state": record.state,
            "done": shard.progress,
            "a second": f"{shard.rate:.3g}" if shard.rate else "",
            "attempts": record.attempts,
            "error": record.error,
            "seconds": shard.seconds,
            "worker": record.where or self._host(address, record),
            "artifact": address,
        }

    def _host(self, address: str, record: Record) -> str:
        """The machine that made an artifact, by its manifest."""
        if address not in self._hosts and record.state in ("done", "cached"):
            with suppress(MontessoriError, KeyError):
                self._hosts[address] = self._execution.store.manifest(address)["made_by"]["host"]
        return self._hosts.get(address, "")


def _summary(rows: list[dict[str, Any]]) -> str:
    """In Markdown."""
    states = Counter(row["state"] for row in rows)
    counts = ", ".join(f"{states[state]} {state}" for state in STATES if states[state])
    failures = [f"- **{row['shard']}** failed: {row['error']}" for row in rows if row["state"] == "failed"]
    return "\n".join([f"{len(rows)} stages and shards: {counts}", "", *failures]).strip()


def show(create: Callable[..., Any], **what: Any) -> Any:
    """An artifact in Prefect's UI; a server that is gone must not fail a run whose result is safe in the store."""
    try:
        return create(**what)
    except Exception as error:
        log.warning("not shown in Prefect: %s", error)
        return None
