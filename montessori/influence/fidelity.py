"""Measure the agreement of an estimator with influence by definition, computed in float64.

In: influences of the same points from an estimator and from `Exact` on a float64 student (`in_float64`).  Out: rank and
linear correlation, and the agreement of the next step of the method: the sign at each split, and the preference pairs.
"""

import math
import statistics
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from montessori.correlation import spearman
from montessori.preferences import threshold
from montessori.settings.influence import Split

SAMPLES_PER_PROMPT = 4  # the paper's; points without prompts are grouped by fours, in order

M = TypeVar("M", bound=nn.Module)


@dataclass(frozen=True)
class Agreement:
    """Hold shares between 0 and 1, over the points with a finite influence in both."""

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
    *,
    momentum_estimate: float,
    momentum_truth: float,
    prompts: Sequence[str] | None = None,
) -> Agreement:
    """Compare `estimates` with `truths`, which are in the same order.

    `prompts` names each point's prompt (default: groups of four, in order). The momenta are each side's own I(∅), nats.
    """
    names = prompts or [str(i // SAMPLES_PER_PROMPT) for i in range(len(truths))]
    finite = [i for i in range(len(truths)) if math.isfinite(estimates[i]) and math.isfinite(truths[i])]
    estimates, truths = [estimates[i] for i in finite], [truths[i] for i in finite]
    groups: dict[str, list[int]] = {}
    for index, i in enumerate(finite):
        groups.setdefault(names[i], []).append(index)

    def positive(values: Sequence[float], momentum: float, split: Split) -> list[bool]:
        limits = {i: threshold(split, momentum, [values[j] for j in group]) for group in groups.values() for i in group}
        return [value > limits[i] for i, value in enumerate(values)]

    def same(split: Split) -> float:
        a, b = positive(estimates, momentum_estimate, split), positive(truths, momentum_truth, split)
        return statistics.fmean(x == y for x, y in zip(a, b, strict=True))

    def pairs(sides: list[bool]) -> set[tuple[int, int]]:
        return {(i, j) for group in groups.values() for i in group for j in group if sides[i] and not sides[j]}

    true_pairs = pairs(positive(truths, momentum_truth, "prompt_mean"))
    estimated_pairs = pairs(positive(estimates, momentum_estimate, "prompt_mean"))
    return Agreement(
        points=len(finite),
        spearman=spearman(estimates, truths),
        pearson=statistics.correlation(estimates, truths),
        sign_zero=same("zero"),
        sign_momentum=same("momentum"),
        sign_prompt_mean=same("prompt_mean"),
        pairs=len(true_pairs & estimated_pairs) / max(1, len(true_pairs)),
    )


class _KeepFloat64(TorchFunctionMode):
    """Skip the casts that would make a float64 tensor float32."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        del types
        kwargs = dict(kwargs or {})
        tensor = args[0] if args else None
        if isinstance(tensor, Tensor) and tensor.dtype == torch.float64:
            if func is Tensor.float or (func is Tensor.to and torch.float32 in args):
                return tensor
            if kwargs.get("dtype") is torch.float32:
                kwargs["dtype"] = torch.float64
        return func(*args, **kwargs)


@contextmanager
def in_float64(model: M) -> Iterator[M]:
    """Widen the weights of `model` in place, and keep computation inside the block in float64.

    `model.double()` alone is not enough: transformers casts to float32 inside norms, softmax and rotary embeddings. On
    a float64 tensor such a cast *narrows*.
    """
    with _KeepFloat64():
        yield model.double()
