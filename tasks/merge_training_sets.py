"""A training set of new points and of old ones, as `pairs.parquet`: all that is new, filled up from what was there.

Old points that the student gets wrong are kept first, the others by lot.
"""

import random
from typing import Any

from montessori.data.rows import write_rows
from montessori.settings.base import Frozen
from tasks.runtime.job import Job


class Settings(Frozen):
    """How many points there are in the end."""

    size: int


def run(job: Job, settings: Settings) -> dict[str, Any]:
    """Join and cut."""
    new = job.rows("new", "pairs.parquet")[: settings.size]
    old = sorted(job.rows("old", "pairs.parquet"), key=lambda row: row["id"])
    random.Random(job.seed).shuffle(old)
    wrong = {row["id"] for row in job.rows("mistakes", "rows.parquet") if row["wrong"]}
    old.sort(key=lambda row: row["id"] not in wrong)  # stable: each part stays as it was shuffled
    kept = old[: settings.size - len(new)]
    # Ids count from nought in every set of instructions.
    table = [{**row, "id": f"new-{number}"} for number, row in enumerate(new)]
    write_rows(job.out / "pairs.parquet", [*kept, *table])
    return {"old": len(kept), "new": len(table), "wrong": sum(row["id"] in wrong for row in kept)}
