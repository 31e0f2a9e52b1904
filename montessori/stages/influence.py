"""The influence of a shard of the points, as `scores.parquet` (`id, influence, training_loss, tokens, status`)."""

import json
import math
import statistics
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any, Literal

import torch

from montessori import models, progress
from montessori.chat import Example
from montessori.config import EstimatorName, Frozen
from montessori.data import write_rows
from montessori.influence import Directional, Estimator, Exact, ReferenceGradient, Score, Step, Taylor, fidelity, plan
from montessori.influence.batches import Batch
from montessori.stages import Job, tokens
from montessori.stages.inputs import describe, encode, fitting_budget, optimizer_step

NOISE_POINTS = 16  # measured again in float32 where the exact step is taken in bfloat16


class Settings(Frozen):
    """The estimator, and how the student is loaded."""

    estimator: EstimatorName
    exact_dtype: Literal["float32", "bfloat16"]
    state_dtype: Literal["float32", "bfloat16"]
    token_budget: int
    dtype: str
    max_length: int  # of the reference set
    trust_remote_code: bool
    learning_rate: float | None = None  # default: the optimiser state's


def run(job: Job, settings: Settings) -> dict[str, Any]:
    """Score every n-th batch of the points against the reference gradient, or the reference set for `exact`."""
    batches, dropped = tokens.read(job.folder("tokens"), job.request.shard)
    exact = settings.estimator == "exact"
    dtype = settings.exact_dtype if exact else settings.dtype
    reference = _reference_set(job, settings) if exact else []
    budget = fitting_budget(
        job,
        settings.estimator,
        dtype,
        settings.trust_remote_code,
        settings.state_dtype,
        batches,
        reference,
        settings.token_budget,
    )
    settings = settings.model_copy(update={"token_budget": budget})
    estimator, step, against = _estimator(job, settings, dtype, reference)
    scored = [asdict(score) for score in _scores(estimator, [part for b in batches for part in plan(b, budget)])]
    unscored = [
        {"id": id, "influence": math.nan, "training_loss": math.nan, "tokens": 0, "status": reason}
        for id, reason in dropped.items()
    ]
    write_rows(job.out / "scores.parquet", scored + unscored)
    (job.out / "momentum.json").write_text(json.dumps({"momentum_influence": estimator.momentum_influence}) + "\n")
    examples = [example for batch in batches for example in batch]
    summary: dict[str, Any] = {
        "points": len(scored) + len(unscored),
        "truncated": sum(example.truncated for example in examples),
        "tokens": sum(len(example.input_ids) for example in examples),
        "token_budget": budget,
        "statuses": dict(Counter(row["status"] for row in scored + unscored)),
        "step": describe(step),
        "reference": against,
    }
    if exact and dtype == "bfloat16" and job.request.shard[0] == 0:
        summary["noise"] = _noise(job, settings, reference, scored, examples)
    return summary


def _scores(estimator: Estimator, batches: list[Batch]) -> Iterator[Score]:
    total, done, seen, started = sum(map(len, batches)), 0, 0, time.monotonic()
    progress.report(0, total, "points")
    for batch in batches:
        yield from estimator.score(batch)
        done += len(batch)
        seen += sum(len(example.input_ids) for example in batch)
        progress.report(done, total, "points", f"{seen / (time.monotonic() - started):,.0f} tokens/s")


def _reference_set(job: Job, settings: Settings) -> list[Example]:
    source = job.model("student")
    tokenizer = models.load_tokenizer(source, settings.trust_remote_code)
    student = models.skeleton(source, trust_remote_code=settings.trust_remote_code)
    return encode(student, tokenizer, job.rows("reference", "rows.parquet"), settings.max_length).examples


def _estimator(
    job: Job, settings: Settings, dtype: str, reference: list[Example]
) -> tuple[Estimator, Step, dict[str, float]]:
    """The estimator that the settings name, its step, and what it measures against: the size and loss of that set."""
    model = models.load_model(job.model("student"), dtype, settings.trust_remote_code)
    narrow = getattr(torch, settings.state_dtype)
    step = optimizer_step(job, model, settings.learning_rate, narrow)
    if settings.estimator == "exact":
        exact = Exact(model, step, reference, settings.token_budget, narrow_weights=dtype == "bfloat16")
        return exact, step, {"n": len(reference), "loss": exact.reference_loss}
    gradient = ReferenceGradient.load(job.folder("gradient"), models.device(), narrow)
    kind = Taylor if settings.estimator == "taylor" else Directional
    return kind(model, step, gradient.gradient), step, {"n": gradient.n, "loss": gradient.loss}


def _noise(
    job: Job, settings: Settings, reference: list[Example], scored: list[dict[str, Any]], examples: list[Example]
) -> dict[str, float | None]:
    """What taking the exact step in bfloat16 cost, on a few points: the same in float32.

    A rank correlation of None: the points, or all but one, have the same influence.
    """
    found = {row["id"]: row["influence"] for row in scored if row["status"] == "ok"}
    sample = [example for example in examples if example.id in found][:NOISE_POINTS]
    wide, _, _ = _estimator(job, settings, "float32", reference)
    truths = [score.influence for score in wide.score(sample)]
    noisy = [found[example.id] for example in sample]
    errors = [a - b for a, b in zip(noisy, truths, strict=True)]
    comparable = len({*noisy}) > 1 and len({*truths}) > 1
    return {
        "points": len(sample),
        "spearman": fidelity.spearman(noisy, truths) if comparable else None,
        "deviation_of_error": statistics.stdev(errors) if len(sample) > 1 else None,
        "deviation_of_influence": statistics.stdev(truths) if len(sample) > 1 else None,
    }
