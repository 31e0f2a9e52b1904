"""Run the flow `evaluate`: measure and compare models on a suite of benchmarks."""

import csv
from typing import Annotated, Any

from prefect import State, flow
from prefect.artifacts import create_table_artifact

from flows import form
from flows.execution import execute
from flows.form import Empty, form_field
from flows.requests import suite as requests
from flows.ui import ShardTable, present, show
from tasks.runtime.prefect_executor import THREADS, prefect_executor


@flow(name="evaluate", flow_run_name="{suite}: {models}", task_runner=THREADS, persist_result=False)
def evaluate(
    models: Annotated[
        list[str],
        form_field("Models", "Runs of the store (all of their students), RUN:SYSTEM, model folders or hub names."),
    ],
    suite: Annotated[str, form_field("Suite", "quick, paper, or the path of a YAML file on the worker.")] = "quick",
    baseline: Annotated[
        str | Empty,
        form_field("Baseline", "The model that the others are compared with. Left empty: Self-Instruct, or the first."),
    ] = None,
    judge: form.Judge = None,
    overrides: form.Overrides = [],  # noqa: B006  # Prefect's form wants the default as it is
    place: form.Place = None,
    store: form.Store = None,
) -> State[Any]:
    """Measure models on a suite of benchmarks, and compare them.

    Existing results in the store are not measured again.
    """

    def work() -> str:
        given = form.format_fields({"compute.place": place, "store": store})
        ready = requests.prepare(models, suite, [*given, *overrides], baseline=baseline or None, judge=judge or None)
        plan = ready.plan
        requests.check(ready)
        with prefect_executor(plan.store, plan.compute, plan.vllm_python) as executor, ShardTable(executor):
            card = execute(plan, executor)
        present(plan.store, card)
        with (plan.store.open(card) / "table.csv").open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        show(create_table_artifact, table=rows, key="scores", description=f"All numbers: {card}")
        return card

    return form.final_state(work)
