"""Verdicts to look at: a model's clearest wins and losses, its highest and lowest grades.

In: rows of `verdicts.parquet` or `grades.parquet`.  Out: `card.Example`s, the best of the model first.
"""

from collections.abc import Sequence

from montessori.data.rows import Row
from montessori.evaluation.card import Example

SHOWN = 3  # of the best, and as many of the worst


def compared(model: str, baseline: str, rows: Sequence[Row]) -> list[Example]:
    """Of `model`'s answers compared with the baseline's."""
    return [
        Example(
            "alpaca_eval", r["question"], model, r["right"], baseline, r["left"], r["preference"], r["said"],
            first=model if r["swapped"] else baseline,
        )
        for r in _clearest(rows, "preference")
    ]  # fmt: skip


def graded(model: str, rows: Sequence[Row]) -> list[Example]:
    """Of `model`'s answers graded by themselves, a turn each."""
    return [
        Example("mt_bench", r["question"], model, r["answer"], "", "", r["grade"], r["said"])
        for r in _clearest(rows, "grade")
    ]


def _clearest(rows: Sequence[Row], value: str) -> list[Row]:
    """The rows with the highest values, and then those with the lowest."""
    known = sorted((row for row in rows if row[value] is not None), key=lambda row: (-row[value], row["id"]))
    return known if len(known) <= 2 * SHOWN else [*known[:SHOWN], *known[-SHOWN:]]
