"""How well an estimator agrees with influence as defined, in float64.

In: influences of the same points from an estimator and from `Exact` on a float64 student.  Out: rank and linear
correlation, and what the next step of the method makes of them: the sign at each split, and the preference pairs.
"""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from montessori.correlation import spearman
from montessori.preferences import threshold
from montessori.settings.schema import Split

SAMPLES_OF_A_PROMPT = 4  # as the method draws them; points without prompts are taken in fours, in order


@dataclass(frozen=True)
class Agreement:
    """Shares are between 0 and 1, over the points that both have a finite influence of."""

    points: int
    spearman: float
    pearson: float
    sign_zero: float  # on the same side of zero
    sign_momentum: float  # on the same side of I(∅), each of its own
    sign_prompt_mean: float  # on the same side of the mean of its prompt's samples
    pairs: float  # of the true (chosen, rejected) pairs of the prompt_mean split, those that the estimator makes too


def agreement(
    estimates: Sequence[float],
    truths: Sequence[float],
    momentum_estimate: float,
    momentum_truth: float,
    prompts: Sequence[str] | None = None,
) -> Agreement:
    """`estimates` and `truths` in the same order; `prompts` names each point's prompt (default: fours, in order)."""
    names = prompts or [str(i // SAMPLES_OF_A_PROMPT) for i in range(len(truths))]
    kept = [i for i in range(len(truths)) if math.isfinite(estimates[i]) and math.isfinite(truths[i])]
    ours, theirs = [estimates[i] for i in kept], [truths[i] for i in kept]
    groups: dict[str, list[int]] = {}
    for place, i in enumerate(kept):
        groups.setdefault(names[i], []).append(place)

    def positive(values: list[float], momentum: float, split: Split) -> list[bool]:
        limits = {i: threshold(split, momentum, [values[j] for j in group]) for group in groups.values() for i in group}
        return [value > limits[i] for i, value in enumerate(values)]

    def same(split: Split) -> float:
        a, b = positive(ours, momentum_estimate, split), positive(theirs, momentum_truth, split)
        return statistics.fmean(x == y for x, y in zip(a, b, strict=True))

    def pairs(sides: list[bool]) -> set[tuple[int, int]]:
        return {(i, j) for group in groups.values() for i in group for j in group if sides[i] and not sides[j]}

    true_pairs = pairs(positive(theirs, momentum_truth, "prompt_mean"))
    found = pairs(positive(ours, momentum_estimate, "prompt_mean"))
    return Agreement(
        points=len(kept),
        spearman=spearman(ours, theirs),
        pearson=statistics.correlation(ours, theirs),
        sign_zero=same("zero"),
        sign_momentum=same("momentum"),
        sign_prompt_mean=same("prompt_mean"),
        pairs=len(true_pairs & found) / max(1, len(true_pairs)),
    )
