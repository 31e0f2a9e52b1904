"""Answer a benchmark's questions with a model: `answers.parquet` (`id, index, category, turns, answers, …`).

The prompt of a second turn holds the first turn and its answer. A shard answers every n-th question.
"""

from typing import Any

from montessori.data.chat import Message
from montessori.data.rows import write_rows
from montessori.settings.generation import Sampling
from montessori.synthesis.engines import Generation
from montessori.synthesis.instructions import stable_seed
from tasks.runtime.generation import GenerationSettings, chat_template, open_engine
from tasks.runtime.job import Job


class Settings(GenerationSettings):
    """How answers are sampled. The number of shards is in the request."""

    sampling: Sampling
    temperatures: dict[str, float] | None = None  # by category, in place of the sampling's, as in MT-Bench


def run(job: Job, settings: Settings) -> dict[str, Any]:
    """Answer each turn of the questions of this shard. Empty answers stay, and are counted."""
    index, count = job.request.shard
    model = open_engine(job, settings, block="")
    rows = job.rows("questions", "questions.parquet")[index::count]
    samplings = [_sampling(settings, row["category"]) for row in rows]
    chats: list[list[Message]] = [[] for _ in rows]
    generations: list[list[Generation]] = [[] for _ in rows]
    cut, before, total = 0, 0, sum(len(row["turns"]) for row in rows)
    for turn in range(max((len(row["turns"]) for row in rows), default=0)):
        open_ = [i for i, row in enumerate(rows) if len(row["turns"]) > turn]
        for i in open_:
            chats[i].append({"role": "user", "content": rows[i]["turns"][turn]})
        for temperature in sorted({samplings[i].temperature for i in open_}):
            batch = [i for i in open_ if samplings[i].temperature == temperature]
            seeds = [stable_seed(f"{job.seed}-{rows[i]['id']}-{turn}") for i in batch]
            answers = model.generate(
                [chats[i] for i in batch], samplings[batch[0]], 1, seeds, before=before, total=total
            )
            before += len(batch)
            for i, answer in zip(batch, answers, strict=True):
                generations[i] += answer.generations
                chats[i].append({"role": "assistant", "content": generations[i][turn].text.strip()})
                cut += answer.cut
    table = [
        {
            "id": row["id"],
            "index": row["index"],
            "category": row["category"],
            "turns": row["turns"],
            "answers": [text.text.strip() for text in texts],
            "tokens": [text.tokens for text in texts],
            "finish_reasons": [text.finish_reason for text in texts],
        }
        for row, texts in zip(rows, generations, strict=True)
    ]
    write_rows(job.out / "answers.parquet", table)
    flat = [text for texts in generations for text in texts]
    return {
        "questions": len(rows),
        "answers": len(flat),
        "prompts_cut": cut,
        "empty": sum(not text.text.strip() for text in flat),
        "cut_at_max_tokens": sum(text.finish_reason == "length" for text in flat),
        "chat_template": chat_template(job, settings),
        **model.summary(),
        "usage": model.usage,
    }


def _sampling(settings: Settings, category: str | None) -> Sampling:
    own = (settings.temperatures or {}).get(category or "")
    return settings.sampling if own is None else settings.sampling.model_copy(update={"temperature": own})
