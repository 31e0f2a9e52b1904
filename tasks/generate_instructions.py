"""The teacher's new instructions, as `instructions.parquet`, and what was rejected, as `rejected.json`."""

import json
from typing import Any

from montessori.data.rows import write_rows
from montessori.settings.generation import Instructions
from montessori.synthesis import instructions
from tasks.runtime.generation import Writing, asker, provenance
from tasks.runtime.job import Job


class Settings(Writing):
    """How many instructions, and how they are asked for and filtered."""

    instructions: Instructions
    target: int
    prompt: str  # a hash of the prompt's wording


def run(job: Job, settings: Settings) -> dict[str, Any]:
    """Rounds of few-shot prompts until `target` instructions have passed the filters."""
    teacher = asker(job, settings)
    seeds = job.rows("seeds", "rows.parquet")
    written = instructions.generate_instructions(
        teacher.generate, seeds, settings.instructions, target=settings.target, seed=job.seed
    )
    source = {**provenance(job, settings, settings.instructions.sampling), "prompt_version": settings.prompt}
    write_rows(job.out / "instructions.parquet", [{**row, **source} for row in written.rows])
    rejected = {"counts": dict(written.rejected), "samples": written.samples}
    (job.out / "rejected.json").write_text(json.dumps(rejected, ensure_ascii=False, indent=1) + "\n")
    return {
        "instructions": len(written.rows),
        "rounds": [dict(zip(("prompts", "texts", "kept"), each, strict=True)) for each in written.rounds],
        "rejected": dict(written.rejected),
        "prompts_cut": written.prompts_cut,
        "usage": teacher.usage,
    }
