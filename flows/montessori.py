"""Run the flow `montessori`: iterations of a method beside Self-Instruct and the base student, then the report."""

from typing import Annotated, Any

from prefect import State, flow

from flows import form
from flows.execution import execute
from flows.form import Empty, form_field
from flows.requests import run
from flows.ui import ShardTable, present
from tasks.runtime.prefect_executor import THREADS, prefect_executor


@flow(name="montessori", flow_run_name=form.run_name, task_runner=THREADS, persist_result=False)
def montessori(
    config: form.Config = "tiny",
    method: form.MethodName = None,
    iterations: form.Iterations = None,
    teacher: form.Teacher = None,
    student: form.Student = None,
    estimator: form.Estimator = None,
    overrides: form.Overrides = [],  # noqa: B006  # Prefect's form wants the default as it is
    place: form.Place = None,
    store: form.Store = None,
    suite: Annotated[
        str | Empty,
        form_field("Benchmarks", "The suite for the students: quick, paper, or the path of a file on the worker."),
    ] = None,
    judge: form.Judge = None,
) -> State[Any]:
    """Tune a teacher to generate the data that a student learns most from, and compare the students.

    Tasks with an artifact in the store are not run again, so a stopped or crashed run continues.
    """

    def work() -> str:
        settings = form.settings_of(
            config,
            method=method,
            iterations=iterations,
            teacher=teacher,
            student=student,
            estimator=estimator,
            overrides=overrides,
            place=place,
            store=store,
        )
        ready = run.prepare(settings, suite or None, judge or None)
        plan = ready.plan
        run.check(ready.settings, plan)
        with prefect_executor(plan.store, plan.compute, plan.vllm_python) as executor, ShardTable(executor):
            address = execute(plan, executor)
        if ready.card:
            present(plan.store, ready.card, key="evaluation")
        present(plan.store, address)
        return address

    return form.final_state(work)
