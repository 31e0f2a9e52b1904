"""Rank correlation."""

import statistics
from bisect import bisect_left, bisect_right
from collections.abc import Sequence


def spearman(a: Sequence[float], b: Sequence[float]) -> float:
    """Rank correlation; equal values share the mean of their ranks."""
    return statistics.correlation(ranks(a), ranks(b))


def ranks(values: Sequence[float]) -> list[float]:
    """The rank of each value, from 0.5; equal ones share the mean of theirs."""
    ordered = sorted(values)
    return [(bisect_left(ordered, value) + bisect_right(ordered, value)) / 2 for value in values]
