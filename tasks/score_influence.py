"""Score the influence of a shard of the points: `scores.parquet` (`id, influence, training_loss, tokens, status`)."""

import json
import math
import statistics
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any, Literal

import torch

from montessori import progress
from montessori.correlation import spearman
from montessori.data.chat import Example
from montessori.data.rows import write_rows
from montessori.errors import InputError
from montessori.influence import Directional, Estimator, Exact, ReferenceGradient, Score, Step, Taylor, make_batches
from montessori.influence.batches import Batch
from montessori.models import loading
from montessori.settings.base import Frozen
from montessori.settings.influence import EstimatorName
from montessori.settings.models import Chat
from tasks import tokenize_points
from tasks.runtime.inputs import describe, encode, fit_token_budget, optimizer_step
from tasks.runtime.job import Job

CHECKED_POINTS = 32  # scored twice where the estimator may rank points wrongly
FURTHEST = 3  # of these, the points with the largest errors are named


class Settings(Frozen):
    """The estimator, and how the student is loaded."""

    estimator: EstimatorName
    exact_dtype: Literal["float32", "bfloat16"]
    state_dtype: Literal["float32", "bfloat16"]
    token_budget: int
    dtype: str
    max_length: int  # of the reference set
    trust_remote_code: bool
    chat: Chat = Chat()
    learning_rate: float | None = None  # default: the optimiser state's


def run(job: Job, settings: Settings) -> dict[str, Any]:
    """Score every n-th batch of the points against the reference gradient, or with `exact` the reference set."""
    batches, dropped = tokenize_points.read(job.folder("tokens"), job.request.shard)
    exact = settings.estimator == "exact"
    dtype = settings.exact_dtype if exact else settings.dtype
    reference = [] if settings.estimator == "taylor" else _reference_set(job, settings)
    budget = fit_token_budget(
        job,
        settings.estimator,
        dtype=dtype,
        trust_remote_code=settings.trust_remote_code,
        state_dtype=settings.state_dtype,
        batches=batches,
        reference=reference,
        limit=settings.token_budget,
    )
    settings = settings.model_copy(update={"token_budget": budget})
    examples = [example for batch in batches for example in batch]
    better = (
        _better_scores(job, settings, dtype, reference=reference, examples=examples)
        if job.request.shard[0] == 0
        else None
    )
    estimator, step, against = _estimator(job, settings, dtype, reference)
    scored = [
        asdict(score) for score in _scores(estimator, [part for b in batches for part in make_batches(b, budget)])
    ]
    unscored = [
        {"id": id, "influence": math.nan, "training_loss": math.nan, "tokens": 0, "status": reason}
        for id, reason in dropped.items()
    ]
    write_rows(job.out / "scores.parquet", scored + unscored)
    (job.out / "momentum.json").write_text(json.dumps({"momentum_influence": estimator.momentum_influence}) + "\n")
    summary: dict[str, Any] = {
        "points": len(scored) + len(unscored),
        "truncated": sum(example.truncated for example in examples),
        "tokens": sum(len(example.input_ids) for example in examples),
        "token_budget": budget,
        "statuses": dict(Counter(row["status"] for row in scored + unscored)),
        "step": describe(step),
        "reference": against,
    }
    if better:
        summary["check"] = _agreement(*better, scored)
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
    tokenizer = loading.load_tokenizer(source, settings.trust_remote_code, settings.chat)
    student = loading.skeleton(source, trust_remote_code=settings.trust_remote_code)
    return encode(student, tokenizer, job.rows("reference", "rows.parquet"), settings.max_length).examples


def _estimator(
    job: Job, settings: Settings, dtype: str, reference: list[Example]
) -> tuple[Estimator, Step, dict[str, float]]:
    """Return the estimator, its step, and the size and loss of the reference set."""
    model = loading.load_model(job.model("student"), dtype, settings.trust_remote_code)
    narrow = getattr(torch, settings.state_dtype)
    step = optimizer_step(job, model, settings.learning_rate, narrow)
    if settings.estimator == "exact":
        exact = Exact(model, step, reference, settings.token_budget, narrow_weights=dtype == "bfloat16")
        return exact, step, {"n": len(reference), "loss": exact.reference_loss}
    gradient = ReferenceGradient.load(job.folder("gradient"), loading.device(), narrow)
    against = {"n": gradient.n, "loss": gradient.loss}
    if settings.estimator == "taylor":
        return Taylor(model, step, gradient.gradient), step, against
    return Directional(model, step, gradient.gradient, reference), step, against


def _better_scores(
    job: Job, settings: Settings, dtype: str, *, reference: list[Example], examples: list[Example]
) -> tuple[str, list[Score]] | None:
    """Score a few points of every length by a better estimator, and return its name and the scores.

    `taylor` checks `directional`, whose fixed v may not hold. A float32 step checks a bfloat16 step. Returns None where
    there is no better estimator, or where it does not fit into memory.
    """
    name: EstimatorName
    name, wide = ("taylor", dtype) if settings.estimator == "directional" else (settings.estimator, "float32")
    if settings.estimator == "taylor" or (name, wide) == (settings.estimator, dtype):
        return None
    try:
        fit_token_budget(
            job,
            name,
            dtype=wide,
            trust_remote_code=settings.trust_remote_code,
            state_dtype=settings.state_dtype,
            batches=[examples],
            reference=reference,
            limit=settings.token_budget,
        )
    except InputError:  # it does not fit into memory
        return None
    estimator, _, _ = _estimator(job, settings.model_copy(update={"estimator": name}), wide, reference)
    sample = examples[:: math.ceil(len(examples) / CHECKED_POINTS) or 1]
    return f"{name} in {wide}", [score for example in sample for score in estimator.score([example])]


def _agreement(against: str, better: list[Score], scored: list[dict[str, Any]]) -> dict[str, Any]:
    """Compare the scores with better ones, over the points that both have.

    The rank correlation is None where all points have the same influence. `furthest` names the points with the largest
    errors, the largest first.
    """
    influences = {row["id"]: row["influence"] for row in scored if row["status"] == "ok"}
    truths = {score.id: score.influence for score in better if score.status == "ok" and score.id in influences}
    checked = [influences[id] for id in truths]
    errors = {id: influences[id] - truth for id, truth in truths.items()}
    comparable = len({*checked}) > 1 and len({*truths.values()}) > 1
    return {
        "against": against,
        "points": len(truths),
        "spearman": spearman(checked, [*truths.values()]) if comparable else None,
        "deviation_of_error": statistics.stdev(errors.values()) if len(errors) > 1 else None,
        "deviation_of_influence": statistics.stdev(truths.values()) if len(truths) > 1 else None,
        "furthest": [
            {"id": id, "influence": influences[id], "better": truths[id]}
            for id in sorted(errors, key=lambda id: -abs(errors[id]))[:FURTHEST]
        ],
    }
