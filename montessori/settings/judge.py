"""Settings of the judges: a model that rates a run's points, and one that judges the answers of an evaluation."""

from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from montessori.settings.base import NOT_IN_FINGERPRINT
from montessori.settings.engines import MAX_FAILED, MaxFailed, OpenAI, Vllm
from montessori.settings.models import ChatModel, Dtype

EngineName = Literal["transformers", "vllm", "openai"]


class JudgeModel(ChatModel):
    """A model that judges: where it is, and how often its verdicts may be unreadable."""

    source: str | None = Field(
        None, description="A model folder or hub name, where the engine is transformers or vllm."
    )
    dtype: Dtype = Field("bfloat16", description="Data type of the weights.")
    batch_size: int = Field(16, ge=1, description="Prompts in a batch of the Transformers engine.")
    context: int | None = Field(
        None, ge=16, description="Most tokens of a prompt and its verdict together. Null: as many as the model allows."
    )
    openai: OpenAI = Field(OpenAI(), description="The endpoint where `engine` is openai.")
    vllm: Annotated[Vllm, NOT_IN_FINGERPRINT] = Field(Vllm(), description="Settings of vLLM.")
    max_failed: MaxFailed = MAX_FAILED
    max_tokens: int = Field(512, ge=1, description="Most tokens of a verdict and its reason.")
    tries: int = Field(3, ge=1, description="Number of times to ask for a verdict that cannot be read.")
    max_unreadable: int = Field(
        20,
        ge=1,
        description="A task fails when more of its verdicts than this, and more than half, cannot be read.",
    )


class Rating(JudgeModel):
    """Who rates points from 1 to 5, as in Self-Reward (arXiv 2401.10020)."""

    engine: Literal["teacher", "rule", "transformers", "vllm", "openai"] = Field(
        "teacher",
        description="Engine of the judge. `teacher`: the model that generated the points. `rule`: no model, 5 for a "
        "right answer and 1 for a wrong one, only in the pocket world.",
    )

    @model_validator(mode="after")
    def _model_is_named(self) -> Self:
        if self.engine == "openai" and not self.openai.model:
            raise ValueError("openai.model is missing: the name that the endpoint knows the judge by")
        if (self.engine in ("transformers", "vllm")) != (self.source is not None):
            raise ValueError(
                "give `source`, a model folder or hub name, when engine is transformers or vllm, only then"
            )
        return self


class Judge(JudgeModel):
    """Who compares and grades the answers of an evaluation."""

    engine: EngineName = Field(description="Engine of the judge.")
    prompts: str | None = Field(None, description="File of judge prompts in MT-Bench's form. Null: Montessori's own.")

    @model_validator(mode="before")
    @classmethod
    def _engine_is_named(cls, given: Any) -> Any:
        if isinstance(given, dict) and "engine" not in given and given.keys() <= cls.model_fields.keys():
            raise ValueError("engine is missing; add it with source or openai.model, or give --judge ENGINE:MODEL")
        return given

    @model_validator(mode="after")
    def _model_is_named(self) -> Self:
        if self.engine == "openai" and not self.openai.model:
            raise ValueError("openai.model is missing: the name that the endpoint knows the judge by")
        if self.engine != "openai" and not self.source:
            raise ValueError("source is missing: the judge's model folder or hub name")
        return self
