"""The student after the warm-up set: `model/` (adapters kept apart), AdamW's state beside it, and `log.json`."""

from typing import Any

from montessori import models
from montessori.stages import Job
from montessori.stages.learning import Settings, learn

__all__ = ["Settings", "run"]


def run(job: Job, settings: Settings) -> dict[str, Any]:
    """Fine-tune on the warm-up set; keep the weights, both moments, the step count and the learning rate."""
    model, tokenizer, result, summary = learn(job, settings, job.rows("split", "warm-up.parquet"))
    if job.writes:
        models.save_unmerged(model, tokenizer, job.out / "model")
        result.optimizer.save(job.out)
    return summary
