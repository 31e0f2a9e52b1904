"""Measure the overlap of training data with benchmarks: `overlap.json`, a list of `evaluation.card.Overlap`.

The input `pairs` is the training data (`pairs.parquet` or `rows.parquet`). The inputs `items` and `questions` are the
items of the harness's benchmarks and the questions for models.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

from pydantic import Field

from montessori.data.rows import Row, read_rows
from montessori.errors import InputError
from montessori.evaluation.overlap import Item, N, Point, overlaps
from montessori.settings.base import Frozen
from tasks.runtime.job import Job

FILES = ("pairs.parquet", "rows.parquet")


class Settings(Frozen):
    """The benchmark of each artifact of the inputs, in order. Shards of one benchmark share its name."""

    n: int = Field(N, ge=1)  # length of an n-gram, in words
    items: tuple[str, ...] = ()
    questions: tuple[str, ...] = ()


def run(job: Job, settings: Settings) -> dict[str, Any]:
    """Count the items that are in the training data."""
    benchmarks: dict[str, list[Item]] = {}
    for role, names in (("items", settings.items), ("questions", settings.questions)):
        for name, rows in _named(job, role, names):
            items = [[row["question"], row["text"]] if role == "items" else row["turns"] for row in rows]
            benchmarks.setdefault(name, []).extend(items)
    points = list(_points(job))
    results = overlaps(benchmarks, points, settings.n)
    (job.out / "overlap.json").write_text(json.dumps([asdict(each) for each in results], indent=1) + "\n")
    return {
        "training_points": len(points),
        "items": sum(each.items for each in results),
        "exact": sum(each.exact for each in results),
        "ngram": sum(each.ngram for each in results),
    }


def _named(job: Job, role: str, names: Sequence[str]) -> Iterator[tuple[str, list[Row]]]:
    folders = job.folders(role) if job.has(role) else []
    if len(names) != len(folders):
        raise InputError(f"settings.{role} has {len(names)} names for {len(folders)} artifacts; give each one its name")
    for name, folder in zip(names, folders, strict=True):
        yield name, read_rows(folder / f"{role}.parquet")


def _points(job: Job) -> Iterator[Point]:
    for folder in job.folders("pairs"):
        file = next((folder / name for name in FILES if (folder / name).is_file()), None)
        if file is None:
            raise InputError(f"inputs.pairs: {folder} has neither {' nor '.join(FILES)}; give training data")
        for row in read_rows(file):
            texts = [turn["content"] for turn in row.get("messages") or []] or [row["instruction"]]
            yield row["instruction"], "\n".join([*texts, row["response"] or ""])
