"""Open the engine of a generation task, with its journal."""

from typing import Any, Literal

from montessori.artifacts import identity
from montessori.budget import price_of, usage_of_others
from montessori.data.template import DEFAULT_TEMPLATE
from montessori.settings.base import Frozen
from montessori.settings.engines import MAX_FAILED, OpenAI
from montessori.settings.generation import Sampling
from montessori.settings.models import Chat
from montessori.synthesis.engines import Engine
from montessori.synthesis.journaled_engine import JournaledEngine
from tasks.runtime.job import Job

PLAIN_TEMPLATE = "Montessori default"


class GenerationSettings(Frozen):
    """The engine, and how it loads the model. The address of the model or endpoint is an input."""

    engine: Literal["transformers", "vllm", "openai"]
    batch_size: int | None = None  # of transformers
    context: int | None = None
    dtype: str = "bfloat16"
    trust_remote_code: bool = False
    chat: Chat = Chat()
    endpoint: dict[str, Any] | None = None  # of openai, what changes its texts; the task reads it in its means
    remove_thinking: bool = True


class JudgeSettings(GenerationSettings):
    """How the judge replies and how often it is tried. The judge is the input `judge`."""

    wording: str  # judging.wording of the task
    max_tokens: int = 512
    tries: int = 3  # for an unreadable verdict
    max_unreadable: int = 20  # the task fails above this number, and above half of its verdicts


def open_engine(
    job: Job, settings: GenerationSettings, role: str = "teacher", block: str = "generation."
) -> JournaledEngine:
    """Return the engine of `job`, which is loaded when it is first needed.

    `role` is the input that names its model. `block` begins the engine's fields in error messages: "generation.",
    "judge." or "" for a suite's own models.
    """
    assert job.journal, "the task is registered as journaled"
    price = None
    if settings.engine == "openai":
        endpoint = OpenAI.model_validate(job.request.means["openai"])
        price = price_of(endpoint)
    budget = job.request.means.get("budget")
    limited: dict[str, Any] = {}
    if budget:
        others = usage_of_others(job.store, budget, job.request.address)
        limited = {"limits": budget["limits"], "others": others}
    return JournaledEngine(
        lambda: _engine(job, settings, role, block),
        job.journal,
        price=price,
        max_failed=job.request.means.get("max_failed", MAX_FAILED),
        block=block,
        without_thinking=settings.remove_thinking,
        **limited,
    )


def provenance(job: Job, settings: GenerationSettings, sampling: Sampling) -> dict[str, str]:
    """Return the columns `engine`, `model` and `sampling` of a generated row. A model's folder is named by its hash."""
    (model,) = job.request.inputs["teacher"]
    return {"engine": settings.engine, "model": identity(model), "sampling": sampling.model_dump_json()}


def chat_template(job: Job, settings: GenerationSettings, role: str = "teacher") -> str:
    """Return whose chat template is used, in words for a summary."""
    if settings.engine == "openai":
        return "the endpoint's"
    from montessori.models.loading import load_tokenizer

    tokenizer = load_tokenizer(job.model(role), settings.trust_remote_code, settings.chat)
    return PLAIN_TEMPLATE if tokenizer.chat_template == DEFAULT_TEMPLATE else "the model's own"


def _engine(job: Job, settings: GenerationSettings, role: str, block: str) -> Engine:
    if settings.engine == "openai":
        from montessori.synthesis.engines.openai import OpenAIEngine

        return OpenAIEngine(OpenAI.model_validate(job.request.means["openai"]), f"{block}openai")
    from montessori.models.loading import load_model, load_tokenizer

    source = job.model(role)
    tokenizer = load_tokenizer(source, settings.trust_remote_code, settings.chat)
    if settings.engine == "vllm":
        from montessori.synthesis.engines.vllm import VllmEngine

        share = job.request.means["vllm"]["gpu_memory_utilization"]
        return VllmEngine(
            source,
            tokenizer,
            dtype=settings.dtype,
            trust_remote_code=settings.trust_remote_code,
            context=settings.context,
            gpu_memory_utilization=share,
            block=block,
        )
    from montessori.synthesis.engines.transformers import TransformersEngine

    model = load_model(source, settings.dtype, settings.trust_remote_code)
    return TransformersEngine(model, tokenizer, settings.batch_size or 64, settings.context)
