"""Merge new points into a training set of fixed size: `pairs.parquet`.

All new points are kept. Old points fill the rest: first those that the student gets wrong, then random ones.
"""

import random
from typing import Any

from montessori.data.rows import write_rows
from montessori.settings.base import Frozen
from tasks.runtime.job import Job


class Settings(Frozen):
    """The size of the merged training set, in points."""

    size: int


def run(job: Job, settings: Settings) -> dict[str, Any]:
    """Join the new points with the kept old ones."""
    new = job.rows("new", "pairs.parquet")[: settings.size]
    old = sorted(job.rows("old", "pairs.parquet"), key=lambda row: row["id"])
    random.Random(job.seed).shuffle(old)
    wrong = {row["id"] for row in job.rows("mistakes", "rows.parquet") if row["wrong"]}
    old.sort(key=lambda row: row["id"] not in wrong)  # stable: each part stays as it was shuffled
    kept = old[: settings.size - len(new)]
    # Ids begin at 0 in every set of instructions, so the new ones get a prefix.
    table = [{**row, "id": f"new-{number}"} for number, row in enumerate(new)]
    write_rows(job.out / "pairs.parquet", [*kept, *table])
    return {"old": len(kept), "new": len(table), "wrong": sum(row["id"] in wrong for row in kept)}
