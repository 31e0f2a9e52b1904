"""Generate the teacher's responses to its instructions: `pairs.parquet` (`id, prompt_id, instruction, response, …`).

A shard responds to every n-th instruction. With several samples, the instruction is the prompt of its responses.
"""

from typing import Any, Literal

from montessori.data.chat import user
from montessori.data.rows import write_rows
from montessori.settings.generation import Sampling
from montessori.synthesis.instructions import stable_seed
from tasks.runtime.generation import GenerationSettings, open_engine, provenance
from tasks.runtime.job import Job


class Settings(GenerationSettings):
    """How responses are sampled. The number of shards is in the request."""

    sampling: Sampling
    samples: int = 1  # for each instruction
    file: Literal["instructions.parquet", "probing.parquet"] = "instructions.parquet"  # of the input `instructions`
    limit: int | None = None  # first instructions of the file only


def run(job: Job, settings: Settings) -> dict[str, Any]:
    """Generate the responses of this shard. Empty responses stay, and failed ones are left out. Both are counted."""
    index, count = job.request.shard
    teacher = open_engine(job, settings)
    rows = job.rows("instructions", settings.file)[: settings.limit][index::count]
    seeds = [stable_seed(f"{job.seed}-{row['id']}") for row in rows]
    answers = teacher.generate([user(row["instruction"]) for row in rows], settings.sampling, settings.samples, seeds)
    source = provenance(job, settings, settings.sampling)
    pairs = [
        {
            "id": row["id"] if settings.samples == 1 else f"{row['id']}-{number}",
            "prompt_id": row["prompt_id"] if settings.samples == 1 else row["id"],
            "instruction": row["instruction"],
            "response": text.text.strip(),
            "finish_reason": text.finish_reason,
            "instruction_tokens": answer.prompt_tokens,  # with the chat template
            "response_tokens": text.tokens,
            "seed": seed,
            **source,
        }
        for row, seed, answer in zip(rows, seeds, answers, strict=True)
        for number, text in enumerate(answer.generations)
        if text.finish_reason != "failed"
    ]
    write_rows(job.out / "pairs.parquet", pairs)
    return {
        "pairs": len(pairs),
        "prompts_cut": sum(answer.cut for answer in answers),
        "empty": sum(not pair["response"] for pair in pairs),
        "cut_at_max_tokens": sum(pair["finish_reason"] == "length" for pair in pairs),
        "filtered": sum(pair["finish_reason"] == "content_filter" for pair in pairs),
        **teacher.summary(),
        "usage": teacher.usage,
    }
