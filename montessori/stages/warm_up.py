"""The student after one pass over the warm-up set: `model/` (adapters kept apart) and AdamW's state beside it."""

import json
from typing import Any

from montessori import config, models
from montessori.chat import encode_pairs
from montessori.config import Frozen
from montessori.stages import Job
from montessori.training.sft import fine_tune


class Settings(Frozen):
    """How the student is loaded and trained."""

    training: config.Training
    dtype: str
    max_length: int
    lora: config.Lora | None
    trust_remote_code: bool


def run(job: Job, settings: Settings) -> dict[str, Any]:
    """Fine-tune on the warm-up set; keep the weights, both moments, the step count and the learning rate."""
    source = job.model("student")
    tokenizer = models.load_tokenizer(source, settings.trust_remote_code)
    model = models.load_model(source, settings.dtype, settings.trust_remote_code)
    if settings.lora:
        model = models.add_lora(model, settings.lora, job.seed)
    encoded = encode_pairs(tokenizer, job.rows("split", "warm-up.parquet"), settings.max_length)
    result = fine_tune(model, tokenizer, encoded.examples, settings.training, job.seed)
    models.save_unmerged(model, tokenizer, job.out / "model")
    result.optimizer.save(job.out)
    (job.out / "log.json").write_text(json.dumps(result.log) + "\n")
    return {**encoded.counts, "steps": len(result.log), "loss": result.log[-1]["loss"]}
