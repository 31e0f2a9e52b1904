"""The flow `montessori`: N iterations of the method beside Self-Instruct and the base student, then the report."""

import logging
from collections.abc import Callable
from typing import Any, cast

from prefect import flow
from prefect.artifacts import create_link_artifact, create_markdown_artifact, create_table_artifact
from prefect.futures import PrefectFuture
from prefect.task_runners import TaskRunner, ThreadPoolTaskRunner

from flows.plan import order, plan
from montessori.artifacts import Store
from montessori.config import Settings
from tasks import engines
from tasks.execution import Execution
from tasks.places import open_place
from tasks.steps import Address, Steps

log = logging.getLogger(__name__)


# Every stage is submitted at once and waits in a thread of its own for its inputs.
THREADS = cast(TaskRunner[PrefectFuture[Any]], ThreadPoolTaskRunner(max_workers=1000))


@flow(name="montessori", flow_run_name="{settings.name}", task_runner=THREADS, persist_result=False)
def montessori(settings: Settings) -> Address:
    """Tune a teacher to write the data that a student learns most from, and compare the students.

    Returns the address of the run in the store. Raises InputError, or StageError when a stage failed for good.
    """
    store = Store(settings.store)
    store.check_writable()
    settings = engines.settled(settings)
    planned, _ = plan(settings)
    engines.check(settings, [r for r in planned.requests.values() if not store.exists(r.address)])
    place = open_place(settings.compute, settings.generation.vllm.python)
    execution = Execution(store, place, settings.compute)
    try:
        run = order(Steps(settings, planned.sources, execution.submit, parts=list(planned.requests.values())))
        execution.finish()
    finally:
        place.close()
        _show(create_table_artifact, table=_table(execution), key="stages", description="Every stage and shard")
    folder = store.open(run)
    _show(create_markdown_artifact, markdown=(folder / "result.md").read_text(encoding="utf-8"), key="result")
    _show(create_link_artifact, link=(folder / "report.html").as_uri(), link_text="report.html", key="report")
    return run


def _table(execution: Execution) -> list[dict[str, Any]]:
    return [
        {
            "stage": record.title,
            "state": record.state,
            "attempts": record.attempts,
            "seconds": round(record.seconds, 1),
            "artifact": address,
            "error": record.error,
        }
        for address, record in execution.records.items()
    ]


def _show(create: Callable[..., object], **what: Any) -> None:
    """An artifact in Prefect's UI; a server that is gone must not fail a run whose result is safe in the store."""
    try:
        create(**what)
    except Exception as error:
        log.warning("not shown in Prefect: %s", error)
