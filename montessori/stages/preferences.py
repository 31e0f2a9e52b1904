"""Pairs of teacher outputs, the influential over the other, as `preferences.parquet`; their count as `summary.json`."""

import json
from dataclasses import asdict
from typing import Any

from montessori import config
from montessori.config import Frozen
from montessori.data import write_rows
from montessori.preferences import pair
from montessori.stages import Job


class Settings(Frozen):
    """How scores become pairs."""

    preferences: config.Preferences


def run(job: Job, settings: Settings) -> dict[str, Any]:
    """Join the shards' scores with the instructions and pair them within each prompt."""
    momentum = json.loads((job.folders("scores")[0] / "momentum.json").read_text())["momentum_influence"]
    pairs, summary = pair(
        job.rows("instructions", "instructions.parquet"),
        job.rows("scores", "scores.parquet"),
        settings.preferences.split,
        momentum,
        settings.preferences.max_pairs,
        job.seed,
    )
    write_rows(job.out / "preferences.parquet", pairs)
    (job.out / "summary.json").write_text(json.dumps(asdict(summary), indent=1) + "\n")
    return asdict(summary)
