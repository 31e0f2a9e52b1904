"""Grade answers from 1 to 10 by a judge: `grades.parquet` (`id, category, turn, question, answer, grade, …`).

Each turn gets a grade. The judge sees the first turn with the second. A shard grades the answers to every n-th
question.
"""

from typing import Any

from montessori.data.rows import write_rows
from montessori.errors import InputError, StageError
from montessori.evaluation import judge_prompts, judging
from montessori.settings.generation import Sampling
from tasks.runtime.generation import JudgeSettings, open_engine
from tasks.runtime.job import Job, location


class Settings(JudgeSettings):
    """The judge. The input `prompts`, a file in MT-Bench's form, replaces our own prompts."""


def run(job: Job, settings: Settings) -> dict[str, Any]:
    """Grade each turn of this shard's answers. Unreadable grades are None."""
    if settings.wording != judging.wording("grades"):
        raise StageError(judging.OTHER_WORDING)
    prompts = judge_prompts.GRADING
    if job.has("prompts"):
        (address,) = job.request.inputs["prompts"]
        prompts = judge_prompts.load(location(address))
    index, count = job.request.shard
    references = {row["id"]: row["references"] for row in job.rows("questions", "questions.parquet")}
    rows = sorted(job.rows("answers", "answers.parquet"), key=lambda row: row["index"])[index::count]
    unknown = next((row["id"] for row in rows if row["id"] not in references), None)
    if unknown is not None:
        raise InputError(f"answers: {unknown} is none of the questions; give the questions of these answers")
    turns = [(row, turn) for row in rows for turn in range(len(row["turns"]))]
    judge = open_engine(job, settings, "judge", "judge.")
    verdicts = judging.judge(
        judge,
        [
            judging.Question(
                f"{row['id']}-{turn}",
                judging.grading(prompts, row["turns"], row["answers"], references=references[row["id"]], turn=turn),
                judging.grade,
            )
            for row, turn in turns
        ],
        Sampling(temperature=0, top_p=1, presence_penalty=0, max_tokens=settings.max_tokens),
        max_tokens=settings.max_tokens,
        seed=job.seed,
        tries=settings.tries,
        max_unreadable=settings.max_unreadable,
    )
    table = [
        {
            "id": row["id"],
            "category": row["category"],
            "turn": turn,
            "question": row["turns"][turn],
            "answer": row["answers"][turn],
            "grade": verdict.value,
            "said": verdict.reply.text,
            "tries": verdict.tries,
        }
        for (row, turn), verdict in zip(turns, verdicts, strict=True)
    ]
    write_rows(job.out / "grades.parquet", table)
    referenced = sum(bool((references[row["id"]] or [""] * len(row["turns"]))[turn]) for row, turn in turns)
    return {
        "grades": len(table),
        **judging.summary(verdicts),
        "with_reference": referenced,
        "prompts": "a file" if job.has("prompts") else "our own",
        **judge.summary(),
        "usage": judge.usage,
    }
