"""A student with its optimiser: `model/` (adapters kept apart), AdamW's state beside it, and `log.json`.

After the warm-up set; or, for a look at a student on its way, after a part of the training of the stage `student`.
"""

from typing import Any, Literal

from montessori.models import loading
from tasks.runtime import training
from tasks.runtime.job import Job
from tasks.runtime.training import learn


class Settings(training.Settings):
    """How the student is loaded and trained, and on what."""

    file: Literal["warm-up.parquet", "pairs.parquet"] = "warm-up.parquet"  # of the input `split`, or `pairs`


def run(job: Job, settings: Settings) -> dict[str, Any]:
    """Fine-tune; keep the weights, both moments, the step count and the learning rate."""
    if settings.file == "pairs.parquet":
        rows = sorted(job.rows("pairs", "pairs.parquet"), key=lambda row: row["id"])  # as `student` has them
    else:
        rows = job.rows("split", "warm-up.parquet")
    model, tokenizer, result, summary = learn(job, settings, rows)
    if job.writes:
        loading.save_unmerged(model, tokenizer, job.out / "model")
        result.optimizer.save(job.out)
    return summary
