"""Tune the teacher with DPO on the student's preferences: `model/` (adapters merged) and `log.json`."""

import json
from typing import Any

from montessori.models import loading
from montessori.settings.base import Frozen
from montessori.settings.models import Chat, Lora
from montessori.settings.training import Dpo
from montessori.training.dpo import train_dpo
from tasks.runtime.inputs import fit_length
from tasks.runtime.job import Job


class Settings(Frozen):
    """How the teacher is loaded and trained."""

    dpo: Dpo
    dtype: str
    max_length: int
    lora: Lora | None
    trust_remote_code: bool
    chat: Chat = Chat()


def run(job: Job, settings: Settings) -> dict[str, Any]:
    """Run DPO against a frozen copy of the teacher."""
    source = job.model("teacher")
    tokenizer = loading.load_tokenizer(source, settings.trust_remote_code, settings.chat)
    model = loading.load_model(source, settings.dtype, settings.trust_remote_code, job.load_place)
    max_length = fit_length(model, settings.max_length)
    if settings.lora:
        model = loading.add_lora(model, settings.lora, job.seed)
    pairs = job.rows("preferences", "preferences.parquet")
    result = train_dpo(model, tokenizer, pairs, settings.dpo, max_length=max_length, seed=job.seed)
    if job.writes:
        loading.save(model, tokenizer, job.out / "model")
        (job.out / "log.json").write_text(json.dumps(result.log) + "\n")
    return {
        "trained": result.trained,
        "dropped": result.dropped,
        "truncated": result.truncated,
        "steps": len(result.log),
    }
