"""Means over seeds with their errors, as figures draw and write them, and one look a row in all figures."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import TypeVar

from montessori.reporting.data import Measure, finite
from montessori.reporting.figures.canvas import MUTED, SERIES
from montessori.reporting.study.data import Metric, Study

DASHES = ("-", "--", ":", "-.")
DOTS = "osD^vP"
ERROR = "Bars of error: one standard error over seeds"

T = TypeVar("T")


@dataclass(frozen=True)
class Look:
    """How a row is drawn wherever it is."""

    color: str
    linestyle: str
    marker: str


def over_seeds(values: Iterable[float]) -> Measure | None:
    """Mean and standard error of what is finite; the error of a single one is NaN."""
    found = finite(values)
    if not found:
        return None
    return Measure(fmean(found), stdev(found) / math.sqrt(len(found)) if len(found) > 1 else math.nan, len(found))


def error_bar(measure: Measure) -> float:
    """The length of a bar of error, 0 where there is none."""
    return measure.standard_error if math.isfinite(measure.standard_error) else 0.0


def written(measure: Measure, digits: int = 3) -> str:
    """`mean ± standard error`, or the mean alone of a single seed."""
    text = f"{measure.mean:.{digits}f}"
    if math.isfinite(measure.standard_error):
        text += f" ± {measure.standard_error:.{digits}f}"
    return text.replace("-", "−")


def digits_of(measures: Iterable[Measure]) -> int:
    """How many digits let the smallest standard error show two, at most four."""
    errors = [m.standard_error for m in measures if math.isfinite(m.standard_error) and m.standard_error > 0]
    return min(max(1 - math.floor(math.log10(min(errors))), 0), 4) if errors else 3


def title(metric: Metric) -> str:
    """The metric's name with the direction of the better."""
    return f"{metric.title} {'↓' if metric.lower_is_better else '↑'}"


def seeds_note(numbers: Iterable[int]) -> str:
    """What the bars of error are, and over how many seeds."""
    found = sorted(set(numbers))
    if found == [1]:
        return "One seed: no bars of error."
    return f"{ERROR}, n = {'–'.join(str(n) for n in dict.fromkeys((found[0], found[-1])))}."


def by_share(items: Iterable[T], share: Callable[[T], float]) -> list[list[T]]:
    """`items` in groups of equal share, rising."""
    groups: dict[float, list[T]] = {}
    for item in items:
        groups.setdefault(round(share(item), 6), []).append(item)
    return [groups[key] for key in sorted(groups)]


def looks(study: Study, rows: Sequence[str]) -> dict[str, Look]:
    """A colour, dash and marker for each of `rows`; the baseline is grey, the others keep theirs between figures."""
    known = dict.fromkeys([result.row for result in study.results] + list(rows))
    others = [row for row in known if row != study.baseline]
    found = {study.baseline: Look(MUTED, "-", "o")}
    for position, row in enumerate(others):
        turn = position // len(SERIES)  # how often all colours were used before
        found[row] = Look(
            SERIES[position % len(SERIES)], DASHES[turn % len(DASHES)], DOTS[(position + turn) % len(DOTS)]
        )
    return {row: found[row] for row in rows}
