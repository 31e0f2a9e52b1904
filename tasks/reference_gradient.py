"""Compute the gradient ∇L(θ) of the warmed-up student on the reference set, with L(θ) and I(∅)."""

from typing import Any

from montessori.errors import InputError
from montessori.influence import TOKEN_BUDGET, ReferenceGradient, Taylor, reference_gradient
from montessori.models import loading
from montessori.settings.base import Frozen
from montessori.settings.models import Chat
from tasks.runtime.inputs import encode, fit_token_budget, optimizer_step
from tasks.runtime.job import Job


class Settings(Frozen):
    """How the student is loaded, and how its examples are encoded."""

    dtype: str
    max_length: int
    trust_remote_code: bool
    chat: Chat = Chat()
    learning_rate: float | None = None  # default: the optimiser state's


def run(job: Job, settings: Settings) -> dict[str, Any]:
    """Pass once over the reference set."""
    source = job.model("student")
    tokenizer = loading.load_tokenizer(source, settings.trust_remote_code, settings.chat)
    student = loading.skeleton(source, trust_remote_code=settings.trust_remote_code)
    encoded = encode(student, tokenizer, job.rows("reference", "rows.parquet"), settings.max_length)
    if not encoded.examples:
        raise InputError("reference: no row has an answer that fits max_length; raise it or use shorter rows")
    budget = fit_token_budget(
        job,
        "gradient",
        dtype=settings.dtype,
        trust_remote_code=settings.trust_remote_code,
        state_dtype="float32",
        batches=[],
        reference=encoded.examples,
        limit=TOKEN_BUDGET,
    )
    model = loading.load_model(source, settings.dtype, settings.trust_remote_code)
    gradient, loss = reference_gradient(model, encoded.examples, budget)
    step = optimizer_step(job, model, settings.learning_rate)
    momentum = Taylor(model, step, gradient).momentum_influence
    ReferenceGradient(gradient, loss, len(encoded.examples), momentum).save(job.out)
    return {**encoded.counts, "loss": loss, "momentum_influence": momentum, "token_budget": budget}
