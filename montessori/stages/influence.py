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
from montessori.config import Estimator, Frozen
from montessori.data import write_rows
from montessori.influence import Directional, Exact, ReferenceGradient, Score, Step, Taylor, fidelity, plan
from montessori.influence.batches import Batch
from montessori.stages import Job
from montessori.stages.inputs import describe, encode, optimizer_step
from montessori.synthesis.instructions import number_from

NOISE_POINTS = 16  # measured again in float32 where the exact step is taken in bfloat16


class Settings(Frozen):
    """The estimator, and how the student is loaded."""

    estimator: Estimator
    exact_dtype: Literal["float32", "bfloat16"]
    state_dtype: Literal["float32", "bfloat16"]
    token_budget: int
    file: Literal["probing.parquet", "pairs.parquet", "rows.parquet"]  # of the input `points`
    limit: int | None = None
    dtype: str
    max_length: int
    trust_remote_code: bool
    learning_rate: float | None = None  # default: the optimiser state's


def run(job: Job, settings: Settings) -> dict[str, Any]:
    """Score every n-th batch of `limit` points against the reference gradient, or the reference set for `exact`."""
    index, count = job.request.shard
    exact = settings.estimator == "exact"
    tokenizer = models.load_tokenizer(job.model("student"), settings.trust_remote_code)
    model = _model(job, settings, settings.exact_dtype if exact else settings.dtype)
    # In the order of a hash, so that a limit takes a sample and not the first rounds.
    rows = sorted(job.rows("points", settings.file), key=lambda row: number_from(row["id"]))[: settings.limit]
    points = encode(model, tokenizer, rows, settings.max_length)
    batches = plan(points.examples, settings.token_budget)[index::count]
    step = optimizer_step(job, model, settings.learning_rate, getattr(torch, settings.state_dtype))
    estimator, against = _estimator(job, settings, model, tokenizer, step)
    scored = [asdict(score) for score in _scores(estimator, batches)]
    unscored = [
        {"id": id, "influence": math.nan, "training_loss": math.nan, "tokens": 0, "status": reason}
        for id, reason in list(points.dropped.items())[index::count]
    ]
    write_rows(job.out / "scores.parquet", scored + unscored)
    (job.out / "momentum.json").write_text(json.dumps({"momentum_influence": estimator.momentum_influence}) + "\n")
    summary: dict[str, Any] = {
        "points": len(scored) + len(unscored),
        "truncated": sum(example.truncated for batch in batches for example in batch),
        "tokens": sum(len(example.input_ids) for batch in batches for example in batch),
        "statuses": dict(Counter(row["status"] for row in scored + unscored)),
        "step": describe(step),
        "reference": against,
    }
    if exact and settings.exact_dtype == "bfloat16" and index == 0:
        summary["noise"] = _noise(job, settings, tokenizer, scored, points.examples)
    return summary


def _scores(estimator: Taylor | Directional | Exact, batches: list[Batch]) -> Iterator[Score]:
    total, done, tokens, started = sum(map(len, batches)), 0, 0, time.monotonic()
    progress.report(0, total, "points")
    for batch in batches:
        yield from estimator.score(batch)
        done += len(batch)
        tokens += sum(len(example.input_ids) for example in batch)
        progress.report(done, total, "points", f"{tokens / (time.monotonic() - started):,.0f} tokens/s")


def _model(job: Job, settings: Settings, dtype: str) -> Any:
    return models.load_model(job.model("student"), dtype, settings.trust_remote_code)


def _estimator(
    job: Job, settings: Settings, model: Any, tokenizer: Any, step: Step
) -> tuple[Taylor | Directional | Exact, dict[str, float]]:
    """The estimator that the settings name, and the reference set that it measures against: its size and loss."""
    if settings.estimator == "exact":
        reference_set = encode(model, tokenizer, job.rows("reference", "rows.parquet"), settings.max_length).examples
        narrow = model.dtype == torch.bfloat16
        exact = Exact(model, step, reference_set, settings.token_budget, narrow_weights=narrow)
        return exact, {"n": len(reference_set), "loss": exact.reference_loss}
    gradient = ReferenceGradient.load(job.folder("gradient"), models.device(), getattr(torch, settings.state_dtype))
    against = {"n": gradient.n, "loss": gradient.loss}
    kind = Taylor if settings.estimator == "taylor" else Directional
    return kind(model, step, gradient.gradient), against


def _noise(
    job: Job, settings: Settings, tokenizer: Any, scored: list[dict[str, Any]], examples: list[Example]
) -> dict[str, float | None]:
    """What taking the exact step in bfloat16 cost, on a few points: the same in float32.

    A rank correlation of None: the points, or all but one, have the same influence.
    """
    found = {row["id"]: row["influence"] for row in scored if row["status"] == "ok"}
    sample = [example for example in examples if example.id in found][:NOISE_POINTS]
    model = _model(job, settings, "float32")
    step = optimizer_step(job, model, settings.learning_rate, getattr(torch, settings.state_dtype))
    wide, _ = _estimator(job, settings, model, tokenizer, step)
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
