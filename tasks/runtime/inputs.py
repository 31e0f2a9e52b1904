"""Prepare the inputs of a student: rows as tokens, the token budget, and the optimiser step."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from montessori.artifacts import is_artifact
from montessori.data.chat import EncodedPairs, Example, encode_pairs
from montessori.data.rows import Row
from montessori.errors import InputError
from montessori.influence import GradientDescent, OptimizerState, Step, memory, trainable_parameters
from montessori.influence.batches import Batch
from montessori.models import loading
from montessori.models.families import context_of
from montessori.settings.training import Training
from tasks.runtime.job import Job, location


def encode(model: Any, tokenizer: Any, rows: list[Row], max_length: int) -> EncodedPairs:
    """Return `rows` as examples for `model`, cut to `max_length` and to its context.

    Raises InputError when the tokenizer does not fit the model.
    """
    encoded = encode_pairs(tokenizer, rows, fit_length(model, max_length))
    known = model.get_input_embeddings().num_embeddings
    largest = max((max(example.input_ids) for example in encoded.examples), default=0)
    if largest >= known:
        raise InputError(
            f"{tokenizer.name_or_path}: the tokenizer does not fit the model: it makes token {largest}, and the "
            f"model's vocabulary ends at {known - 1}; use the tokenizer that the model was trained with"
        )
    return encoded


def fit_length(model: Any, max_length: int) -> int:
    """Return `max_length`, or the context of `model` where that is shorter."""
    return min(max_length, context_of(model))


def fit_token_budget(
    job: Job,
    work: memory.Work,
    *,
    dtype: str,
    trust_remote_code: bool,
    state_dtype: str,
    batches: Sequence[Batch],
    reference: Sequence[Example],
    limit: int,
) -> int:
    """Return the largest token budget, at most `limit`, with which `work` fits into the free memory.

    Call it before a model is loaded. Raises InputError when not even one example fits.
    """
    student = loading.skeleton(job.model("student"), dtype, trust_remote_code)
    points = [example for batch in batches for example in batch]
    longest = max((len(example.input_ids) for example in [*points, *reference]), default=0)
    needed = memory.estimate_memory(
        student, work, getattr(torch, state_dtype), moments=2 if _has_state(job) else 0, longest=longest
    )
    free = memory.available_bytes(loading.device())
    return memory.fit_token_budget(needed, points, reference, wanted=limit, available=free)


def _has_state(job: Job) -> bool:
    return job.has("optimizer") or is_artifact(job.request.inputs["student"][0])


def optimizer_step(job: Job, model: nn.Module, learning_rate: float | None, dtype: torch.dtype = torch.float32) -> Step:
    """Return the optimiser step of the influence: AdamW's, from the input `optimizer` or the student's own artifact.

    A student of neither takes a step of plain gradient descent. `learning_rate` replaces the state's. The moments are
    kept in `dtype`. Raises InputError when the state does not fit `model`, or when no step can be taken with it.
    """
    if job.has("optimizer"):
        (address,) = job.request.inputs["optimizer"]
        folder = job.folder("optimizer") if is_artifact(address) else Path(location(address))
    elif is_artifact(job.request.inputs["student"][0]):
        folder = job.folder("student")
    else:
        return GradientDescent(learning_rate or Training().learning_rate)
    state = OptimizerState.load(folder, loading.device(), dtype)
    state = replace(state, learning_rate=learning_rate) if learning_rate else state
    try:
        state.check(trainable_parameters(model))
    except InputError as error:
        raise InputError(f"{folder}: {error}") from None
    return state


def describe(step: Step) -> dict[str, Any]:
    """Return the optimiser, learning rate and step count of a step, for a summary."""
    steps = {"steps_before": step.step} if isinstance(step, OptimizerState) else {}
    name = "AdamW" if isinstance(step, OptimizerState) else "gradient descent"
    return {"optimizer": name, "learning_rate": step.learning_rate, **steps}
