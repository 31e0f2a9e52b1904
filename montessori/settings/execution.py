"""Settings of the execution: where tasks run, and what a run may cost."""

from typing import Literal

from pydantic import Field

from montessori.settings.base import Frozen


class Compute(Frozen):
    """Where tasks run. No artifact depends on it, except for the bits that a thread count changes on a CPU."""

    place: Literal["process", "inline", "pool"] = Field(
        "process",
        description="`process`: a process for each task, on this machine. `inline`: in the process of the run. "
        "`pool`: a Prefect work pool.",
    )
    deployment: str = Field(
        "stage/stage", description="Prefect deployment of the tasks that need torch, where `place` is pool."
    )
    threads: int = Field(1, ge=1, description="CPU threads of a task, where there is no GPU.")
    at_once: int | None = Field(
        None, ge=1, description="Most tasks at a time. Null: the number of GPUs, else of CPU cores / threads."
    )
    training_processes: int = Field(
        1,
        ge=1,
        description="Processes that share the weights, gradients and moments of one training (FSDP2), each on a GPU of "
        "its own where there are GPUs. Set more than 1 only for a model that no GPU holds.",
    )
    retries: int = Field(2, ge=0, description="Number of times to start a failed task again.")
    retry_delay_s: float = Field(
        5, ge=0, description="Seconds to wait before the first retry. The wait doubles with each one."
    )


class Budget(Frozen):
    """What a run may cost.

    Artifacts of the run that were already in the store count too. A run goes on when the limit is raised.
    """

    usd: float | None = Field(None, gt=0, description="Most US dollars to pay to APIs. Null: no limit.")
    tokens: int | None = Field(
        None, gt=0, description="Most tokens that the teacher reads and generates. Null: no limit."
    )
    hours: float | None = Field(
        None, gt=0, description="Most hours of all tasks added up, also of those at the same time. Null: no limit."
    )
