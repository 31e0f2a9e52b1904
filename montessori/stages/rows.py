"""Seeds, reference set or test points: one source's rows as `rows.parquet` (`id, instruction, response`).

A row of the pocket world also has `family`.
"""

from typing import Any

from montessori import data
from montessori.config import DataSource, Frozen, PocketWorld
from montessori.stages import Job, location


class Settings(Frozen):
    """What of the source is read; of the pocket world, how much is written."""

    split: str = "train"
    skip: int = 0
    limit: int | None = None
    pocket: PocketWorld | None = None


def run(job: Job, settings: Settings) -> dict[str, Any]:
    """Read the source, or write the pocket world's rows for this role."""
    role = job.request.stage
    (address,) = job.request.inputs["source"]
    if settings.pocket:
        from montessori.pocket import world

        write, n = {
            "seeds": (world.seeds, settings.pocket.seeds),
            "reference": (world.reference, settings.pocket.reference),
            "test": (world.held_out, settings.pocket.test),
        }[role]
        rows = write(n, job.seed)
    else:
        source = DataSource(source=location(address), split=settings.split, skip=settings.skip, limit=settings.limit)
        rows = data.read(source, role)
    data.write_rows(job.out / "rows.parquet", rows)
    return {"rows": len(rows)}
