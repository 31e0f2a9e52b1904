"""Import an optimizer state that torch wrote: `optimizer.safetensors` and `optimizer.json`, by parameter name."""

from pathlib import Path
from typing import Any

from montessori.influence.checkpoint import read_state
from montessori.models import loading
from montessori.settings.base import Frozen
from tasks.runtime.job import Job, location


class Settings(Frozen):
    """How the student's shapes are found, and whether the user says that the optimizer was AdamW."""

    trust_remote_code: bool
    vouched: bool = False


def run(job: Job, settings: Settings) -> dict[str, Any]:
    """Find the name of each parameter, and save the moments by name."""
    student = loading.skeleton(job.model("student"), trust_remote_code=settings.trust_remote_code)
    (address,) = job.request.inputs["checkpoint"]
    state = read_state(Path(location(address)), student, vouched=settings.vouched)
    state.save(job.out)
    return {"parameters": len(state.exp_avg), "step": state.step, "learning_rate": state.learning_rate}
