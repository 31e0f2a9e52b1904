"""The teacher's new instructions, as `instructions.parquet`, and what was rejected, as `rejected.json`."""

import json
from typing import Any

from montessori import config
from montessori.config import Frozen
from montessori.data import write_rows
from montessori.models import load_model, load_tokenizer
from montessori.stages import Job
from montessori.synthesis import instructions
from montessori.synthesis.engines.transformers import TransformersEngine


class Settings(Frozen):
    """How many instructions, and how they are asked for and filtered."""

    instructions: config.Instructions
    target: int
    dtype: str
    trust_remote_code: bool
    prompt: str  # a hash of the prompt's wording


def run(job: Job, settings: Settings) -> dict[str, Any]:
    """Rounds of few-shot prompts until `target` instructions have passed the filters."""
    source = job.model("teacher")
    engine = TransformersEngine(
        load_model(source, settings.dtype, settings.trust_remote_code),
        load_tokenizer(source, settings.trust_remote_code),
        settings.instructions.batch_size,
    )
    seeds = job.rows("seeds", "rows.parquet")
    written = instructions.write(engine, seeds, settings.instructions, settings.target, job.seed)
    write_rows(job.out / "instructions.parquet", written.rows)
    rejected = {"counts": dict(written.rejected), "samples": written.samples}
    (job.out / "rejected.json").write_text(json.dumps(rejected, ensure_ascii=False, indent=1) + "\n")
    return {
        "instructions": len(written.rows),
        "rounds": written.rounds,
        "rejected": dict(written.rejected),
        "prompts_cut": engine.prompts_cut,
    }
