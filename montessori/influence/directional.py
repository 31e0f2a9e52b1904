"""Estimate influence from two forward passes, by a directional derivative of the point's loss.

With one v' for all points, I(x) to first order is linear in g:

    I(x) ≈ I(∅) + η(1−β₁)⟨u, g⟩                 u = ∇L / [(√(v'/(1−β₂^(t+1))) + ε)(1−β₁^(t+1))]
    ⟨u, g⟩ = dℓ(θ + hu; x)/dh ≈ [ℓ(θ + hu; x) − ℓ(θ − hu; x)] / 2h

Here v' = β₂v + (1−β₂)·q. In the place of a point's own g², q is the mean g² of a few reference examples. Without q all
influences are too large, by a seventh after 800 steps.

A point needs no backward pass. So batches may have any size, with the activations of inference. This is the choice for
millions of points. The weights are changed and restored, from a clone of the trainable ones. The clone and u stay in
memory.

Source: Montessori-Instruct (arXiv 2410.14208), section 3.2, expanded around θ. The difference is central.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from montessori.data.chat import Example
from montessori.errors import InputError
from montessori.influence.adamw import Gradients, require_same_shapes, trainable_parameters
from montessori.influence.batches import Batch, answer_tokens
from montessori.influence.distributed import RankGroup, gradients, unsharded, unsharded_step
from montessori.influence.reference import example_loss, example_losses
from montessori.influence.score import Score, make_score
from montessori.influence.step import Step

# The step h changes the reference loss by this much (nats, to first order). With a smaller h the rounding of the losses
# dominates the error, with a larger h the third derivative. docs/results/influence.md has the error by this number.
REFERENCE_LOSS_CHANGE = {torch.float64: 1e-4, torch.float32: 3e-3, torch.bfloat16: 3e-1}
TYPICAL_EXAMPLES = 8  # q is the mean over so many examples; 32 gave the same agreement with `exact`


def typical_examples(reference: Sequence[Example]) -> list[Example]:
    """Return the examples whose gradients make q, spread over `reference`."""
    return [example for example in reference if answer_tokens(example)][:: -(-len(reference) // TYPICAL_EXAMPLES) or 1]


class Directional:
    """Score points by the change of ℓ along u."""

    def __init__(
        self,
        model: nn.Module,
        step: Step,
        gradient: Gradients,
        reference: Sequence[Example] = (),
        *,
        change: float | None = None,
    ):
        """Prepare u and h from `gradient` ∇L(θ) and its examples `reference`. Without examples v' is v before the step.

        `change` is the change of the reference loss that sets h (default: by the weights' dtype). Raises InputError
        where the state or the gradient does not fit the model, where the gradient is zero, or where the weights are
        neither float64, float32 nor bfloat16.
        """
        self._model = model
        self._parameters = trainable_parameters(model)
        step.check(self._parameters)
        require_same_shapes(gradient, self._parameters, "the reference gradient")
        squares = _mean_squares(model, typical_examples(reference))
        self._direction = {n: step.direction(n, g, squares.pop(n, None)) for n, g in gradient.items()}
        self._weights = {n: p.detach().clone() for n, p in self._parameters.items()}
        direction, weights, whole_gradient = unsharded(self._direction), unsharded(self._weights), unsharded(gradient)
        zero_gradient_rows, decay = unsharded_step(step).zero_gradient_rows, step.decay
        self._rate = step.learning_rate * (1 - step.beta1)  # the factor of ⟨u, g⟩; `step` itself would keep its moments
        # I(∅), nats: the share of momentum and weight decay in every score
        self.momentum_influence = math.fsum(
            float(zero_gradient_rows(n, g).sum()) + decay(n, weights[n], g) for n, g in whole_gradient.items()
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
        """Return the Score of each example, in order. Afterwards the weights are restored bit for bit."""
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
            losses = (above + below) / 2
            for example, influence, loss in zip(examples, influences.tolist(), losses.tolist(), strict=True):
                scores[id(example)] = make_score(example, influence, loss)
        return [scores.get(id(example)) or make_score(example, math.nan, math.nan) for example in batch]

    def _losses_at(self, distance: float, examples: Batch) -> torch.Tensor:
        """Return ℓ(θ + distance·u; x) of each example, `[batch]`."""
        for name, parameter in self._parameters.items():
            parameter.copy_(self._weights[name]).add_(self._direction[name], alpha=distance)
        return example_losses(self._model, examples)


def _mean_squares(model: nn.Module, examples: Sequence[Example]) -> dict[str, Tensor]:
    """Return the mean g² of the examples by parameter, in float32 or wider. Empty without examples."""
    if not examples:
        return {}
    model.eval()
    group = RankGroup.of(model)
    squares = {
        n: torch.zeros_like(p, dtype=torch.promote_types(p.dtype, torch.float32), requires_grad=False)
        for n, p in trainable_parameters(model).items()
    }
    for example in examples:
        loss = example_loss(model, example)
        # All ranks work on the same example, and `gradients` sums over ranks: only the first may contribute.
        example_gradients = gradients(model, loss if group.rank == 0 else loss * 0)
        for square, g in zip(squares.values(), example_gradients, strict=True):
            square += g.to(square.dtype).square() / len(examples)
    return squares
