"""Compare two models with a paired bootstrap over their common items.

The result is the mean difference with its interval and p-value. It also decides the best models of a table. Only the
items vary here. Another training seed or another judge can make a larger difference.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from montessori.evaluation import paired
from montessori.evaluation.card import Card, Column, Mark

RESAMPLES = 10_000
LEVEL = 0.05
SMALL = 30  # items. With fewer, resampled means vary too little, and the p-value is at least that of a t-test.
EVEN = 0.5  # preference for an answer over itself: a baseline's value in a column of win rates
FEW = 16  # different values. Up to here, drawing their counts is faster than drawing items.
AT_ONCE = 2_000_000  # items to draw at a time: 30 MB

Array = np.ndarray[tuple[int, ...], np.dtype[np.float64]]


@dataclass(frozen=True)
class Difference:
    """By how much one model's values exceed another's, in the items' own scale."""

    mean: float
    low: float  # of the 95% interval, by percentiles
    high: float
    p_value: float  # two-sided
    n: int  # items that both have


def difference(left: Mapping[str, float], right: Mapping[str, float], seed: int = 0) -> Difference | None:
    """Return `left` minus `right` over their common items, or None without such items."""
    gaps = np.array([left[item] - right[item] for item in sorted(left.keys() & right.keys())])
    if not len(gaps):
        return None
    means = _resampled_means(gaps, np.random.default_rng(seed))
    low, high = np.quantile(means, [LEVEL / 2, 1 - LEVEL / 2])
    return Difference(float(gaps.mean()), float(low), float(high), _p_value(gaps, means), len(gaps))


def compare(card: Card, column: Column, left: str, right: str) -> Difference | None:
    """Return `left` minus `right` in a column of `card`, or None when they share no items.

    The column's own baseline has no items. It counts as an even preference on all items of the other model.
    """
    items_of = {model: score.items for model in (left, right) if (score := card.scores.get((model, column.key)))}
    if len(items_of) == 1 and column.baseline in {left, right} - items_of.keys():
        (shared,) = items_of.values()
        items_of[column.baseline] = dict.fromkeys(shared, EVEN)
    return difference(items_of[left], items_of[right], card.seed) if len(items_of) == 2 else None


def against_baseline(card: Card) -> dict[tuple[str, str], Difference]:
    """Return each other model minus the card's baseline, by model and column key."""
    if card.baseline is None:
        return {}
    pairs = [(model, column) for column in card.columns for model in card.models if model != card.baseline]
    gaps = {(model, column.key): compare(card, column, model, card.baseline) for model, column in pairs}
    return {key: gap for key, gap in gaps.items() if gap}


def marks(card: Card, column: Column) -> dict[str, Mark]:
    """Return the best model of a column and the second, as far as their leads exceed the noise.

    The best leads every other model with p < 0.05 after Holm's correction. The second leads all the rest in the same
    way. There is no second without a best, since of two models that cannot be told apart neither is second.
    """
    sign = -1 if column.lower_is_better else 1
    scores = {model: score for model in card.models if (score := card.scores.get((model, column.key)))}
    means = {model: score.measure.mean for model, score in scores.items() if math.isfinite(score.measure.mean)}
    if column.baseline is not None and column.baseline in card.models:
        means.setdefault(column.baseline, EVEN)
    if not means:
        return {}
    best, *rest = sorted(means, key=lambda model: -sign * means[model])
    if not _leads(card, column, best, rest=rest, sign=sign):
        return {}
    second, *others = rest
    marked: dict[str, Mark] = {best: "best"}
    return marked | {second: "second"} if _leads(card, column, second, rest=others, sign=sign) else marked


def _leads(card: Card, column: Column, leader: str, *, rest: Sequence[str], sign: int) -> bool:
    gaps = [compare(card, column, leader, other) for other in rest]
    if not gaps or not all(gap and sign * gap.mean > 0 for gap in gaps):
        return False
    ordered = sorted(gap.p_value for gap in gaps if gap)
    return all(p < LEVEL / (len(ordered) - place) for place, p in enumerate(ordered))


def _resampled_means(gaps: Array, draw: np.random.Generator) -> Array:
    """Return the means of `RESAMPLES` draws with replacement, each of as many items."""
    n = len(gaps)
    values, counts = np.unique(gaps, return_counts=True)
    if len(values) <= FEW:
        drawn: Array = draw.multinomial(n, counts / n, RESAMPLES) @ values / n
        return drawn
    means = np.empty(RESAMPLES)
    step = max(1, AT_ONCE // n)
    for start in range(0, RESAMPLES, step):
        size = min(step, RESAMPLES - start)
        means[start : start + size] = gaps[draw.integers(n, size=(size, n), dtype=np.int32)].mean(axis=1)
    return means


def _p_value(gaps: Array, means: Array) -> float:
    """Return twice the smaller share of means on one side of zero.

    One is added to both counts, so the result is never 0. It is at least the p-value of the sign test, 2^(1 − items
    with a difference), since resamples nearly always agree when few items differ, all in one direction.
    """
    nothing = 1e-12 * np.abs(gaps).max()  # rounding errors of sums that are zero
    below, above = int((means <= nothing).sum()), int((means >= -nothing).sum())
    share = 2 * (1 + min(below, above)) / (1 + len(means))
    fewest = 2.0 ** (1 - int((np.abs(gaps) > nothing).sum()))
    spread = float(gaps.std(ddof=1)) if 1 < len(gaps) < SMALL else 0.0
    by_t = 2 * paired.above(abs(float(gaps.mean())) * math.sqrt(len(gaps)) / spread, len(gaps) - 1) if spread else 0.0
    return min(1.0, max(share, fewest, by_t))
