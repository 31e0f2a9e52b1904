"""Show a flow in Prefect's UI: the table of its tasks and shards, its result, and a link to its report."""

import json
import logging
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from typing import Any
from uuid import UUID

from prefect.artifacts import create_link_artifact, create_markdown_artifact, create_table_artifact
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import ArtifactUpdate

from montessori.artifacts import Store
from montessori.errors import MontessoriError
from montessori.reporting.link import report_link
from tasks.runtime.executor import PeriodicDisplay, Record
from tasks.runtime.prefect_executor import PrefectExecutor
from tasks.runtime.status_writer import shard_of

EVERY_S = 10.0
STATES = ("failed", "running", "waiting", "done", "cached")
log = logging.getLogger(__name__)


class ShardTable(PeriodicDisplay):
    """Keeps the table artifact `shards` up to date inside the block, with a row for each shard and its error."""

    def __init__(self, executor: PrefectExecutor):
        super().__init__(EVERY_S)
        self._executor, self._client = executor, get_client(sync_client=True)
        self._artifact: UUID | None = None
        self._shown = ""
        self._hosts: dict[str, str] = {}  # of each artifact

    def __enter__(self) -> "ShardTable":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        self.show()

    def show(self) -> None:
        """Update the table if anything has changed."""
        rows = [self._row(record) for record in list(self._executor.records.values())]
        if not rows or (table := json.dumps(rows)) == self._shown:
            return
        if self._artifact is None:
            self._artifact = show(create_table_artifact, table=rows, key="shards", description=_summary(rows))
        else:
            change = ArtifactUpdate(data=table, description=_summary(rows))
            show(self._client.update_artifact, artifact_id=self._artifact, artifact=change)
        self._shown = table

    def _row(self, record: Record) -> dict[str, Any]:
        shard = shard_of(record)
        return {
            "shard": record.title,
            "state": record.state,
            "done": shard.progress,
            "a second": f"{shard.rate:.3g}" if shard.rate else "",
            "attempts": record.attempts,
            "error": record.error,
            "seconds": shard.seconds,
            "worker": record.where or self._host(record),
            "artifact": record.request.address,
        }

    def _host(self, record: Record) -> str:
        """Return the machine that made an artifact, from its manifest."""
        address = record.request.address
        if address not in self._hosts and record.state in ("done", "cached"):
            with suppress(MontessoriError, KeyError):
                self._hosts[address] = self._executor.store.manifest(address)["made_by"]["host"]
        return self._hosts.get(address, "")


def present(store: Store, address: str, key: str = "result") -> None:
    """Show an artifact's result and a link to its report."""
    report, link = store.locate(address) + "/report.html", report_link(store, address)
    result = (store.open(address) / "result.md").read_text(encoding="utf-8")
    markdown = f"{result}\n[The whole report]({link})\n"
    show(create_markdown_artifact, markdown=markdown, key=key, description=f"The comparison: {address}")
    link_key = "report" if key == "result" else f"{key}-report"
    show(create_link_artifact, link=link, link_text="The whole report", key=link_key, description=report)


def show(create: Callable[..., Any], **fields: Any) -> Any:
    """Create an artifact in Prefect's UI. A lost server must not fail a run, since its result is in the store."""
    try:
        return create(**fields)
    except Exception as error:
        log.warning("not shown in Prefect: %s", error)
        return None


def _summary(rows: list[dict[str, Any]]) -> str:
    """Return the counts of each state and the failures, in Markdown."""
    states = Counter(row["state"] for row in rows)
    counts = ", ".join(f"{states[state]} {state}" for state in STATES if states[state])
    failures = [f"- **{row['shard']}** failed: {row['error']}" for row in rows if row["state"] == "failed"]
    return "\n".join([f"{len(rows)} tasks and shards: {counts}", "", *failures]).strip()
