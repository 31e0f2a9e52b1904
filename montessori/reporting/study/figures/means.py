"""Means over seeds as figures draw them, and one look a row in all figures."""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

from montessori.evaluation.card import Measure
from montessori.reporting.figures.canvas import MUTED, Look, look
from montessori.reporting.study.data import Study
from montessori.reporting.tables import digits_of, span

ERROR = "Bars of error: one standard error over seeds"

T = TypeVar("T")


def digits(measures: Iterable[Measure]) -> int:
    """Return how many digits let the smallest standard error show two; none where errors are large."""
    return digits_of(measures, fewest=0, without_errors=3)


def error_bar(measure: Measure) -> float:
    """Return the length of a bar of error, 0 where there is none."""
    return measure.standard_error if math.isfinite(measure.standard_error) else 0.0


def seeds_note(numbers: Iterable[int]) -> str:
    """Say what the bars of error are, and over how many seeds."""
    known = set(numbers)
    return "One seed: no bars of error." if known == {1} else f"{ERROR}, n = {span(known)}."


def by_share(items: Iterable[T], share: Callable[[T], float]) -> list[list[T]]:
    """Return `items` in groups of equal share, rising."""
    groups: dict[float, list[T]] = {}
    for item in items:
        groups.setdefault(round(share(item), 6), []).append(item)
    return [groups[key] for key in sorted(groups)]


def looks(study: Study, rows: Sequence[str]) -> dict[str, Look]:
    """Return a look for each of `rows`; the baseline is grey, the others keep theirs between figures."""
    known = dict.fromkeys([result.row for result in study.results] + list(rows))
    others = [row for row in known if row != study.baseline]
    of = {study.baseline: Look(MUTED, "-", "o")} | {row: look(position) for position, row in enumerate(others)}
    return {row: of[row] for row in rows}
