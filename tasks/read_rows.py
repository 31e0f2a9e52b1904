"""Read the rows of a data source: seeds, reference set, test points or points to score, as `rows.parquet`.

A row has `id, instruction, response`. Conversations also have `messages, answer, tools`, and rows of the pocket world
`family`.
"""

from typing import Any

from montessori.data import rows as data
from montessori.data.rows import Answers
from montessori.settings.data import DataSource, Part
from tasks.runtime.job import Job, location

# A point with a blank answer gets a status in place of a score. Seeds are shown to the teacher without their answers.
ANSWERS: dict[str, Answers] = {"seeds": "optional", "points": "may be blank"}


class Settings(Part):
    """The part of the source, or the number of rows of the pocket world."""

    pocket: int | None = None


def run(job: Job, settings: Settings) -> dict[str, Any]:
    """Read the source, or generate the pocket world's rows for this role."""
    role = job.request.stage
    (address,) = job.request.inputs["source"]
    if settings.pocket:
        from montessori.pocket import world

        generate = {"seeds": world.seeds, "reference": world.reference, "test": world.held_out}[role]
        rows, unused = generate(settings.pocket, job.seed), {}
    else:
        source = DataSource(source=location(address), **settings.model_dump(exclude={"pocket"}))
        read = data.load(source, role, ANSWERS.get(role, "needed"))
        rows, unused = read.rows, {"unused_columns": read.unused} if read.unused else {}
    data.write_rows(job.out / "rows.parquet", rows)
    return {"rows": len(rows), **unused}
