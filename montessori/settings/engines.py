"""Settings of the generation engines: an OpenAI-compatible endpoint and its price, and vLLM."""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, HttpUrl, JsonValue

from montessori.settings.base import NOT_IN_FINGERPRINT, Frozen


class Price(Frozen):
    """The price of an API, in US dollars per million tokens."""

    input: float = Field(ge=0, description="US dollars per million tokens of prompts.")
    output: float = Field(ge=0, description="US dollars per million generated tokens.")


def _check_address(text: str) -> str:
    try:
        address = HttpUrl(text)
    except ValueError:
        raise ValueError("expected an address like https://host/v1") from None
    if address.username or address.password or not text.isascii():
        raise ValueError("expected an address without a name or key in it; the key comes from the environment")
    return text.rstrip("/")


# The names of the limit on generated tokens, by `limit_parameter`.
LIMITS = {
    "max_completion_tokens": ("max_completion_tokens",),
    "max_tokens": ("max_tokens",),
    "both": ("max_completion_tokens", "max_tokens"),
}
MAX_FAILED = 0.01
NEVER_OMITTED = ("model", "messages")
NEVER_EXTRA = (*NEVER_OMITTED, "n", "seed", "stop", "stream", "logprobs", "top_logprobs", *LIMITS["both"])
MaxFailed = Annotated[
    float,
    NOT_IN_FINGERPRINT,
    Field(
        ge=0,
        le=1,
        description="A task fails when more than this share of its prompts get no answer from an endpoint. One prompt "
        "may always fail, unless it is 0.",
    ),
]


def _check_omit(names: tuple[str, ...]) -> tuple[str, ...]:
    if wrong := [name for name in names if name in NEVER_OMITTED]:
        raise ValueError(f"{wrong[0]} is needed in every request; take it out of the list")
    return names


def _check_extra(body: dict[str, JsonValue]) -> dict[str, JsonValue]:
    if wrong := [name for name in body if name in NEVER_EXTRA]:
        raise ValueError(f"{wrong[0]} is set by Montessori in every request; take it out")
    return body


class OpenAI(Frozen):
    """An OpenAI-compatible endpoint. Its key comes from the environment."""

    model: str | None = Field(None, description="Name of the model at the endpoint.")
    base_url: Annotated[str, AfterValidator(_check_address)] = Field(
        "https://api.openai.com/v1", description="Address of the endpoint."
    )
    key_variable: str = Field("OPENAI_API_KEY", description="Environment variable with the endpoint's key.")
    limit_parameter: Literal["max_completion_tokens", "max_tokens", "both"] = Field(
        "max_completion_tokens",
        description="Name under which the limit on generated tokens is sent. An endpoint that refuses one name gets "
        "the other. Set it for an endpoint that ignores one.",
    )
    omit: Annotated[tuple[str, ...], AfterValidator(_check_omit)] = Field(
        (),
        description="Parameters that are never sent, for example [seed] for an endpoint that refuses it. Parameters at "
        "their neutral value (temperature 1, top_p 1, penalties 0) are not sent anyway.",
    )
    extra_body: Annotated[dict[str, JsonValue], AfterValidator(_check_extra)] = Field(
        {}, description="Fields to add to the body of each request, for example {reasoning_effort: low}."
    )
    max_concurrency: Annotated[int, NOT_IN_FINGERPRINT] = Field(
        256,
        ge=1,
        description="Most requests at a time. A run begins with 8 and sends more while the endpoint answers without "
        "errors.",
    )
    timeout_s: Annotated[float, NOT_IN_FINGERPRINT] = Field(
        600, gt=0, description="Time limit of a request, in seconds."
    )
    price: Annotated[Price | None, NOT_IN_FINGERPRINT] = Field(
        None, description="Price of the model. Null: the list price in montessori/budget.py, if the model is there."
    )

    def request_identity(self) -> dict[str, Any]:
        """Return the settings that change the texts of a model, for fingerprints. Defaults are left out."""
        return self.model_dump(mode="json", include={"limit_parameter", "omit", "extra_body"}, exclude_defaults=True)


class Vllm(Frozen):
    """vLLM's offline engine. It runs in an environment of its own (`make vllm`)."""

    gpu_memory_utilization: float = Field(0.9, gt=0, le=1, description="Share of the GPU's memory that vLLM uses.")
    python: str = Field(".venv-vllm/bin/python", description="Python interpreter of vLLM's environment.")
