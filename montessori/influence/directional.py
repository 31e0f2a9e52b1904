"""Influence from two forward passes: the derivative of ℓ(θ; x) along the direction that lowers the reference loss.

With a v' that is the same for every point, I(x) to first order is linear in g:

    I(x) ≈ I(∅) + η(1−β₁)⟨u, g⟩                 u = ∇L / [(√(v'/(1−β₂^(t+1))) + ε)(1−β₁^(t+1))]
    ⟨u, g⟩ = dℓ(θ + hu; x)/dh ≈ [ℓ(θ + hu; x) − ℓ(θ − hu; x)] / 2h

v' = β₂v + (1−β₂)·q has the mean g² of a few reference examples for q, in the place of the point's own: left out, all
influences come out too large, by a seventh after 800 steps.

A point takes no backward pass, so batches of any size and the activations of inference; the choice for millions of
points. The weights are written and put back: a clone of the trainable ones and u are kept beside them.
Source: Montessori-Instruct (arXiv 2410.14208), section 3.2, expanded around θ; central difference.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from montessori.data.chat import Example
from montessori.errors import InputError
from montessori.influence.adamw import Gradients, require_alike, trainable_parameters
from montessori.influence.batches import Batch, answer_tokens
from montessori.influence.ranks import Ranks, gradients, whole, whole_step
from montessori.influence.reference import example_loss, example_losses
from montessori.influence.score import Score, make_score
from montessori.influence.step import Step

# h moves the reference loss by this much, nats, to first order. Smaller, and the losses' rounding shows; larger, and
# the third derivative does: docs/results.md has the error by this number.
REFERENCE_LOSS_CHANGE = {torch.float64: 1e-4, torch.float32: 3e-3, torch.bfloat16: 3e-1}


TYPICAL = 8  # examples that q is the mean of: 32 give the same agreement with `exact`


def typical(reference: Sequence[Example]) -> list[Example]:
    """The examples that q is taken from, spread over `reference`."""
    return [example for example in reference if answer_tokens(example)][:: -(-len(reference) // TYPICAL) or 1]


class Directional:
    """Scores points by how ℓ changes along u."""

    def __init__(
        self,
        model: nn.Module,
        step: Step,
        gradient: Gradients,
        reference: Sequence[Example] = (),
        change: float | None = None,
    ):
        """`gradient` is ∇L(θ), `reference` the examples that it is of; without them v' is v as it is before the step.

        `change` is the move of the reference loss that sets h (default: by the weights' dtype).
        Raises InputError where the state or the gradient does not fit the model, where the gradient is zero, or the
        weights are neither float64, float32 nor bfloat16.
        """
        self._model = model
        self._parameters = trainable_parameters(model)
        step.check(self._parameters)
        require_alike(gradient, self._parameters, "the reference gradient")
        squares = _mean_squares(model, typical(reference))
        self._direction = {n: step.direction(n, g, squares.pop(n, None)) for n, g in gradient.items()}
        self._weights = {n: p.detach().clone() for n, p in self._parameters.items()}
        direction, weights, whole_gradient = whole(self._direction), whole(self._weights), whole(gradient)
        at_rest, decay = whole_step(step).at_rest, step.decay
        self._rate = step.learning_rate * (1 - step.beta1)  # of ⟨u, g⟩; the moments are not held
        # I(∅), nats: the part of every score that comes from momentum (and weight decay)
        self.momentum_influence = math.fsum(
            float(at_rest(n, g).sum()) + decay(n, weights[n], g) for n, g in whole_gradient.items()
        )
        slope = sum(float((u.double() * whole_gradient[n]).sum()) for n, u in direction.items())
        if not slope:
            raise InputError("the reference gradient is zero: no direction lowers the reference loss")
        dtype = next(iter(self._parameters.values())).dtype
        if dtype not in REFERENCE_LOSS_CHANGE:
            raise InputError(f"directional runs in float64, float32 or bfloat16, not in {dtype}; or use taylor")
        self.h = (REFERENCE_LOSS_CHANGE[dtype] if change is None else change) / slope

    @torch.no_grad()
    def score(self, batch: Batch) -> list[Score]:
        """The Score of each example, in order; the weights are afterwards those that were given, bit for bit."""
        self._model.eval()
        examples = [example for example in batch if answer_tokens(example)]
        scores = {}
        if examples:
            try:
                above, below = (self._losses_at(sign * self.h, examples) for sign in (1, -1))
            finally:
                for name, parameter in self._parameters.items():
                    parameter.copy_(self._weights[name])
            slopes = (above - below) / (2 * self.h)  # [batch], ⟨u, g⟩
            influences = self._rate * slopes + self.momentum_influence
            for example, *found in zip(examples, influences.tolist(), ((above + below) / 2).tolist(), strict=True):
                scores[id(example)] = make_score(example, *found)
        return [scores.get(id(example)) or make_score(example, math.nan, math.nan) for example in batch]

    def _losses_at(self, distance: float, examples: Batch) -> torch.Tensor:
        """ℓ(θ + distance·u; x) of each example, `[batch]`."""
        for name, parameter in self._parameters.items():
            parameter.copy_(self._weights[name]).add_(self._direction[name], alpha=distance)
        return example_losses(self._model, examples)


def _mean_squares(model: nn.Module, examples: Sequence[Example]) -> dict[str, Tensor]:
    """The mean g² of the examples, by parameter, in float32 or wider; nothing of no examples."""
    if not examples:
        return {}
    model.eval()
    ranks = Ranks.of(model)
    squares = {
        n: torch.zeros_like(p, dtype=torch.promote_types(p.dtype, torch.float32), requires_grad=False)
        for n, p in trainable_parameters(model).items()
    }
    for example in examples:
        loss = example_loss(model, example)
        # Every rank is at the same example: one gradient of it is enough.
        found = gradients(model, loss if ranks.rank == 0 else loss * 0)
        for square, g in zip(squares.values(), found, strict=True):
            square += g.to(square.dtype).square() / len(examples)
    return squares
