"""Build preference pairs of teacher outputs: `preferences.parquet`, with the counts in `summary.json`.

The outputs are instructions of a teacher, or its responses to them.
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
    """How scores become pairs, and the kind of the outputs."""

    preferences: Preferences
    outputs: Literal["instructions", "responses"] = "instructions"


def run(job: Job, settings: Settings) -> dict[str, Any]:
    """Join the scores of all shards with the outputs, and pair outputs of the same prompt."""
    scores, momentum = read_scores(job, settings.preferences.signal)
    pairs, summary = build_pairs(
        _outputs(job, settings.outputs),
        scores,
        settings.preferences.split,
        momentum_influence=momentum,
        max_pairs=settings.preferences.max_pairs,
        seed=job.seed,
    )
    write_rows(job.out / "preferences.parquet", pairs)
    (job.out / "summary.json").write_text(json.dumps(asdict(summary), indent=1) + "\n")
    return asdict(summary)


def read_scores(job: Job, signal: Signal) -> tuple[list[Row], float | None]:
    """Return `id, influence, status` of each point, and I(∅). `influence` is the value of any signal."""
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
