"""The comparison of rows of a table over seeds: a mean with its error, and a paired t-test against another row.

In: values by seed.  Out: what a table may write and mark.
Only seeds vary here: another reference set, another student or another judge can differ by more.
"""

import math
import statistics
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import TypeVar

from montessori.evaluation.bootstrap import LEVEL
from montessori.evaluation.card import Measure
from montessori.evaluation.paired import above
from montessori.reporting.run.data import finite

Values = Mapping[int, float]  # by seed, finite
Name = TypeVar("Name", bound=Hashable)

DUST = 1e-12  # of the largest difference: floats that are equal on paper


@dataclass(frozen=True)
class Difference:
    """How much larger one row's values are than another's, on the seeds that both have."""

    mean: float
    low: float  # of the 95% interval; NaN where the differences do not vary
    high: float
    p_value: float  # two-sided; NaN likewise
    n: int  # seeds


def over_seeds(values: Iterable[float]) -> Measure | None:
    """Return the mean and standard error of the finite values; one seed has no error, no seed no mean."""
    known = finite(values)
    if not known:
        return None
    error = statistics.stdev(known) / math.sqrt(len(known)) if len(known) > 1 else math.nan
    return Measure(statistics.fmean(known), error, len(known))


def difference(left: Values, right: Values) -> Difference | None:
    """Compare `left` minus `right` by the paired t-test; None where they share fewer than two seeds.

    Differences that are the same at every seed have no spread to judge them by, so there is no test: such rows do not
    depend on the seed, or are one and the same.
    """
    gaps = [left[seed] - right[seed] for seed in sorted(left.keys() & right.keys())]
    if len(gaps) < 2:
        return None
    mean, spread = statistics.fmean(gaps), statistics.stdev(gaps)
    if spread <= DUST * max(map(abs, gaps)):
        return Difference(mean, math.nan, math.nan, math.nan, len(gaps))
    error, freedom = spread / math.sqrt(len(gaps)), len(gaps) - 1
    half = _quantile(freedom) * error
    return Difference(mean, mean - half, mean + half, min(1.0, 2 * above(abs(mean) / error, freedom)), len(gaps))


def holm(p_values: Mapping[Name, float]) -> dict[Name, float]:
    """Correct each p-value for how many there are; what was not tested (NaN) neither counts nor is returned."""
    ordered = sorted((p, place, name) for place, (name, p) in enumerate(p_values.items()) if math.isfinite(p))
    corrected: dict[Name, float] = {}
    largest = 0.0
    for rank, (p, _, name) in enumerate(ordered):
        largest = max(largest, min(1.0, (len(ordered) - rank) * p))
        corrected[name] = largest
    return corrected


def leader(rows: Mapping[Name, Values], lower_is_better: bool) -> Name | None:
    """Return the row that is better than every other with p < 0.05 after Holm's correction, or None."""
    sign = -1 if lower_is_better else 1
    means = {name: sign * statistics.fmean(values.values()) for name, values in rows.items() if values}
    if len(means) < 2:
        return None
    best = max(means, key=lambda name: means[name])
    gaps = {name: difference(rows[best], rows[name]) for name in means if name != best}
    # On the seeds that two rows share, the order can be another than that of their means.
    ahead = {name: gap.p_value for name, gap in gaps.items() if gap and sign * gap.mean > 0}
    corrected = holm(ahead)
    return best if len(corrected) == len(gaps) and max(corrected.values()) < LEVEL else None


@cache
def _quantile(freedom: int) -> float:
    """Find by bisection what Student's t exceeds with probability LEVEL/2: 12.7 with one degree of freedom."""
    low, high = 0.0, 16.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if above(middle, freedom) > LEVEL / 2 else (low, middle)
    return high
