"""Test whether one student is better than another, with a paired test on their losses on the same examples.

Each pair of students has a training seed of its own. With one pair this is the paired t-test. With more, the variation
between the pairs is in the error (docs/explanation/method.md).
"""

import math
import statistics
from collections.abc import Sequence

from montessori.settings.base import Frozen

Losses = Sequence[float]  # nats per token of each example, in the same order for all students


class PairedTest(Frozen):
    """The result of a comparison."""

    difference: float  # nats per token. Positive: the challenger's loss is lower
    standard_error: float
    p_value: float  # one-sided: of a difference this large if the challenger is no better
    n: int  # number of examples
    seeds: int  # number of pairs of students


def compare(champion: Sequence[Losses], challenger: Sequence[Losses]) -> PairedTest:
    """Test whether the challenger's students have the lower loss.

    Each argument has one sequence of losses per training seed, of two examples at least. Differences are averaged over
    seeds for each example, and over examples for each seed. The standard error contains the spread of both, with
    Satterthwaite's degrees of freedom. The spread of a single seed is unknown and left out.
    """
    gains = [[a - b for a, b in zip(*pair, strict=True)] for pair in zip(champion, challenger, strict=True)]
    by_example = [statistics.fmean(example) for example in zip(*gains, strict=True)]
    by_seed = [statistics.fmean(seed) for seed in gains]
    difference = statistics.fmean(by_example)
    parts = [statistics.variance(means) / len(means) for means in (by_example, by_seed) if len(means) > 1]
    degrees = [len(means) - 1 for means in (by_example, by_seed) if len(means) > 1]
    variance = sum(parts)
    if variance > 0:
        freedom = variance**2 / sum(part**2 / own for part, own in zip(parts, degrees, strict=True))
        p_value = above(difference / math.sqrt(variance), freedom)
    else:  # the same difference everywhere
        p_value = 0.0 if difference > 0 else 1.0
    return PairedTest(
        difference=difference,
        standard_error=math.sqrt(variance),
        p_value=p_value,
        n=len(by_example),
        seeds=len(by_seed),
    )


def above(t: float, freedom: float) -> float:
    """Return the probability that Student's t with `freedom` degrees of freedom exceeds `t`."""
    square = t * t
    tail = 0.5 * _incomplete_beta(freedom / (freedom + square), square / (freedom + square), freedom / 2, 0.5)
    return tail if t > 0 else 1 - tail


def _incomplete_beta(x: float, rest: float, a: float, b: float) -> float:
    """Return the regularised incomplete beta function I_x(a, b), by its continued fraction where that converges fast.

    `rest` is 1 − x, which the caller knows with more digits.
    """
    if x <= 0 or rest <= 0:
        return float(rest <= 0)
    if x > (a + 1) / (a + b + 2):
        return 1 - _incomplete_beta(rest, x, b, a)
    logarithm = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log(rest)
    return math.exp(logarithm) / a / _fraction(x, a, b)


def _fraction(x: float, a: float, b: float) -> float:
    """Return 1 + d₁/(1 + d₂/(1 + …)), by Lentz's method (Press et al., Numerical Recipes, section 6.4)."""
    tiny = 1e-300
    value, c, d = 1.0, 1.0, 0.0
    for term in range(1, 10_000):
        m, odd = divmod(term, 2)
        factor = (
            -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
            if odd
            else m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        )
        d = 1 / (1 + factor * d or tiny)
        c = 1 + factor / c or tiny
        value *= c * d
        if abs(c * d - 1) < 1e-15:
            break
    return value
