"""Settings of the models: the teacher, the student, their adapters, and a model trained from scratch."""

import datetime
import json
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

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


# Today's date in Llama 3.2's template, where the library has no clock. A clock that ran would change every loss daily.
CLOCK = datetime.date(2024, 7, 26)
RESERVED = ("messages", "conversation", "tools", "tokenize", "add_generation_prompt", "chat_template", "strftime_now")


def _read_template(value: str | None) -> str | None:
    """Return the text of a chat template, for the text itself or for the name of its file."""
    if value is None or "{" in value:
        return value
    path = Path(value).expanduser()
    if not path.is_file():
        raise ValueError(f"{value}: no such file; give a file with a Jinja chat template, or the template's text")
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{value}: cannot be read ({error})") from None
    if "{" not in text:
        raise ValueError(f"{value}: not a chat template, since it has neither {{{{ nor {{%")
    return text


def _read_json(value: object) -> object:
    """Return the object of a JSON text, as an option of the command line gives it."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except ValueError:
        raise ValueError("expected JSON, for example '{\"enable_thinking\": true}'") from None


def _check_variables(value: dict[str, Any]) -> dict[str, Any]:
    taken = sorted({*value} & {*RESERVED})
    if taken:
        raise ValueError(f"{taken[0]}: set by Montessori itself; give only variables of the template")
    return value


ChatTemplate = Annotated[str | None, AfterValidator(_read_template)]
Variables = Annotated[dict[str, Any], BeforeValidator(_read_json), AfterValidator(_check_variables)]


class Chat(Frozen):
    """How conversations become text."""

    template: str | None = None  # None: the tokenizer's own
    variables: Variables = Field({})
    date: datetime.date = CLOCK


class ChatModel(Frozen):
    """A model that reads conversations."""

    trust_remote_code: bool = Field(False, description="Run Python code that comes with the model.")
    chat_template: ChatTemplate = Field(
        None, description="File with a Jinja chat template, or its text. Null: the tokenizer's own."
    )
    chat_template_kwargs: Variables = Field(
        {}, description="Variables of the chat template, for example `{enable_thinking: true}`."
    )
    chat_date: datetime.date = Field(
        CLOCK, description="Date for chat templates that show today's date. Pinned, so that results repeat."
    )

    @property
    def chat(self) -> Chat:
        """Return how this model's conversations become text."""
        return Chat(template=self.chat_template, variables=self.chat_template_kwargs, date=self.chat_date)


class Model(ChatModel):
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

    @model_validator(mode="after")
    def _scratch_needs_a_shape(self) -> Self:
        if (self.source == "scratch") != (self.scratch is not None):
            raise ValueError("give `scratch: {…}` when source is `scratch`, and `scratch: null` with another source")
        return self
