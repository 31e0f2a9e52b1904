"""Ratings of points by the pocket world's rule, in the form of those by a judge: 5 for a right answer, else 1.

What has no right answer there is rated 1, whatever was answered.
"""

from typing import Any, Literal

from montessori.data.rows import write_rows
from montessori.pocket.world import answer_of
from montessori.settings.base import Frozen
from tasks.runtime.job import Job

RIGHT, WRONG = 5.0, 1.0


class Settings(Frozen):
    """Which points."""

    file: Literal["pairs.parquet", "probing.parquet"]  # of the input `points`


def run(job: Job, settings: Settings) -> dict[str, Any]:
    """Check each answer."""
    points = sorted(job.rows("points", settings.file), key=lambda row: row["id"])
    right = [
        (answer := answer_of(row["instruction"])) is not None and answer.split() == row["response"].split()
        for row in points
    ]
    table = [
        {"id": row["id"], "rating": RIGHT if good else WRONG, "status": "ok", "said": "", "tries": 0}
        for row, good in zip(points, right, strict=True)
    ]
    write_rows(job.out / "ratings.parquet", table)
    return {"points": len(table), "right": sum(right)}
