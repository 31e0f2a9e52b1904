"""Run the flow `teacher-refresh`: tune a challenger, and promote it if its student is better than the champion's."""

from datetime import date
from typing import Annotated, Any

from prefect import State, flow
from prefect.runtime import flow_run

from flows import form
from flows.execution import execute_refresh
from flows.form import Empty, form_field
from flows.requests import night as requests
from flows.requests.run import check
from flows.ui import ShardTable, present
from tasks.runtime.prefect_executor import THREADS, prefect_executor


@flow(name="teacher-refresh", flow_run_name=form.run_name, task_runner=THREADS, persist_result=False)
def teacher_refresh(
    config: form.Config = "tiny",
    overrides: form.Overrides = [],  # noqa: B006  # Prefect's form wants the default as it is
    place: form.Place = None,
    store: form.Store = None,
    night: Annotated[
        date | Empty, form_field("Night", "A night to do again. Left empty: the date that this is scheduled for.")
    ] = None,
) -> State[Any]:
    """Tune the best teacher so far to a challenger, and keep the one whose student does better.

    A repeated night continues, or is replayed. A failure leaves the champion as it is.
    """

    def work() -> str:
        when = night or flow_run.scheduled_start_time.date()
        settings = form.settings_of(config, overrides=overrides, place=place, store=store)
        ready = requests.prepare(settings, when.isoformat())
        plan = ready.plan
        check(ready.settings, plan)
        with prefect_executor(plan.store, plan.compute, plan.vllm_python) as executor, ShardTable(executor):
            address = execute_refresh(ready, executor)
        present(plan.store, address)
        return address

    return form.final_state(work)
