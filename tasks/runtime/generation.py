"""What the stages in which the teacher writes share: the engine that their settings name, and the journal around it."""

from typing import Literal

from montessori.artifacts import identity
from montessori.budget import price_of, usage_of_others
from montessori.data.chat import DEFAULT_TEMPLATE
from montessori.settings.base import Frozen
from montessori.settings.engines import OpenAI
from montessori.settings.generation import Sampling
from montessori.synthesis.engines import Engine
from montessori.synthesis.journaled_engine import JournaledEngine
from tasks.runtime.job import Job

PLAIN_TEMPLATE = "Montessori default"


class Writing(Frozen):
    """Which engine writes, and what it needs to load the model. An endpoint's address is an input as a model's is."""

    engine: Literal["transformers", "vllm", "openai"]
    batch_size: int | None = None  # of transformers
    context: int | None = None
    dtype: str = "bfloat16"
    trust_remote_code: bool = False


class Judging(Writing):
    """A judge, which is the input `judge`, and how often it is asked."""

    wording: str  # judging.wording of the stage
    max_tokens: int = 512
    tries: int = 3  # of one verdict that cannot be read
    max_unreadable: int = 20  # of a stage, and half of its verdicts, before it gives up


def asker(job: Job, settings: Writing, role: str = "teacher", block: str = "generation.") -> JournaledEngine:
    """The engine of `job`, loaded when first needed; `role` is the input that names its model.

    `block` is where a user's settings have the engine's, for the errors: "" for those of a suite's own models.
    """
    assert job.journal, "the stage is registered as journaled"
    price = None
    if settings.engine == "openai":
        endpoint = OpenAI.model_validate(job.request.means["openai"])
        price = price_of(endpoint)
    budget = job.request.means.get("budget")
    if not budget:
        return JournaledEngine(lambda: _engine(job, settings, role, block), job.journal, price=price)
    others = usage_of_others(job.store, budget, job.request.address)
    return JournaledEngine(
        lambda: _engine(job, settings, role, block), job.journal, price=price, limits=budget["limits"], others=others
    )


def provenance(job: Job, settings: Writing, sampling: Sampling) -> dict[str, str]:
    """The columns that say of each row what wrote it; of a model's folder its hash, not its path."""
    (model,) = job.request.inputs["teacher"]
    return {"engine": settings.engine, "model": identity(model), "sampling": sampling.model_dump_json()}


def chat_template(job: Job, settings: Writing, role: str = "teacher") -> str:
    """Whose template makes chats text: for a summary."""
    if settings.engine == "openai":
        return "the endpoint's"
    from montessori.models.loading import load_tokenizer

    tokenizer = load_tokenizer(job.model(role), settings.trust_remote_code)
    return PLAIN_TEMPLATE if tokenizer.chat_template == DEFAULT_TEMPLATE else "the model's own"


def _engine(job: Job, settings: Writing, role: str, block: str) -> Engine:
    if settings.engine == "openai":
        from montessori.synthesis.engines.openai import OpenAIEngine

        return OpenAIEngine(OpenAI.model_validate(job.request.means["openai"]), f"{block}openai")
    from montessori.models.loading import load_model, load_tokenizer

    source = job.model(role)
    tokenizer = load_tokenizer(source, settings.trust_remote_code)
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
