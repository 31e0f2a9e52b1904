"""Settings of the models: the teacher, the student, their adapters, and a model trained from scratch."""

from typing import Literal, Self

from pydantic import Field, model_validator

from montessori.settings.base import Frozen

Dtype = Literal["float32", "bfloat16"]


class Lora(Frozen):
    """Train low-rank adapters instead of all weights. They are merged before the model generates."""

    rank: int = Field(16, ge=1, description="Rank of the adapters.")
    alpha: int = Field(32, ge=1, description="Scale of the adapters. Their output is multiplied by alpha / rank.")
    dropout: float = Field(0.0, ge=0, lt=1, description="Dropout probability on the adapters' input.")
    target_modules: str | list[str] = Field(
        "all-linear", description="Names of the layers that get an adapter, as PEFT reads them."
    )


class Scratch(Frozen):
    """A Llama model built and trained from scratch, for machines without a GPU."""

    vocabulary: int = Field(1024, ge=300, description="Number of tokens in the vocabulary.")
    hidden: int = Field(128, ge=8, description="Width of the hidden state.")
    layers: int = Field(4, ge=1, description="Number of layers.")
    heads: int = Field(4, ge=1, description="Number of attention heads.")
    head_dim: int | None = Field(
        None, ge=8, multiple_of=2, description="Width of a head. Null: hidden / heads. vLLM on a CPU needs 32 or 64."
    )
    context: int = Field(512, ge=64, description="Longest sequence, in tokens.")
    steps: int = Field(600, ge=1, description="Number of training steps.")
    batch_size: int = Field(16, ge=1, description="Sequences in a training step.")
    learning_rate: float = Field(3e-3, gt=0, description="Peak learning rate.")

    @model_validator(mode="after")
    def _heads_divide(self) -> Self:
        if not self.head_dim and self.hidden % (2 * self.heads):
            raise ValueError(f"hidden ({self.hidden}) must be a multiple of twice heads ({self.heads})")
        return self


class Model(Frozen):
    """A teacher or a student."""

    source: str = Field(description="A local folder with safetensors, a hub name `user/name[@revision]`, or `scratch`.")
    scratch: Scratch | None = Field(
        None, description="Shape and training of a model from scratch. Required if source is `scratch`."
    )
    dtype: Dtype = Field("bfloat16", description="Data type of the weights.")
    max_length: int = Field(
        1024, ge=16, description="Longest training example, prompt and answer, in tokens. Paper: 1024."
    )
    lora: Lora | None = Field(None, description="Train adapters with these settings. Null: train all weights.")
    trust_remote_code: bool = Field(False, description="Run Python code that comes with the model.")

    @model_validator(mode="after")
    def _scratch_needs_a_shape(self) -> Self:
        if (self.source == "scratch") != (self.scratch is not None):
            raise ValueError("give `scratch: {…}` when source is `scratch`, and `scratch: null` with another source")
        return self
