"""Warm up a student: `model/` (adapters kept apart), AdamW's state beside it, and `log.json`.

The student learns from the warm-up set. For a checkpoint it learns from a part of its training set, as in the task
`student`.
"""

from typing import Any, Literal

from montessori.models import loading
from tasks.runtime import training
from tasks.runtime.job import Job
from tasks.runtime.training import learn


class Settings(training.Settings):
    """How the student is loaded and trained, and the file with its data."""

    file: Literal["warm-up.parquet", "pairs.parquet"] = "warm-up.parquet"  # of the input `split`, or `pairs`


def run(job: Job, settings: Settings) -> dict[str, Any]:
    """Fine-tune, and save the weights, both moments, the step count and the learning rate."""
    if settings.file == "pairs.parquet":
        rows = sorted(job.rows("pairs", "pairs.parquet"), key=lambda row: row["id"])  # the order of the task `student`
    else:
        rows = job.rows("split", "warm-up.parquet")
    model, tokenizer, result, summary = learn(job, settings, rows)
    if job.writes:
        loading.save_unmerged(model, tokenizer, job.out / "model")
        result.optimizer.save(job.out)
    return summary
