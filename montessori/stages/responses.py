"""The teacher's answers to its instructions, as `pairs.parquet` (`id, prompt_id, instruction, response, …`).

A shard answers every n-th instruction.
"""

from typing import Any

from montessori import config
from montessori.chat import user
from montessori.data import write_rows
from montessori.stages import Job
from montessori.stages.asking import Writing, asker, provenance
from montessori.synthesis.instructions import number_from


class Settings(Writing):
    """How answers are sampled. How many shards there are is in the request."""

    sampling: config.Sampling


def run(job: Job, settings: Settings) -> dict[str, Any]:
    """One answer to each instruction of this shard; a row whose answer is empty stays, and is counted."""
    index, count = job.request.shard
    teacher = asker(job, settings)
    rows = job.rows("instructions", "instructions.parquet")[index::count]
    seeds = [number_from(f"{job.seed}-{row['id']}") for row in rows]
    answers = teacher.ask([user(row["instruction"]) for row in rows], settings.sampling, 1, seeds)
    source = provenance(job, settings, settings.sampling)
    pairs = [
        {
            "id": row["id"],
            "prompt_id": row["prompt_id"],
            "instruction": row["instruction"],
            "response": text.text.strip(),
            "finish_reason": text.finish_reason,
            "instruction_tokens": answer.prompt_tokens,  # with what the chat template adds
            "response_tokens": text.tokens,
            "seed": seed,
            **source,
        }
        for row, seed, answer in zip(rows, seeds, answers, strict=True)
        for text in answer.generations
    ]
    write_rows(job.out / "pairs.parquet", pairs)
    return {
        "pairs": len(pairs),
        "prompts_cut": sum(answer.cut for answer in answers),
        "empty": sum(not pair["response"] for pair in pairs),
        "cut_at_max_tokens": sum(pair["finish_reason"] == "length" for pair in pairs),
        "usage": teacher.usage,
    }
