"""What a run says of stages that failed, and which failures are worth another try."""

from pathlib import Path
from typing import Any, cast

import pytest
from prefect.states import Failed

from montessori.artifacts import Folder, Request
from montessori.errors import ArtifactError, InputError, StageError
from montessori.settings.execution import Compute
from tasks.runtime.executor import Record
from tasks.runtime.places import Inline, StageCrash
from tasks.runtime.prefect_executor import PrefectExecutor, _worth_a_retry


@pytest.fixture
def execution(tmp_path: Path) -> PrefectExecutor:
    return PrefectExecutor(Folder(tmp_path), Inline(Compute()), Compute())


def record(task: str, shard: tuple[int, int] = (0, 1), **how: Any) -> Record:
    return Record(Request(stage=task, version=1, settings={}, inputs={}, seed=0, shard=shard), **how)


def test_every_failed_stage_is_named_with_its_attempts_and_error(execution: PrefectExecutor) -> None:
    execution.records = {
        "influence/a": record("influence", (0, 2), state="failed", attempts=3, error="killed by signal 9"),
        "influence/b": record("influence", (1, 2), state="done", attempts=1),
        "preferences/c": record("preferences"),
    }
    with pytest.raises(StageError) as raised:
        execution.finish()
    assert "influence 1/2 failed after 3 attempts: killed by signal 9" in str(raised.value)
    assert "influence 2/2" not in str(raised.value)
    assert "Not run, since they need it: 1" in str(raised.value)


def test_wrong_input_found_by_a_stage_is_wrong_input_of_the_run(execution: PrefectExecutor) -> None:
    execution.records = {"seeds/a": record("seeds", state="failed", attempts=1, error="no rows", wrong_input=True)}
    with pytest.raises(InputError, match="seeds failed after one attempt: no rows"):
        execution.finish()


@pytest.mark.parametrize(
    ("error", "again"),
    [
        (InputError("x"), False),
        (StageError("x"), False),
        (ArtifactError("x"), False),
        (StageCrash("x"), True),
        (OSError("x"), True),
    ],
)
def test_only_crashes_are_tried_again(error: Exception, again: bool) -> None:
    assert _worth_a_retry(cast(Any, None), cast(Any, None), Failed(data=error)) is again
