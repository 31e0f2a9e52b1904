"""Pairs of teacher outputs, the better over the worse, as `preferences.parquet`; their count as `summary.json`.

Outputs are the instructions that a teacher wrote, or its responses to them.
"""

import json
from dataclasses import asdict
from typing import Any, Literal

from montessori.data.chat import user
from montessori.data.rows import Row, write_rows
from montessori.preferences import build_pairs
from montessori.settings.base import Frozen
from montessori.settings.influence import Preferences, Signal
from tasks.runtime.job import Job


class Settings(Frozen):
    """How scores become pairs, and of what."""

    preferences: Preferences
    outputs: Literal["instructions", "responses"] = "instructions"


def run(job: Job, settings: Settings) -> dict[str, Any]:
    """Join the shards' scores with the outputs and pair them within each prompt."""
    scores, momentum = read_scores(job, settings.preferences.signal)
    asked = settings.preferences
    pairs, summary = build_pairs(
        _outputs(job, settings.outputs),
        scores,
        asked.split,
        momentum_influence=momentum,
        max_pairs=asked.max_pairs,
        seed=job.seed,
    )
    write_rows(job.out / "preferences.parquet", pairs)
    (job.out / "summary.json").write_text(json.dumps(asdict(summary), indent=1) + "\n")
    return asdict(summary)


def read_scores(job: Job, signal: Signal) -> tuple[list[Row], float | None]:
    """`id, influence, status` of each point, where `influence` is the signal, whichever it is; and I(∅)."""
    if signal == "rating":
        rows = job.rows("scores", "ratings.parquet")
        return [{"id": r["id"], "influence": r["rating"], "status": r["status"]} for r in rows], None
    rows = job.rows("scores", "scores.parquet")
    if signal == "training_loss":
        return [{**row, "influence": row["training_loss"]} for row in rows], None
    momentum = json.loads((job.folders("scores")[0] / "momentum.json").read_text())["momentum_influence"]
    return rows, momentum


def _outputs(job: Job, kind: str) -> list[Row]:
    if kind == "instructions":
        return job.rows("instructions", "instructions.parquet")
    rows = sorted(job.rows("responses", "pairs.parquet"), key=lambda row: row["id"])
    return [
        {
            "id": row["id"],
            "prompt_id": row["prompt_id"],
            "prompt": user(row["instruction"]),
            "raw": row["response"],
        }
        for row in rows
    ]
