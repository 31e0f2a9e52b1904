"""What a difference between two models is worth: a paired bootstrap over the items that both were measured on.

In: values by item.  Out: the mean difference with its interval and p-value, and which models a table may call the best.
Only items vary here: another training seed, or another judge, can differ by more.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from montessori.evaluation import paired
from montessori.evaluation.card import Card, Column, Mark

RESAMPLES = 10_000
LEVEL = 0.05
SMALL = 30  # items: below, resampled means vary less than means would, and a t-test has the last word
EVEN = 0.5  # the preference for an answer over itself: what a baseline has in a column of win rates
FEW = 16  # different values, up to which it is faster to draw how often each comes than to draw items
AT_ONCE = 2_000_000  # items drawn before they are added up: 30 MB

Array = np.ndarray[tuple[int, ...], np.dtype[np.float64]]


@dataclass(frozen=True)
class Difference:
    """How much larger one model's values are than another's, in the items' own scale."""

    mean: float
    low: float  # of the 95% interval, by percentiles
    high: float
    p_value: float  # two-sided
    n: int  # items that both have


def difference(left: Mapping[str, float], right: Mapping[str, float], seed: int = 0) -> Difference | None:
    """`left` minus `right` on the items that both have; None where there are none."""
    gaps = np.array([left[item] - right[item] for item in sorted(left.keys() & right.keys())])
    if not len(gaps):
        return None
    means = _resampled_means(gaps, np.random.default_rng(seed))
    low, high = np.quantile(means, [LEVEL / 2, 1 - LEVEL / 2])
    return Difference(float(gaps.mean()), float(low), float(high), _p_value(gaps, means), len(gaps))


def compare(card: Card, column: Column, left: str, right: str) -> Difference | None:
    """`left` minus `right` in a column of `card`; None where they share no items.

    The column's own baseline has no items: it stands at an even preference on all of the other's.
    """
    found = {model: score.items for model in (left, right) if (score := card.scores.get((model, column.key)))}
    if len(found) == 1 and column.baseline in {left, right} - found.keys():
        (items,) = found.values()
        found[column.baseline] = dict.fromkeys(items, EVEN)
    return difference(found[left], found[right], card.seed) if len(found) == 2 else None


def against_baseline(card: Card) -> dict[tuple[str, str], Difference]:
    """Every other model minus the card's baseline, by model and column key."""
    if card.baseline is None:
        return {}
    pairs = [(model, column) for column in card.columns for model in card.models if model != card.baseline]
    found = {(model, column.key): compare(card, column, model, card.baseline) for model, column in pairs}
    return {key: gap for key, gap in found.items() if gap}


def marks(card: Card, column: Column) -> dict[str, Mark]:
    """The best model of a column, and the second, as far as their leads exceed the noise.

    The best leads every other model with p < 0.05, by Holm's correction for as many pairs. The second leads all the
    rest in the same way, and is only looked for behind a best: of two that cannot be told apart neither is second.
    """
    sign = -1 if column.lower_is_better else 1
    found = {model: score for model in card.models if (score := card.scores.get((model, column.key)))}
    means = {model: score.measure.mean for model, score in found.items() if math.isfinite(score.measure.mean)}
    if column.baseline is not None and column.baseline in card.models:
        means.setdefault(column.baseline, EVEN)
    if not means:
        return {}
    best, *rest = sorted(means, key=lambda model: -sign * means[model])
    if not _leads(card, column, best, rest, sign):
        return {}
    second, *others = rest
    marked: dict[str, Mark] = {best: "best"}
    return marked | {second: "second"} if _leads(card, column, second, others, sign) else marked


def _leads(card: Card, column: Column, leader: str, rest: Sequence[str], sign: int) -> bool:
    gaps = [compare(card, column, leader, other) for other in rest]
    if not gaps or not all(gap and sign * gap.mean > 0 for gap in gaps):
        return False
    ordered = sorted(gap.p_value for gap in gaps if gap)
    return all(p < LEVEL / (len(ordered) - place) for place, p in enumerate(ordered))


def _resampled_means(gaps: Array, draw: np.random.Generator) -> Array:
    """The means of as many items drawn with replacement, RESAMPLES times."""
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
    """Twice the smaller share of means on one side of zero; one is added to both counts, so that none is 0.

    Where the few items that differ all differ in one direction, resamples nearly always agree. A p-value below that of
    the sign test, 2^(1 − items that differ), would claim more than so few items can show.
    """
    nothing = 1e-12 * np.abs(gaps).max()  # sums of floats that are zero on paper
    below, above = int((means <= nothing).sum()), int((means >= -nothing).sum())
    share = 2 * (1 + min(below, above)) / (1 + len(means))
    fewest = 2.0 ** (1 - int((np.abs(gaps) > nothing).sum()))
    spread = float(gaps.std(ddof=1)) if 1 < len(gaps) < SMALL else 0.0
    by_t = 2 * paired.above(abs(float(gaps.mean())) * math.sqrt(len(gaps)) / spread, len(gaps) - 1) if spread else 0.0
    return min(1.0, max(share, fewest, by_t))
