"""The flow `montessori`: N iterations of the method beside Self-Instruct and the base student, then the report."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

from prefect import flow
from prefect.artifacts import create_link_artifact, create_markdown_artifact
from prefect.futures import PrefectFuture
from prefect.task_runners import TaskRunner, ThreadPoolTaskRunner

from flows.requests.run import benchmarks, order, plan
from flows.requests.steps import Address, Steps
from flows.ui import Shards, show
from montessori.artifacts import Request, Store, open_store
from montessori.reporting.link import report_link
from montessori.settings.schema import Compute, Settings
from tasks.runtime import engines
from tasks.runtime.places import check, open_place
from tasks.runtime.prefect_executor import Execution
from tasks.runtime.status_writer import Telling

# Every stage is submitted at once and waits in a thread of its own for its inputs.
THREADS = cast(TaskRunner[PrefectFuture[Any]], ThreadPoolTaskRunner(max_workers=1000))


@flow(name="montessori", flow_run_name="{settings.name}", task_runner=THREADS, persist_result=False)
def montessori(settings: Settings, suite: str | None = None, judge: str | None = None) -> Address:
    """Tune a teacher to write the data that a student learns most from, and compare the students.

    `suite` and `judge`, as `montessori evaluate` takes them, are benchmarks that the students are measured on as well.
    Returns the address of the run in the store. Raises InputError, or StageError when a stage failed for good.
    """
    return run(settings, suite, judge)


def run(settings: Settings, suite: str | None = None, judge: str | None = None) -> Address:
    """The same, inside whatever flow is at hand."""
    store = open_store(settings.store)
    store.check_writable()
    settings = engines.settled(settings)
    planned, _ = plan(settings)
    measuring = benchmarks(settings, suite, judge)
    address = make(store, planned, order, measuring)
    if measuring:
        present(store, measuring[-1].address, key="evaluation")
    return address


def make(store: Store, planned: Steps, order: Callable[[Steps], Address], measuring: Sequence[Request] = ()) -> Address:
    """Run what `order` asks for, which is what was `planned`, as tasks of the present flow; its last artifact.

    `measuring` are further requests, of what that makes.
    """
    settings, requests = planned.settings, planned.requests
    engines.check(settings, [request for request in requests.values() if not store.exists(request.address)])

    def start(submit: Callable[[Request], None]) -> Address:
        address = order(Steps(settings, planned.sources, submit, parts=list(requests.values())))
        for request in measuring:
            if request.address not in requests:
                submit(request)
        return address

    last = list(requests)[-1]
    told = {**requests, **{request.address: request for request in measuring}}
    told[last] = told.pop(last)  # the run itself, which people ask for
    return follow(store, settings.compute, settings.generation.vllm.python, told, start)


def follow(
    store: Store,
    compute: Compute,
    vllm_python: str,
    requests: Mapping[Address, Request],
    start: Callable[[Callable[[Request], None]], Address],
) -> Address:
    """Run `requests`, which `start` submits, as tasks of the present flow; the last artifact, which `start` returns.

    Shows the stages, and the artifact's result and report, in Prefect.
    """
    check(compute, store)
    place = open_place(compute, vllm_python)
    execution = Execution(store, place, compute)
    try:
        with Shards(execution), Telling(store, requests, execution.records):
            address = start(execution.submit)
            execution.finish()
    finally:
        place.close()
    present(store, address)
    return address


def present(store: Store, address: Address, key: str = "result") -> None:
    """Show what was made, and a link to its report, in Prefect."""
    report, link = store.locate(address) + "/report.html", report_link(store, address)
    result = (store.open(address) / "result.md").read_text(encoding="utf-8")
    words = f"{result}\n[The whole report]({link})\n"
    show(create_markdown_artifact, markdown=words, key=key, description=f"The comparison: {address}")
    named = "report" if key == "result" else f"{key}-report"
    show(create_link_artifact, link=link, link_text="The whole report", key=named, description=report)
