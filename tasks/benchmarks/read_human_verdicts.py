"""Read one side of the pairs of answers that people compared: `answers.parquet`, to measure a judge."""

from typing import Any, Literal

from montessori.data.rows import write_rows
from montessori.evaluation.agreement import answer_rows, read_pairs
from montessori.settings.base import Frozen
from tasks.runtime.job import Job, location


class Settings(Frozen):
    """The side of each pair."""

    side: Literal["left", "right"]


def run(job: Job, settings: Settings) -> dict[str, Any]:
    """Read the file, and keep one answer of each pair."""
    (address,) = job.request.inputs["source"]
    left, right = answer_rows(read_pairs(location(address)))
    rows = left if settings.side == "left" else right
    write_rows(job.out / "answers.parquet", rows)
    return {"answers": len(rows)}
