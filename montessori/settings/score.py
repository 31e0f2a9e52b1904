"""The settings of `montessori score`: the influence of the user's own points on the user's own student."""

from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from montessori.settings.data import Columns, DataSource
from montessori.settings.influence import EstimatorName
from montessori.settings.models import ChatModel, Dtype

WARM_UP_SHARE, WARM_UP_LEAST, WARM_UP_MOST = 0.25, 64, 1024  # docs/how-to/score.md says why


def _read_columns(value: object) -> object:
    """Return `instruction=frage,response=antwort`, also in several options, as a dict."""
    if not isinstance(value, str | list):
        return value
    pairs = [pair for text in ([value] if isinstance(value, str) else value) for pair in str(text).split(",")]
    if wrong := next((pair for pair in pairs if "=" not in pair), None):
        raise ValueError(f"{wrong!r} is no pair; expected for example instruction=frage,response=antwort")
    return {part.strip(): name.strip() for part, _, name in (pair.partition("=") for pair in pairs)}


ColumnOption = Annotated[Columns, BeforeValidator(_read_columns)]


class Scoring(ChatModel):
    """The options of `montessori score`, one field each."""

    student: str = Field(description="The student: a folder with safetensors, or a hub name `user/name[@revision]`.")
    data: str = Field(description="The points to score: a file, a folder of files, or a hub dataset.")
    reference: str = Field(description="The reference set: a file, a folder of files, or a hub dataset.")
    out: str = Field(
        description="File for the scores, .jsonl or .parquet. The summary and the figure are written beside it."
    )
    optimizer_state: str | None = Field(
        None,
        description="Folder of the student's AdamW state: as `OptimizerState.save` writes it, a checkpoint of a "
        "transformers Trainer (`optimizer.pt`), or a folder of accelerate's `save_state` (`optimizer.bin`).",
    )
    optimizer: Literal["adamw", "sgd"] | None = Field(
        None,
        description="Optimizer of the step. adamw (the default) takes the moments of `optimizer_state`, or of a "
        "warm-up. sgd is plain gradient descent, without a state. Given explicitly, adamw also answers for a state of "
        "an older torch, which does not tell AdamW from Adam.",
    )
    warm_up: int | None = Field(
        None,
        ge=1,
        description="Number of random points to fine-tune the student on first, where there is no optimizer state. "
        f"Default: a quarter of the points, at least {WARM_UP_LEAST} and at most {WARM_UP_MOST}.",
    )
    learning_rate: float | None = Field(
        None,
        gt=0,
        description="Learning rate of the step. Default: that of the optimizer state, else the paper's 5e-6.",
    )
    estimator: EstimatorName = Field("taylor", description="Influence estimator: taylor, exact or directional.")
    config: str | None = Field(None, description="Configuration of `data`, where it is a hub dataset.")
    split: str = Field("train", description="Split of `data`, where it is a hub dataset or a folder.")
    columns: ColumnOption = Field(
        {}, description="Your names of the columns of `data`, for example `instruction=frage,response=antwort`."
    )
    reference_config: str | None = Field(None, description="Configuration of `reference`.")
    reference_split: str = Field("train", description="Split of `reference`.")
    reference_columns: ColumnOption = Field({}, description="Your names of the columns of `reference`.")
    limit: int | None = Field(None, ge=1, description="Number of points to score, from the start. Default: all.")
    max_length: int = Field(
        1024, ge=16, description="Length to cut points to, prompt and answer, in tokens. Paper: 1024."
    )
    dtype: Dtype | None = Field(
        None, description="Data type of the student's weights. Default: bfloat16 where there is a GPU, else float32."
    )
    state_dtype: Dtype = Field(
        "float32", description="Data type of AdamW's moments and of the reference gradient in memory."
    )
    exact_dtype: Dtype | None = Field(
        None,
        description="Data type of the weights, for exact. bfloat16 takes the step as the paper's code did, "
        "and its rounding noise is measured. Default: float32.",
    )
    token_budget: int = Field(2048, ge=16, description="Most tokens in a batch of points, padding included.")
    shards: int | None = Field(
        None,
        ge=1,
        description="Number of shards of the points, kept apart. Default: 256 points in each, 16 for exact, and 8 "
        "times as many on a GPU.",
    )
    seed: int = Field(0, ge=0, lt=2**31, description="Seed of the warm-up.")
    store: str = Field("store", description="Where finished shards are kept: a folder, or s3://bucket/prefix.")
    threads: int = Field(1, ge=1, description="CPU threads of a shard, where there is no GPU.")
    at_once: int | None = Field(
        None, ge=1, description="Most shards at a time. Default: the number of GPUs, else of CPU cores / threads."
    )

    def points(self) -> DataSource:
        """Return the source of the points."""
        return DataSource(
            source=self.data, config=self.config, split=self.split, limit=self.limit, columns=self.columns
        )

    def against(self) -> DataSource:
        """Return the source of the reference set."""
        return DataSource(
            source=self.reference,
            config=self.reference_config,
            split=self.reference_split,
            columns=self.reference_columns,
        )

    @model_validator(mode="after")
    def _options_agree(self) -> Self:
        if self.warm_up and self.optimizer_state:
            raise ValueError("--warm-up makes an optimiser state, --optimizer-state gives one: leave one of them out")
        if self.optimizer == "sgd" and (self.warm_up or self.optimizer_state):
            raise ValueError("--optimizer sgd takes a step without a state: leave out --warm-up and --optimizer-state")
        if self.estimator == "exact" and self.dtype:
            raise ValueError(
                "--dtype does not go with --estimator exact, which needs float32; "
                "the noise of a bfloat16 step is asked for by --exact-dtype bfloat16"
            )
        if self.estimator != "exact" and self.exact_dtype:
            raise ValueError("--exact-dtype is of --estimator exact; the others take --dtype")
        return self

    def warm_up_points(self, points: int) -> int:
        """Return the size of the warm-up set for a number of `points`. It is 0 where no warm-up is needed."""
        if self.optimizer_state or self.optimizer == "sgd":
            return 0
        return self.warm_up or min(points, WARM_UP_MOST, max(WARM_UP_LEAST, round(WARM_UP_SHARE * points)))
