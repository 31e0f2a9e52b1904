"""Influence from two forward passes: the derivative of ℓ(θ; x) along the direction that lowers the reference loss.

With v as it is before the step (the point's own g² left out of it), I(x) to first order is linear in g:

    I(x) ≈ η[(1−β₁)⟨u, g⟩ + β₁⟨u, m⟩] + ηλ⟨∇L, θ⟩        u = ∇L / [(√v̂ + ε)(1−β₁^(t+1))]
    ⟨u, g⟩ = dℓ(θ + hu; x)/dh ≈ [ℓ(θ + hu; x) − ℓ(θ − hu; x)] / 2h

No backward pass on a point, so batches of any size and the activations of inference; the choice for millions of
points. The weights are written and put back: a clone of the trainable ones and u are kept beside them.
Source: Montessori-Instruct (arXiv 2410.14208), section 3.2, expanded around θ; central difference.
"""

import math

import torch
from torch import nn

from montessori.errors import InputError
from montessori.influence.adamw import Gradients, require_alike, trainable_parameters
from montessori.influence.batches import Batch, answer_tokens
from montessori.influence.ranks import whole, whole_step
from montessori.influence.reference import example_losses
from montessori.influence.score import Score, make_score
from montessori.influence.step import Step

# h moves the reference loss by this much, nats, to first order. Smaller, and the losses' rounding shows; larger, and
# the third derivative does: docs/results.md has the error by this number.
REFERENCE_LOSS_CHANGE = {torch.float64: 1e-4, torch.float32: 3e-3, torch.bfloat16: 3e-1}


class Directional:
    """Scores points by how ℓ changes along u."""

    def __init__(self, model: nn.Module, step: Step, gradient: Gradients, change: float | None = None):
        """`gradient` is ∇L(θ); `change` the move of the reference loss that sets h (default: by the weights' dtype).

        Raises InputError where the state or the gradient does not fit the model, where the gradient is zero, or the
        weights are neither float64, float32 nor bfloat16.
        """
        self._model = model
        self._parameters = trainable_parameters(model)
        step.check(self._parameters)
        require_alike(gradient, self._parameters, "the reference gradient")
        self._direction = {n: step.direction(n, g) for n, g in gradient.items()}
        self._weights = {n: p.detach().clone() for n, p in self._parameters.items()}
        direction, weights, reference = whole(self._direction), whole(self._weights), whole(gradient)
        momentum, decay = whole_step(step).momentum, step.decay
        self._rate = step.learning_rate * (1 - step.beta1)  # of ⟨u, g⟩; the moments are not held
        constant = step.learning_rate * sum(momentum(n, u) for n, u in direction.items())
        # I(∅), nats: the part of every score that comes from momentum (and weight decay)
        self.momentum_influence = constant + sum(decay(n, weights[n], g) for n, g in reference.items())
        slope = sum(float((u.double() * reference[n]).sum()) for n, u in direction.items())
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
