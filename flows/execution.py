"""Execute the plan of a run, a night, an evaluation or a study, with any executor. Without Prefect."""

import json
from collections.abc import Mapping

from flows.requests import study_report
from flows.requests.builder import Address, Plan
from flows.requests.night import Refresh
from flows.requests.study_file import PreparedStudy
from montessori.artifacts import Request, Store
from montessori.errors import InputError, MontessoriError, StageError
from montessori.evaluation.paired import PairedTest
from montessori.refresh import champions, nights
from montessori.refresh.nights import Night
from tasks.runtime.executor import Executor, Record
from tasks.runtime.status_writer import StatusWriter


def execute(plan: Plan, executor: Executor) -> Address:
    """Run every request of a plan, and return the address of its artifact.

    A failed task stops only the tasks that need it. Raises InputError or StageError that names all failures.
    """
    with StatusWriter(plan.store, plan.requests, executor.records, run=plan.address):
        for request in plan.requests.values():
            executor.submit(request)
        executor.finish()
    return plan.address


def execute_refresh(ready: Refresh, executor: Executor) -> Address:
    """Run a night, and promote the challenger if its student is better. A failure leaves the champion as it is."""
    store, date = ready.plan.store, ready.night.night
    tonight = nights.begin(store, ready.night).model_copy(update={"state": "running", "error": ""})
    nights.save(store, tonight)
    try:
        refresh = execute(ready.plan, executor)
        promoted = _promote_if_better(store, tonight, refresh)
    except Exception as error:
        nights.save(store, tonight.model_copy(update={"state": "failed", "error": str(error)}))
        if isinstance(error, MontessoriError):
            raise type(error)(f"the refresh of {date} failed, and changed no champion: {error}") from error
        raise
    state = "promoted" if promoted else "kept"
    nights.save(store, tonight.model_copy(update={"state": state, "refresh": refresh}))
    return refresh


def execute_study(ready: PreparedStudy, executor: Executor) -> tuple[Address, StageError | None]:
    """Run all cells, and report those that succeeded. Return the study's address, and the error of the failed cells.

    Raises StageError when the report fails.
    """
    requests, planned = ready.grid.requests, ready.plan.address
    with StatusWriter(ready.plan.store, ready.plan.requests, executor.records, run=planned) as status:
        for request in requests.values():
            executor.submit(request)
        executor.wait()
        broken = failures(requests, executor.records)
        report = study_report.report(ready.grid, broken)
        status.replace(planned, report)
        executor.submit(report)
        executor.wait()
        error = _failure(executor)
        if error and executor.records[report.address].state not in ("done", "cached"):
            raise error
        if broken:
            status.failed = f"{len(broken)} of {len(requests)} tasks and shards could not be made"
    return report.address, error


def failures(requests: Mapping[Address, Request], records: Mapping[Address, Record]) -> dict[Address, str]:
    """Return the error of each missing artifact: its own, or that of its first failed input."""
    errors: dict[Address, str] = {}
    for address, request in requests.items():  # inputs come first
        record = records[address]
        if record.state == "failed":
            errors[address] = f"{record.title}: {record.error}"
        else:
            inputs = (one for addresses in request.inputs.values() for one in addresses)
            if broken := next((errors[one] for one in inputs if one in errors), None):
                errors[address] = broken
    return errors


def _failure(executor: Executor) -> StageError | None:
    """Return the error that names all failures. Wrong input is a failure here, since the study has started."""
    try:
        executor.finish()
    except InputError as error:
        return StageError(str(error))
    except StageError as error:
        return error
    return None


def _promote_if_better(store: Store, night: Night, refresh: Address) -> bool:
    """Promote the challenger if the comparison found it better, and return whether it did."""
    summary = json.loads((store.open(refresh) / "summary.json").read_text())
    if summary["better"]:
        test = PairedTest.model_validate(summary["test"])
        challenger, champion = summary["challenger"], summary["champion"]
        champions.promote_tested(
            store, night.name, challenger, over=champion, after=night.entry, refresh=refresh, test=test
        )
    return bool(summary["better"])
