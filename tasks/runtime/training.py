"""Fine-tune a model on rows, for the tasks `warm-up`, `student` and `bootstrap`."""

import json
from typing import Any

from montessori.data.rows import Row
from montessori.models import loading
from montessori.settings.base import Frozen
from montessori.settings.models import Chat, Lora
from montessori.settings.training import Training
from montessori.training.sft import SftResult, fine_tune
from tasks.runtime.inputs import encode
from tasks.runtime.job import Job


class Settings(Frozen):
    """How the model is loaded and trained."""

    training: Training
    dtype: str
    max_length: int
    lora: Lora | None
    trust_remote_code: bool
    chat: Chat = Chat()


def learn(
    job: Job, settings: Settings, rows: list[Row], role: str = "student"
) -> tuple[Any, Any, SftResult, dict[str, Any]]:
    """Fine-tune the input `role` on `rows` and write `log.json`.

    Returns the model, its tokenizer, the result of the training and the summary.
    """
    source = job.model(role)
    tokenizer = loading.load_tokenizer(source, settings.trust_remote_code, settings.chat)
    model = loading.load_model(source, settings.dtype, settings.trust_remote_code, job.load_place)
    encoded = encode(model, tokenizer, rows, settings.max_length)
    if settings.lora:
        model = loading.add_lora(model, settings.lora, job.seed)
    result = fine_tune(model, tokenizer, encoded.examples, settings.training, seed=job.seed)
    if job.writes:
        (job.out / "log.json").write_text(json.dumps(result.log) + "\n")
    summary = {**encoded.counts, "steps": len(result.log), "loss": result.log[-1]["loss"]}
    return model, tokenizer, result, summary
