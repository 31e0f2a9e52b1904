"""Run the flow `study`: systems, students and seeds as a grid, with tables and figures."""

from typing import Annotated, Any

from prefect import State, flow

from flows import form
from flows.execution import execute_study
from flows.form import form_field
from flows.requests import study_file
from flows.ui import ShardTable, present
from tasks.runtime.prefect_executor import THREADS, prefect_executor


@flow(name="study", flow_run_name="{study}", task_runner=THREADS, persist_result=False)
def study(
    study: Annotated[
        str,
        form_field("Study", "A study of Montessori (pocket, alpaca-mini, …), or the path of a YAML file."),
    ] = "pocket",
    overrides: form.Overrides = [],  # noqa: B006  # Prefect's form wants the default as it is
    place: form.Place = None,
    store: form.Store = None,
) -> State[Any]:
    """Run systems, students and seeds as a grid, and draw the tables and figures.

    Shared artifacts are made once, and existing ones are not made again. A failed cell stops no other cell.
    """

    def work() -> str:
        given = form.format_fields({"compute.place": place, "store": store})
        ready = study_file.prepare(study, [*given, *overrides])
        plan = ready.plan
        study_file.check(ready)
        with prefect_executor(plan.store, plan.compute, plan.vllm_python) as executor, ShardTable(executor):
            address, error = execute_study(ready, executor)
        present(plan.store, address)
        if error:
            raise error
        return address

    return form.final_state(work)
