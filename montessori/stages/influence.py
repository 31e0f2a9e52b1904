"""The influence of a shard of the points, as `scores.parquet` (`id, influence, training_loss, tokens, status`)."""

import json
from collections import Counter
from dataclasses import asdict
from typing import Any, Literal

from montessori import models, progress
from montessori.chat import encode_pairs
from montessori.config import Estimator, Frozen
from montessori.data import write_rows
from montessori.influence import OptimizerState, ReferenceGradient, exact, taylor
from montessori.stages import Job
from montessori.synthesis.instructions import number_from


class Settings(Frozen):
    """The estimator, and how the student is loaded."""

    estimator: Estimator
    file: Literal["probing.parquet", "pairs.parquet"]  # of the input `points`
    limit: int
    dtype: str
    max_length: int
    trust_remote_code: bool


def run(job: Job, settings: Settings) -> dict[str, Any]:
    """Score every n-th of `limit` points against the reference gradient, or the reference set for `exact`."""
    index, count = job.request.shard
    source = job.model("student")
    model = models.load_model(source, settings.dtype, settings.trust_remote_code)
    tokenizer = models.load_tokenizer(source, settings.trust_remote_code)
    state = OptimizerState.load(job.folder("student"), models.device())
    # In the order of a hash, so that a limit takes a sample and not the first rounds.
    rows = sorted(job.rows("points", settings.file), key=lambda row: number_from(row["id"]))[: settings.limit]
    points = encode_pairs(tokenizer, rows[index::count], settings.max_length)
    if settings.estimator == "taylor":
        reference = ReferenceGradient.load(job.folder("gradient"), models.device())
        scores = taylor.score(model, state, reference.gradient, points.examples)
        momentum = reference.momentum_influence
    else:
        reference_set = encode_pairs(tokenizer, job.rows("reference", "rows.parquet"), settings.max_length)
        scores = exact.score(model, state, reference_set.examples, points.examples)
        momentum = exact.momentum_influence(model, state, reference_set.examples)
    scored = [asdict(score) for score in progress.track(scores, len(points.examples), "points")]
    unscored = [
        {
            "id": id,
            "influence": float("nan"),
            "training_loss": float("nan"),
            "tokens": 0,
            "status": "no-answer",
        }
        for id in points.dropped
    ]
    write_rows(job.out / "scores.parquet", scored + unscored)
    (job.out / "momentum.json").write_text(json.dumps({"momentum_influence": momentum}) + "\n")
    statuses = Counter(row["status"] for row in scored + unscored)
    return {"points": len(scored) + len(unscored), "truncated": points.truncated, "statuses": dict(statuses)}
