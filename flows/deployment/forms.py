"""The flows `montessori`, `teacher-refresh`, `evaluate` and `study` as deployed, their parameters a form in the UI.

The command line runs the same with settings of its own (flows/montessori.py, flows/refresh.py).
"""

import csv
from collections.abc import Callable
from datetime import date
from itertools import groupby
from pathlib import Path
from typing import Annotated, Any, Literal
from uuid import UUID

from prefect import State, flow
from prefect.artifacts import create_table_artifact
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import StateType
from prefect.logging import get_run_logger
from prefect.runtime import flow_run
from prefect.states import Completed, Failed
from pydantic import Field, NonNegativeInt
from pydantic.json_schema import SkipJsonSchema

from flows.commands import study as studies
from flows.commands.evaluate import prepare
from flows.montessori import THREADS, follow, present, run
from flows.requests.steps import Address
from flows.ui import Shards, show
from montessori.artifacts import Request
from montessori.errors import MontessoriError, StageError
from montessori.settings import files, shipped
from montessori.settings.schema import EstimatorName, Method, Settings
from tasks.runtime.places import check, open_place
from tasks.runtime.prefect_executor import Execution

STARTS = 4  # of one run that crashes, before somebody must look

Nothing = SkipJsonSchema[None]  # left empty; the form would ask for a type otherwise


def _shown(title: str, help: str) -> Any:
    """How the form shows a field. Prefect overwrites a Field's own title and description, not its extra schema."""
    return Field(json_schema_extra={"title": title, "description": help})


Config = Annotated[
    str,
    _shown(
        "Settings",
        "The name of a settings file that comes with Montessori (tiny, alpaca-mini, tinyllama-1.1b, llama3-8b), or "
        "the path of one on the worker.",
    ),
]
TheMethod = Annotated[
    Method | Nothing,
    _shown("Method", "How the teacher is made to write better data. Left empty: as in the settings."),
]
Iterations = Annotated[
    NonNegativeInt | Nothing,
    _shown("Iterations", "Left empty: as in the settings. 0 is Self-Instruct alone."),
]
Teacher = Annotated[
    str | Nothing,
    _shown("Teacher", "A model folder or hub name. Left empty: as in the settings."),
]
Student = Annotated[
    str | Nothing,
    _shown("Student", "A model folder or hub name. Left empty: as in the settings."),
]
Estimator = Annotated[
    EstimatorName | Nothing,
    _shown("Influence estimator", "How a point's influence is measured. Left empty: as in the settings."),
]
Overrides = Annotated[
    list[str],
    _shown("Further settings", "key=value each, for example dpo.beta=0.2, as --set on the command line."),
]
Place = Annotated[
    Literal["process", "pool"] | Nothing,
    _shown(
        "Where stages run",
        "process: beside the run, on its machine. pool: each stage that needs a model as a run of its own. "
        "Left empty: as in the settings.",
    ),
]
Store = Annotated[
    str | Nothing,
    _shown("Store", "A folder of the worker, or s3://bucket/prefix. Left empty: as in the settings."),
]


Judge = Annotated[
    str | Nothing,
    _shown("Judge", "openai:NAME, vllm:MODEL or transformers:MODEL. AlpacaEval and MT-Bench need one."),
]


def _named() -> str:
    """The settings and the name that the form or Prefect has given; the same when it is started again."""
    settings, given = Path(flow_run.parameters["config"]).stem, str(flow_run.name)
    return given if given.startswith(f"{settings}: ") else f"{settings}: {given}"


@flow(name="montessori", flow_run_name=_named, task_runner=THREADS, persist_result=False)
def launch(
    config: Config = "tiny",
    method: TheMethod = None,
    iterations: Iterations = None,
    teacher: Teacher = None,
    student: Student = None,
    estimator: Estimator = None,
    overrides: Overrides = [],  # noqa: B006  # Prefect's form wants the default as it is
    place: Place = None,
    store: Store = None,
    suite: Annotated[
        str | Nothing,
        _shown("Benchmarks", "quick, paper, or the path of a suite on the worker, on which the students are measured."),
    ] = None,
    judge: Judge = None,
) -> State[Any]:
    """Tune a teacher to write the data that a student learns most from, and compare the students.

    What the store has is not done again, so a run that was stopped or has crashed goes on where it was.
    """
    asked = (config, method, iterations, teacher, student, estimator, overrides, place, store)
    return ended(lambda: run(settings(*asked), suite or None, judge or None))


@flow(name="teacher-refresh", flow_run_name=_named, task_runner=THREADS, persist_result=False)
def refresh(
    config: Config = "tiny",
    overrides: Overrides = [],  # noqa: B006
    place: Place = None,
    store: Store = None,
    night: Annotated[
        date | Nothing, _shown("Night", "A night to do again. Left empty: the date that this is scheduled for.")
    ] = None,
) -> State[Any]:
    """Tune the best teacher so far to a challenger, and keep the one whose student does better."""
    from flows.teacher_refresh import teacher_refresh

    return ended(
        lambda: teacher_refresh.fn(settings(config, overrides=overrides, place=place, store=store), night),
    )


@flow(name="evaluate", flow_run_name="{suite}: {models}", task_runner=THREADS, persist_result=False)
def evaluate(
    models: Annotated[
        list[str],
        _shown("Models", "Runs of the store (all of their students), RUN:SYSTEM, model folders or hub names."),
    ],
    suite: Annotated[str, _shown("Suite", "quick, paper, or the path of a YAML file on the worker.")] = "quick",
    baseline: Annotated[
        str | Nothing,
        _shown("Baseline", "The model that the others are compared with. Left empty: Self-Instruct, or the first."),
    ] = None,
    judge: Judge = None,
    overrides: Overrides = [],  # noqa: B006
    place: Place = None,
    store: Store = None,
) -> State[Any]:
    """Measure models on a suite of benchmarks, and compare them.

    What the store has is not measured again.
    """
    given = _filled({"compute.place": place, "store": store})

    def work() -> Address:
        ready = prepare(models, suite, baseline or None, judge or None, [*given, *overrides])
        ready.store.check_writable()
        requests = {request.address: request for request in ready.plan.requests}

        def start(submit: Callable[[Request], None]) -> Address:
            for request in ready.plan.requests:
                submit(request)
            return ready.plan.card

        card = follow(ready.store, ready.suite.compute, ready.suite.vllm.python, requests, start)
        with (ready.store.open(card) / "table.csv").open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        show(create_table_artifact, table=rows, key="scores", description=f"All numbers: {card}")
        return card

    return ended(work)


@flow(name="study", flow_run_name="{study}", task_runner=THREADS, persist_result=False)
def study(
    study: Annotated[
        str, _shown("Study", "A study that comes with Montessori (pocket, alpaca-mini, …), or the path of a YAML file.")
    ] = "pocket",
    overrides: Overrides = [],  # noqa: B006
    place: Place = None,
    store: Store = None,
) -> State[Any]:
    """Run systems, students and seeds as a grid, and draw the tables and figures.

    What cells share is made once; what the store has is not made again; a cell that fails stops no other one.
    """
    given = _filled({"compute.place": place, "store": store})

    def work() -> Address:
        ready = studies.prepare(str(shipped.path_of(study, "study", "study")), [*given, *overrides])
        studies.check(ready)
        check(ready.compute, ready.store)
        ready.store.check_writable()
        place = open_place(ready.compute, studies.python_of(ready.grid))
        execution = Execution(ready.store, place, ready.compute)
        try:
            with Shards(execution):
                address = studies.follow(ready, execution)
        finally:
            place.close()
        present(ready.store, address)
        studies.ended(execution)
        return address

    return ended(work)


def ended(work: Callable[[], Address]) -> State[Any]:
    """The final state after `work`: its message is what was made, or the sentence that says why not.

    An error that was raised would come in Prefect's own words, and first of all as a traceback.
    """
    try:
        not_for_ever()
        return Completed(message=work())
    except MontessoriError as error:
        get_run_logger().error("%s", error)
        return Failed(message=str(error))


def settings(
    config: str,
    method: str | None = None,
    iterations: int | None = None,
    teacher: str | None = None,
    student: str | None = None,
    estimator: str | None = None,
    overrides: list[str] | None = None,
    place: str | None = None,
    store: str | None = None,
) -> Settings:
    """The settings that a filled-in form means. Raises InputError that names the field."""
    fields: dict[str, Any] = {
        "method": method,
        "iterations": iterations,
        "influence.estimator": estimator,
        "compute.place": place,
        "store": store,
    }
    for role, source in (("teacher", teacher), ("student", student)):
        if source:
            fields |= {f"{role}.source": source}
            overrides = [f"{role}.scratch=null", *(overrides or [])]
    return files.load(shipped.path_of(config, "settings", "config"), [*_filled(fields), *(overrides or [])])


def _filled(fields: dict[str, Any]) -> list[str]:
    """Overrides that say what a form's fields do, but for those that are left empty."""
    return files.overrides({name: value for name, value in fields.items() if value != ""})


def not_for_ever() -> None:
    """Raise StageError when the flow run at hand has crashed and been started again too often."""
    with get_client(sync_client=True) as client:
        states = client.read_flow_run_states(UUID(flow_run.id))
    in_order = (state.type for state in sorted(states, key=lambda state: state.timestamp))
    crashes = [kind for kind, _ in groupby(in_order)].count(StateType.CRASHED)  # a worker tells of each twice
    if crashes >= STARTS:
        raise StageError(
            f"crashed {crashes} times, so not started again: the log says why; a new run goes on from what is done"
        )
