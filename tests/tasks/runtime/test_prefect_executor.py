"""What a run says of stages that failed, and which failures are worth another try."""

from pathlib import Path
from typing import Any, cast

import pytest
from prefect.states import Failed

from montessori.artifacts import Folder
from montessori.errors import ArtifactError, InputError, StageError
from montessori.settings.schema import Compute
from tasks.runtime.executor import Record
from tasks.runtime.places import Inline, StageCrash
from tasks.runtime.prefect_executor import Execution, _worth_a_retry


@pytest.fixture
def execution(tmp_path: Path) -> Execution:
    return Execution(Folder(tmp_path), Inline(Compute()), Compute())


def test_every_failed_stage_is_named_with_its_attempts_and_error(execution: Execution) -> None:
    execution.records = {
        "influence/a": Record("influence 1/2", "failed", attempts=3, error="killed by signal 9"),
        "influence/b": Record("influence 2/2", "done", attempts=1),
        "preferences/c": Record("preferences"),
    }
    with pytest.raises(StageError) as raised:
        execution.finish()
    assert "influence 1/2 failed after 3 attempts: killed by signal 9" in str(raised.value)
    assert "influence 2/2" not in str(raised.value)
    assert "Not run, since they need it: 1" in str(raised.value)


def test_wrong_input_found_by_a_stage_is_wrong_input_of_the_run(execution: Execution) -> None:
    execution.records = {"seeds/a": Record("seeds", "failed", 1, error="no rows", wrong_input=True)}
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
