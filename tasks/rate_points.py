"""Rate points from 1 to 5 by a judge: `ratings.parquet` (`id, rating, status, said, tries`).

The prompt follows Self-Reward (arXiv 2401.10020, figure 2), in our own words. A shard rates every n-th point.
"""

from typing import Any, Literal

from montessori.data.rows import write_rows
from montessori.errors import StageError
from montessori.evaluation import judging
from montessori.evaluation.judge_prompts import RATING
from montessori.settings.generation import Sampling
from tasks.runtime.generation import JudgeSettings, open_engine
from tasks.runtime.job import Job


class Settings(JudgeSettings):
    """The judge, and the file with the points."""

    file: Literal["pairs.parquet", "probing.parquet"]  # of the input `points`


def run(job: Job, settings: Settings) -> dict[str, Any]:
    """Rate each point of this shard. A rating that stays unreadable is None."""
    if settings.wording != judging.wording("ratings"):
        raise StageError(judging.OTHER_WORDING)
    index, count = job.request.shard
    points = sorted(job.rows("points", settings.file), key=lambda row: row["id"])[index::count]
    judge = open_engine(job, settings, "judge", job.request.means.get("block", "generation."))
    verdicts = judging.judge(
        judge,
        [
            judging.Question(
                row["id"], RATING.chat(instruction=row["instruction"], response=row["response"]), judging.rating
            )
            for row in points
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
            "rating": verdict.value,
            "status": "ok" if verdict.value is not None else "unreadable",
            "said": verdict.reply.text,
            "tries": verdict.tries,
        }
        for row, verdict in zip(points, verdicts, strict=True)
    ]
    write_rows(job.out / "ratings.parquet", table)
    return {"points": len(table), **judging.summary(verdicts), **judge.summary(), "usage": judge.usage}
