"""What `montessori score` is asked for, typed: the influence of points of one's own, by a student of one's own."""

from typing import Literal, Self

from pydantic import Field, model_validator

from montessori.settings.schema import EstimatorName, Frozen


class Scoring(Frozen):
    """A field an option."""

    student: str
    data: str
    reference: str
    out: str
    optimizer_state: str | None = None
    warm_up: int | None = Field(None, ge=1)  # rows
    learning_rate: float | None = Field(None, gt=0)  # default: the optimiser state's, or the paper's
    estimator: EstimatorName = "taylor"
    split: str = "train"  # of `data` on the hub
    limit: int | None = Field(None, ge=1)
    max_length: int = Field(1024, ge=16)  # paper
    dtype: Literal["float32", "bfloat16"] | None = None  # default: bfloat16 where there is a GPU, else float32
    state_dtype: Literal["float32", "bfloat16"] = "float32"
    exact_dtype: Literal["float32", "bfloat16"] | None = None
    token_budget: int = Field(2048, ge=16)
    shards: int | None = Field(None, ge=1)
    seed: int = Field(0, ge=0, lt=2**31)
    store: str = "store"
    threads: int = Field(1, ge=1)
    at_once: int | None = Field(None, ge=1)
    trust_remote_code: bool = False

    @model_validator(mode="after")
    def _options_agree(self) -> Self:
        if self.warm_up and self.optimizer_state:
            raise ValueError("--warm-up makes an optimiser state, --optimizer-state gives one: leave one of them out")
        if self.estimator == "exact" and self.dtype:
            raise ValueError(
                "--dtype does not go with --estimator exact, which needs float32; "
                "the noise of a bfloat16 step is asked for by --exact-dtype bfloat16"
            )
        if self.estimator != "exact" and self.exact_dtype:
            raise ValueError("--exact-dtype is of --estimator exact; the others take --dtype")
        return self
