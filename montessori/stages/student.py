"""A student fine-tuned on a teacher's training set: `model/` (adapters merged) and `log.json`."""

from typing import Any

from montessori import models
from montessori.stages import Job
from montessori.stages.learning import Settings, learn

__all__ = ["Settings", "run"]


def run(job: Job, settings: Settings) -> dict[str, Any]:
    """Supervised fine-tuning of the base student."""
    pairs = sorted(job.rows("pairs", "pairs.parquet"), key=lambda row: row["id"])
    model, tokenizer, _, summary = learn(job, settings, pairs)
    if job.writes:
        models.save(model, tokenizer, job.out / "model")
    return summary
