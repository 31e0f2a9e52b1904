"""Fine-tune a teacher on its own best outputs: `model/` (adapters merged) and `log.json`.

This replaces DPO in the ablation "bootstrap" of Montessori-Instruct (arXiv 2410.14208), table 2.
"""

from typing import Any

from montessori.models import loading
from montessori.preferences import positive_outputs
from montessori.settings.influence import Preferences
from tasks.build_preferences import read_scores
from tasks.runtime import training
from tasks.runtime.job import Job
from tasks.runtime.training import learn


class Settings(training.Settings):
    """How the teacher is loaded and trained, and the rule for its positive outputs."""

    preferences: Preferences


def run(job: Job, settings: Settings) -> dict[str, Any]:
    """Fine-tune on the positive outputs, each after its prompt."""
    scores, momentum = read_scores(job, settings.preferences.signal)
    outputs = job.rows("instructions", "instructions.parquet")
    good = positive_outputs(outputs, scores, settings.preferences.split, momentum)
    rows = [{"id": row["id"], "messages": row["prompt"], "response": row["raw"]} for row in good]
    model, tokenizer, _, summary = learn(job, settings, rows, "teacher")
    if job.writes:
        loading.save(model, tokenizer, job.out / "model")
    return {**summary, "positive": len(good), "scored": len(scores)}
