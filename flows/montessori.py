"""The flow `montessori`: N iterations of a method beside Self-Instruct and the base student, then the report."""

from typing import Annotated, Any

from prefect import State, flow

from flows import form
from flows.execution import execute
from flows.form import Nothing, shown
from flows.requests import run
from flows.ui import ShardTable, present
from tasks.runtime.prefect_executor import THREADS, prefect_executor


@flow(name="montessori", flow_run_name=form.run_name, task_runner=THREADS, persist_result=False)
def montessori(
    config: form.Config = "tiny",
    method: form.TheMethod = None,
    iterations: form.Iterations = None,
    teacher: form.Teacher = None,
    student: form.Student = None,
    estimator: form.Estimator = None,
    overrides: form.Overrides = [],  # noqa: B006  # Prefect's form wants the default as it is
    place: form.Place = None,
    store: form.Store = None,
    suite: Annotated[
        str | Nothing,
        shown("Benchmarks", "quick, paper, or the path of a suite on the worker, on which the students are measured."),
    ] = None,
    judge: form.Judge = None,
) -> State[Any]:
    """Tune a teacher to write the data that a student learns most from, and compare the students.

    What the store has is not done again, so a run that was stopped or has crashed goes on where it was.
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
