"""Settings of the generation engines: an OpenAI-compatible endpoint and its price, and vLLM."""

from typing import Annotated

from pydantic import AfterValidator, Field, HttpUrl

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


class OpenAI(Frozen):
    """An OpenAI-compatible endpoint. Its key comes from the environment."""

    model: str | None = Field(None, description="Name of the model at the endpoint.")
    base_url: Annotated[str, AfterValidator(_check_address)] = Field(
        "https://api.openai.com/v1", description="Address of the endpoint."
    )
    key_variable: str = Field("OPENAI_API_KEY", description="Environment variable with the endpoint's key.")
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


class Vllm(Frozen):
    """vLLM's offline engine. It runs in an environment of its own (`make vllm`)."""

    gpu_memory_utilization: float = Field(0.9, gt=0, le=1, description="Share of the GPU's memory that vLLM uses.")
    python: str = Field(".venv-vllm/bin/python", description="Python interpreter of vLLM's environment.")
