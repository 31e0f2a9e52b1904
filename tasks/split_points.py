"""Split points into a warm-up set and a probing set: `warm-up.parquet` and `probing.parquet`.

Preferences compare samples of one prompt, so all points of a prompt go to the same side, except at the border. A row
without a prompt is a prompt of its own.
"""

import random
from typing import Any, Literal

from montessori.data.rows import Row, write_rows
from montessori.settings.base import Frozen
from tasks.runtime.job import Job


class Settings(Frozen):
    """The sizes of both sets, in points."""

    warm_up: int
    probing: int
    file: Literal["pairs.parquet", "rows.parquet"] = "pairs.parquet"  # of the input `pairs`


def run(job: Job, settings: Settings) -> dict[str, Any]:
    """Shuffle the prompts with the seed, and fill the warm-up set first."""
    pairs = sorted(job.rows("pairs", settings.file), key=lambda row: row["id"])
    prompts = sorted({_prompt(row) for row in pairs})
    random.Random(job.seed).shuffle(prompts)
    place = {prompt: number for number, prompt in enumerate(prompts)}
    pairs.sort(key=lambda row: (place[_prompt(row)], row["id"]))
    warm_up = pairs[: settings.warm_up]
    probing = pairs[settings.warm_up : settings.warm_up + settings.probing]
    write_rows(job.out / "warm-up.parquet", warm_up)
    write_rows(job.out / "probing.parquet", probing)
    return {"warm_up": len(warm_up), "probing": len(probing)}


def _prompt(row: Row) -> str:
    return str(row.get("prompt_id", row["id"]))
