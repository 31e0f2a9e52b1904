"""The teacher's answers to its instructions, as `pairs.parquet` (`id, prompt_id, instruction, response, …`).

A shard answers every n-th instruction. Several answers to one are samples of the prompt that the instruction is.
"""

from typing import Any, Literal

from montessori.data.chat import user
from montessori.data.rows import write_rows
from montessori.settings.generation import Sampling
from montessori.synthesis.instructions import stable_seed
from tasks.runtime.generation import Writing, asker, provenance
from tasks.runtime.job import Job


class Settings(Writing):
    """How answers are sampled. How many shards there are is in the request."""

    sampling: Sampling
    samples: int = 1  # of an instruction
    file: Literal["instructions.parquet", "probing.parquet"] = "instructions.parquet"  # of the input `instructions`
    limit: int | None = None  # the first instructions of the file


def run(job: Job, settings: Settings) -> dict[str, Any]:
    """Answers to each instruction of this shard; a row whose answer is empty stays, and is counted."""
    index, count = job.request.shard
    teacher = asker(job, settings)
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
            "instruction_tokens": answer.prompt_tokens,  # with what the chat template adds
            "response_tokens": text.tokens,
            "seed": seed,
            **source,
        }
        for row, seed, answer in zip(rows, seeds, answers, strict=True)
        for number, text in enumerate(answer.generations)
    ]
    write_rows(job.out / "pairs.parquet", pairs)
    return {
        "pairs": len(pairs),
        "prompts_cut": sum(answer.cut for answer in answers),
        "empty": sum(not pair["response"] for pair in pairs),
        "cut_at_max_tokens": sum(pair["finish_reason"] == "length" for pair in pairs),
        "usage": teacher.usage,
    }
