"""Generate the teacher's instructions: `instructions.parquet`, and the rejected ones in `rejected.json`."""

import json
from typing import Any

from montessori.data.rows import write_rows
from montessori.settings.generation import Instructions
from montessori.synthesis import instructions
from tasks.runtime.generation import GenerationSettings, open_engine, provenance
from tasks.runtime.job import Job


class Settings(GenerationSettings):
    """The number of instructions, and how they are generated and filtered."""

    instructions: Instructions
    target: int
    prompt: str  # a hash of the prompt's wording


def run(job: Job, settings: Settings) -> dict[str, Any]:
    """Prompt the teacher with few-shot examples until `target` instructions have passed the filters."""
    teacher = open_engine(job, settings)
    seeds = job.rows("seeds", "rows.parquet")
    generated = instructions.generate_instructions(
        teacher.generate, seeds, settings.instructions, target=settings.target, seed=job.seed
    )
    source = {**provenance(job, settings, settings.instructions.sampling), "prompt_version": settings.prompt}
    write_rows(job.out / "instructions.parquet", [{**row, **source} for row in generated.rows])
    rejected = {"counts": dict(generated.rejected), "samples": generated.samples}
    (job.out / "rejected.json").write_text(json.dumps(rejected, ensure_ascii=False, indent=1) + "\n")
    return {
        "instructions": len(generated.rows),
        "rounds": [dict(zip(("prompts", "texts", "kept"), each, strict=True)) for each in generated.rounds],
        "rejected": dict(generated.rejected),
        "prompts_cut": generated.prompts_cut,
        **teacher.summary(),
        "usage": teacher.usage,
    }
