"""Is one student better than another? A paired test on their losses on the same examples.

In: for each pair of students (a training seed each) the losses of both, example by example.
Out: by how much the second is lower, the standard error of that, and a one-sided p-value.
With one pair this is the paired t-test. With more, the pairs' own variation is in the error: docs/method.md.
"""

import math
import statistics
from collections.abc import Sequence

from montessori.settings.schema import Frozen

Losses = Sequence[float]  # nats/token, an example each, in the same order for all students


class Test(Frozen):
    """What came of comparing."""

    difference: float  # nats/token; positive: the challenger's loss is lower
    standard_error: float
    p_value: float  # of a difference this large where the challenger is no better
    n: int  # examples
    seeds: int  # pairs of students

    __test__ = False  # pytest takes it for one of its own


def compare(champion: Sequence[Losses], challenger: Sequence[Losses]) -> Test:
    """Test whether the challenger's students have the lower loss; a sequence a training seed, two examples at least.

    Differences are averaged over seeds for each example, and over examples for each seed. The error is made of the
    spread of both, with Satterthwaite's degrees of freedom; the spread of a single seed is unknown, and left out.
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
    return Test(
        difference=difference,
        standard_error=math.sqrt(variance),
        p_value=p_value,
        n=len(by_example),
        seeds=len(by_seed),
    )


def above(t: float, freedom: float) -> float:
    """The probability that Student's t, with `freedom` degrees of freedom, exceeds `t`."""
    square = t * t
    tail = 0.5 * _incomplete_beta(freedom / (freedom + square), square / (freedom + square), freedom / 2, 0.5)
    return tail if t > 0 else 1 - tail


def _incomplete_beta(x: float, rest: float, a: float, b: float) -> float:
    """The regularised incomplete beta function I_x(a, b), by its continued fraction where that converges fast.

    `rest` is 1 − x, which the caller has more digits of.
    """
    if x <= 0 or rest <= 0:
        return float(rest <= 0)
    if x > (a + 1) / (a + b + 2):
        return 1 - _incomplete_beta(rest, x, b, a)
    logarithm = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log(rest)
    return math.exp(logarithm) / a / _fraction(x, a, b)


def _fraction(x: float, a: float, b: float) -> float:
    """1 + d₁/(1 + d₂/(1 + …)), by Lentz's method (Press et al., Numerical Recipes, 6.4)."""
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
