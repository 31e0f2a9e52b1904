"""The teacher's answers to its instructions, as `pairs.parquet` (`id, prompt_id, instruction, response, …`).

A shard answers every n-th instruction.
"""

from typing import Any

from montessori import config
from montessori.chat import user
from montessori.config import Frozen
from montessori.data import write_rows
from montessori.models import load_model, load_tokenizer
from montessori.stages import Job
from montessori.synthesis.engines.transformers import TransformersEngine
from montessori.synthesis.instructions import number_from


class Settings(Frozen):
    """How answers are sampled. How many shards there are is in the request."""

    sampling: config.Sampling
    batch_size: int
    dtype: str
    trust_remote_code: bool


def run(job: Job, settings: Settings) -> dict[str, Any]:
    """One answer to each instruction of this shard; a row whose answer is empty stays, and is counted."""
    index, count = job.request.shard
    source = job.model("teacher")
    engine = TransformersEngine(
        load_model(source, settings.dtype, settings.trust_remote_code),
        load_tokenizer(source, settings.trust_remote_code),
        settings.batch_size,
    )
    rows = job.rows("instructions", "instructions.parquet")[index::count]
    answers = engine.generate(
        [user(row["instruction"]) for row in rows],
        settings.sampling,
        samples=1,
        seeds=[number_from(f"{job.seed}-{row['id']}") for row in rows],
    )
    pairs = [
        {
            "id": row["id"],
            "prompt_id": row["prompt_id"],
            "instruction": row["instruction"],
            "response": answer.text.strip(),
            "finish_reason": answer.finish_reason,
            "instruction_tokens": len(engine.tokenizer(row["instruction"])["input_ids"]),
            "response_tokens": answer.tokens,
        }
        for row, (answer,) in zip(rows, answers, strict=True)
    ]
    write_rows(job.out / "pairs.parquet", pairs)
    return {
        "pairs": len(pairs),
        "prompts_cut": engine.prompts_cut,
        "empty": sum(not pair["response"] for pair in pairs),
        "cut_at_max_tokens": sum(pair["finish_reason"] == "length" for pair in pairs),
    }
