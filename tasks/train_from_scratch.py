"""Train a small teacher or student from random weights: `model/` and `log.json`.

The data come from the pocket world or from a seed pool. A teacher learns to generate instructions and responses. A
student learns the form of an answer (pocket world) or to answer (seed pool).
"""

import json
from typing import Any

from montessori.models import loading
from montessori.pocket import scratch, world
from montessori.settings.base import Frozen
from montessori.settings.models import Scratch
from tasks.runtime.job import Job


class Settings(Frozen):
    """The shape and the training of the model."""

    scratch: Scratch
    prompt: str  # a hash of the prompt's wording, for a teacher


def run(job: Job, settings: Settings) -> dict[str, Any]:
    """Build the tokenizer and the model, train the model, and save both."""
    teacher = job.request.stage == "scratch-teacher"
    shape = settings.scratch
    if job.has("seeds"):
        rows = job.rows("seeds", "rows.parquet")
        conversations = (
            scratch.alpaca_teacher_conversations(rows, shape.steps * shape.batch_size, job.seed)
            if teacher
            else scratch.alpaca_student_conversations(rows)
        )
    else:
        generate = world.teacher_conversations if teacher else world.student_conversations
        conversations = generate(scratch.conversation_count(shape), job.seed)
    model, tokenizer = scratch.build(conversations, shape, job.seed)
    log = scratch.train(model, tokenizer, conversations, shape, seed=job.seed)
    loading.save(model, tokenizer, job.out / "model")
    (job.out / "log.json").write_text(json.dumps(log) + "\n")
    return {"parameters": model.num_parameters(), "loss": log[-1]["loss"], "steps": len(log)}
