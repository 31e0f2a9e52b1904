"""Fine-tune a student on a training set: `model/` (adapters merged) and `log.json`."""

from typing import Any

from montessori.models import loading
from tasks.runtime.job import Job
from tasks.runtime.training import Settings, learn

__all__ = ["Settings", "run"]


def run(job: Job, settings: Settings) -> dict[str, Any]:
    """Fine-tune the base student."""
    pairs = sorted(job.rows("pairs", "pairs.parquet"), key=lambda row: row["id"])
    model, tokenizer, _, summary = learn(job, settings, pairs)
    if job.writes:
        loading.save(model, tokenizer, job.out / "model")
    return summary
