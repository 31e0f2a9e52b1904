"""A student fine-tuned on a teacher's training set: `model/` (adapters merged) and `log.json`."""

import json
from typing import Any

from montessori import config, models
from montessori.chat import encode_pairs
from montessori.config import Frozen
from montessori.stages import Job
from montessori.training.sft import fine_tune


class Settings(Frozen):
    """How the student is loaded and trained."""

    sft: config.Training
    dtype: str
    max_length: int
    lora: config.Lora | None
    trust_remote_code: bool


def run(job: Job, settings: Settings) -> dict[str, Any]:
    """Supervised fine-tuning of the base student."""
    source = job.model("student")
    tokenizer = models.load_tokenizer(source, settings.trust_remote_code)
    model = models.load_model(source, settings.dtype, settings.trust_remote_code)
    if settings.lora:
        model = models.add_lora(model, settings.lora, job.seed)
    pairs = sorted(job.rows("pairs", "pairs.parquet"), key=lambda row: row["id"])
    encoded = encode_pairs(tokenizer, pairs, settings.max_length)
    result = fine_tune(model, tokenizer, encoded.examples, settings.sft, job.seed)
    models.save(model, tokenizer, job.out / "model")
    (job.out / "log.json").write_text(json.dumps(result.log) + "\n")
    return {**encoded.counts, "steps": len(result.log), "loss": result.log[-1]["loss"]}
