"""Compute rank correlation."""

import statistics
from bisect import bisect_left, bisect_right
from collections.abc import Sequence


def spearman(a: Sequence[float], b: Sequence[float]) -> float:
    """Return Spearman's rank correlation. Equal values share the mean of their ranks."""
    return statistics.correlation(fractional_ranks(a), fractional_ranks(b))


def fractional_ranks(values: Sequence[float]) -> list[float]:
    """Return the rank of each value, from 0.5. Equal values share the mean of their ranks."""
    ordered = sorted(values)
    return [(bisect_left(ordered, value) + bisect_right(ordered, value)) / 2 for value in values]
