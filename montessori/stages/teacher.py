"""The teacher after DPO on the student's preferences: `model/` (adapters merged) and `log.json`."""

import json
from typing import Any

from montessori import config, models
from montessori.config import Frozen
from montessori.stages import Job
from montessori.training.dpo import optimise


class Settings(Frozen):
    """How the teacher is loaded and trained."""

    dpo: config.Dpo
    dtype: str
    max_length: int
    lora: config.Lora | None
    trust_remote_code: bool


def run(job: Job, settings: Settings) -> dict[str, Any]:
    """Direct preference optimisation against a frozen copy of the teacher."""
    source = job.model("teacher")
    tokenizer = models.load_tokenizer(source, settings.trust_remote_code)
    model = models.load_model(source, settings.dtype, settings.trust_remote_code, job.load_place)
    if settings.lora:
        model = models.add_lora(model, settings.lora, job.seed)
    pairs = job.rows("preferences", "preferences.parquet")
    result = optimise(model, tokenizer, pairs, settings.dpo, settings.max_length, job.seed)
    if job.writes:
        models.save(model, tokenizer, job.out / "model")
        (job.out / "log.json").write_text(json.dumps(result.log) + "\n")
    return {
        "trained": result.trained,
        "dropped": result.dropped,
        "truncated": result.truncated,
        "steps": len(result.log),
    }
