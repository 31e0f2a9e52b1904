"""Rate points by the rule of the pocket world, in the form of a judge's ratings: 5 for a right answer, else 1.

An instruction without a right answer gets 1.
"""

from typing import Any, Literal

from montessori.data.rows import write_rows
from montessori.pocket.world import answer_of
from montessori.settings.base import Frozen
from tasks.runtime.job import Job

RIGHT, WRONG = 5.0, 1.0


class Settings(Frozen):
    """The file with the points."""

    file: Literal["pairs.parquet", "probing.parquet"]  # of the input `points`


def run(job: Job, settings: Settings) -> dict[str, Any]:
    """Compare each response with the right answer."""
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
