"""The generated points as a warm-up set and a probing set: `warm-up.parquet` and `probing.parquet`.

Whole prompts go to one side (but for the one at the border), since preferences compare samples of one prompt.
"""

import random
from typing import Any

from montessori.config import Frozen
from montessori.data import write_rows
from montessori.stages import Job


class Settings(Frozen):
    """How many points warm the student up; the others are probed."""

    warm_up: int
    probing: int


def run(job: Job, settings: Settings) -> dict[str, Any]:
    """Shuffle the prompts with the seed, fill the warm-up set first."""
    pairs = sorted(job.rows("pairs", "pairs.parquet"), key=lambda row: row["id"])
    prompts = sorted({row["prompt_id"] for row in pairs})
    random.Random(job.seed).shuffle(prompts)
    place = {prompt: number for number, prompt in enumerate(prompts)}
    pairs.sort(key=lambda row: (place[row["prompt_id"]], row["id"]))
    warm_up = pairs[: settings.warm_up]
    probing = pairs[settings.warm_up : settings.warm_up + settings.probing]
    write_rows(job.out / "warm-up.parquet", warm_up)
    write_rows(job.out / "probing.parquet", probing)
    return {"warm_up": len(warm_up), "probing": len(probing)}
