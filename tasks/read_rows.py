"""Seeds, reference set, test points or points to score: one source's rows as `rows.parquet`.

A row has `id, instruction, response`, of a conversation also `messages`, of the pocket world also `family`.
"""

from typing import Any

from montessori.data import rows as data
from montessori.settings.base import Frozen
from montessori.settings.data import DataSource
from tasks.runtime.job import Job, location


class Settings(Frozen):
    """What of the source is read; of the pocket world, how many rows are written."""

    split: str = "train"
    skip: int = 0
    limit: int | None = None
    pocket: int | None = None


def run(job: Job, settings: Settings) -> dict[str, Any]:
    """Read the source, or write the pocket world's rows for this role."""
    role = job.request.stage
    (address,) = job.request.inputs["source"]
    if settings.pocket:
        from montessori.pocket import world

        write = {"seeds": world.seeds, "reference": world.reference, "test": world.held_out}[role]
        rows = write(settings.pocket, job.seed)
    else:
        source = DataSource(source=location(address), split=settings.split, skip=settings.skip, limit=settings.limit)
        rows = data.read(source, role)
    data.write_rows(job.out / "rows.parquet", rows)
    return {"rows": len(rows)}
