"""Read the rows of a data source: seeds, reference set, test points or points to score, as `rows.parquet`.

A row has `id, instruction, response`. Conversations also have `messages`, and rows of the pocket world `family`.
"""

from typing import Any

from montessori.data import rows as data
from montessori.settings.base import Frozen
from montessori.settings.data import DataSource
from tasks.runtime.job import Job, location


class Settings(Frozen):
    """The part of the source, or the number of rows of the pocket world."""

    split: str = "train"
    skip: int = 0
    limit: int | None = None
    pocket: int | None = None


def run(job: Job, settings: Settings) -> dict[str, Any]:
    """Read the source, or generate the pocket world's rows for this role."""
    role = job.request.stage
    (address,) = job.request.inputs["source"]
    if settings.pocket:
        from montessori.pocket import world

        generate = {"seeds": world.seeds, "reference": world.reference, "test": world.held_out}[role]
        rows = generate(settings.pocket, job.seed)
    else:
        source = DataSource(source=location(address), split=settings.split, skip=settings.skip, limit=settings.limit)
        rows = data.read(source, role)
    data.write_rows(job.out / "rows.parquet", rows)
    return {"rows": len(rows)}
