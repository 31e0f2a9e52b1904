"""Settings of the student's preferences: the points to score, the influence estimator, and the preference pairs."""

from typing import Literal, Self

from pydantic import Field, model_validator

from montessori.settings.base import Frozen
from montessori.settings.models import Dtype

EstimatorName = Literal["taylor", "directional", "exact"]
Signal = Literal["influence", "training_loss", "rating"]
Split = Literal["zero", "momentum", "prompt_mean", "best_worst"]


class Probing(Frozen):
    """How many of the generated points warm the student up, and how many are scored."""

    warm_up: int = Field(10_000, ge=1, description="Points of the student's warm-up. Paper: 10,000.")
    probing: int = Field(10_000, ge=1, description="Points to score. Paper: 10,000.")
    student: Literal["previous", "base"] = Field(
        "previous",
        description="Student to warm up from the second iteration on: that of the iteration before, or the base "
        "student.",
    )


class Influence(Frozen):
    """How much one optimizer step on a point lowers the loss on the reference set."""

    estimator: EstimatorName = Field(
        "taylor",
        description="`exact` takes the step and measures the loss again. `taylor` computes the change to first order. "
        "`directional` is faster and also takes AdamW's second moment to be the same for all points.",
    )
    shards: int = Field(1, ge=1, description="Number of tasks that share the points.")
    token_budget: int = Field(2048, ge=16, description="Most tokens in a batch of points, padding included.")
    state_dtype: Dtype = Field(
        "float32", description="Data type of AdamW's moments and of the reference gradient in memory."
    )
    exact_dtype: Dtype = Field(
        "float32",
        description="Data type of the weights for `exact`. bfloat16 shows the rounding noise of a step in that type.",
    )
    after: bool = Field(
        True, description="Score the updated teacher's points too, with the same student. Only the report uses them."
    )


class Preferences(Frozen):
    """How scores become pairs of a chosen and a rejected output of the teacher."""

    split: Split = Field(
        "zero",
        description="What a chosen output exceeds: `zero`, the influence of a step without a gradient (`momentum`), or "
        "the mean of its prompt (`prompt_mean`). `best_worst` pairs the best with the worst output of a prompt. "
        "Paper: zero.",
    )
    max_pairs: int | None = Field(
        None, ge=1, description="Most pairs. A random sample is kept if there are more. Null: all."
    )
    # Omitted from the dump when it is influence, so that older fingerprints stay valid.
    signal: Signal = Field(
        "influence",
        exclude_if=lambda signal: signal == "influence",
        description="Score of a point. Paper: influence. The others are ablations.",
    )

    @model_validator(mode="after")
    def _split_fits_the_signal(self) -> Self:
        if self.signal != "influence" and self.split in ("zero", "momentum"):
            raise ValueError(
                f"split ({self.split}) is a bound on influence; "
                f"with signal: {self.signal} set prompt_mean or best_worst"
            )
        return self
