"""Define the fields that several forms in Prefect's UI share, and read a filled-in form.

A flow's own fields are the parameters of its function, for example in flows/montessori.py.
"""

from collections.abc import Callable
from itertools import groupby
from pathlib import Path
from typing import Annotated, Any, Literal
from uuid import UUID

from prefect import State
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import StateType
from prefect.logging import get_run_logger
from prefect.runtime import flow_run
from prefect.states import Completed, Failed
from pydantic import Field, NonNegativeInt
from pydantic.json_schema import SkipJsonSchema

from montessori.errors import MontessoriError, StageError
from montessori.settings import files, shipped
from montessori.settings.influence import EstimatorName
from montessori.settings.run import Method, Settings

STARTS = 4  # of one crashing run; then it fails

Empty = SkipJsonSchema[None]  # an empty field; a plain None would make the form ask for a type


def form_field(title: str, help: str) -> Any:
    """Return a field with a title and a help text. Prefect overwrites a Field's own, but not its extra schema."""
    return Field(json_schema_extra={"title": title, "description": help})


Config = Annotated[
    str,
    form_field(
        "Settings",
        "A settings file of Montessori (tiny, alpaca-mini, tinyllama-1.1b, llama3-8b), or the path of a file on the "
        "worker.",
    ),
]
MethodName = Annotated[
    Method | Empty,
    form_field("Method", "The method that improves the teacher's data. Left empty: as in the settings."),
]
Iterations = Annotated[
    NonNegativeInt | Empty,
    form_field("Iterations", "Left empty: as in the settings. 0 is Self-Instruct alone."),
]
Teacher = Annotated[
    str | Empty,
    form_field("Teacher", "A model folder or hub name. Left empty: as in the settings."),
]
Student = Annotated[
    str | Empty,
    form_field("Student", "A model folder or hub name. Left empty: as in the settings."),
]
Estimator = Annotated[
    EstimatorName | Empty,
    form_field("Influence estimator", "The estimator of a point's influence. Left empty: as in the settings."),
]
Overrides = Annotated[
    list[str],
    form_field("Further settings", "key=value each, for example dpo.beta=0.2, as --set on the command line."),
]
Place = Annotated[
    Literal["process", "pool"] | Empty,
    form_field(
        "Where tasks run",
        "process: beside the run, on its machine. pool: each task that needs a model as a run of its own. "
        "Left empty: as in the settings.",
    ),
]
Store = Annotated[
    str | Empty,
    form_field("Store", "A folder of the worker, or s3://bucket/prefix. Left empty: as in the settings."),
]


Judge = Annotated[
    str | Empty,
    form_field("Judge", "openai:NAME, vllm:MODEL or transformers:MODEL. AlpacaEval and MT-Bench need one."),
]


def run_name() -> str:
    """Return the name of the settings with the name from the form or from Prefect. A restart keeps it."""
    settings, name = Path(flow_run.parameters["config"]).stem, str(flow_run.name)
    return name if name.startswith(f"{settings}: ") else f"{settings}: {name}"


def final_state(work: Callable[[], str]) -> State[Any]:
    """Return the final state after `work`. Its message is the address of the artifact, or the error.

    Prefect would show a raised error with a traceback first.
    """
    try:
        _stop_after_crashes()
        return Completed(message=work())
    except MontessoriError as error:
        get_run_logger().error("%s", error)
        return Failed(message=str(error), data=error)  # the name stays: automations listen for it


def settings_of(
    config: str,
    *,
    method: str | None = None,
    iterations: int | None = None,
    teacher: str | None = None,
    student: str | None = None,
    estimator: str | None = None,
    overrides: list[str] | None = None,
    place: str | None = None,
    store: str | None = None,
) -> Settings:
    """Return the settings of a filled-in form. Raises InputError that names the field."""
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
    return files.load(shipped.path_of(config, "settings", "config"), [*format_fields(fields), *(overrides or [])])


def format_fields(fields: dict[str, Any]) -> list[str]:
    """Return a form's fields as overrides, without empty fields."""
    return files.format_overrides({name: value for name, value in fields.items() if value != ""})


def _stop_after_crashes() -> None:
    """Raise StageError when the present flow run has crashed too often."""
    with get_client(sync_client=True) as client:
        states = client.read_flow_run_states(UUID(flow_run.id))
    in_order = (state.type for state in sorted(states, key=lambda state: state.timestamp))
    crashes = [kind for kind, _ in groupby(in_order)].count(StateType.CRASHED)  # a worker reports a crash twice
    if crashes >= STARTS:
        raise StageError(
            f"crashed {crashes} times, so not started again: the log says why; a new run goes on from what is done"
        )
