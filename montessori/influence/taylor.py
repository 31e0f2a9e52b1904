"""Compute influence to first order, I(x) ≈ −⟨∇L(θ), Δ(x)⟩, with the true step Δ(x).

A point costs a forward and a backward pass on x and one pass over m, v and ∇L, whatever the size of the reference set.
This estimator ranks points as `exact` does (docs/results/influence.md has the measurement). Unlike `exact` it still
does so with bfloat16 weights. No gradient is copied. Each one is consumed as soon as the backward pass computes it.

Source: Montessori-Instruct (arXiv 2410.14208), section 3.2, expanded around θ.
"""

import math
from collections import defaultdict
from functools import cached_property

import torch
from torch import Tensor, nn

from montessori.influence.adamw import Gradients, require_same_shapes, trainable_parameters
from montessori.influence.batches import Batch, answer_tokens
from montessori.influence.distributed import unsharded, unsharded_step
from montessori.influence.per_sample import PerSampleGradients
from montessori.influence.score import Score, make_score
from montessori.influence.step import Step


class Taylor:
    """Score points by the product of their step with the reference gradient."""

    def __init__(self, model: nn.Module, step: Step, gradient: Gradients):
        """Prepare for `gradient`, which is ∇L(θ).

        Raises InputError where the state or the gradient does not fit the model.
        """
        self._model = model
        parameters = trainable_parameters(model)
        step.check(parameters)
        require_same_shapes(gradient, parameters, "the reference gradient")
        self._points = PerSampleGradients(model)
        self._step, self._gradient = unsharded_step(step), unsharded(gradient)
        weights = unsharded(parameters).items()
        self._decay = math.fsum(step.decay(n, p.detach(), self._gradient[n]) for n, p in weights)
        self._rest: dict[str, Tensor] = {}

    @cached_property
    def momentum_influence(self) -> float:
        """Return I(∅) = −⟨∇L, Δ(∅)⟩, nats. It is the share of momentum and weight decay in every score."""
        parts = (float(self._step.zero_gradient_rows(n, r).sum()) for n, r in self._gradient.items())
        return math.fsum(parts) + self._decay

    def score(self, batch: Batch) -> list[Score]:
        """Return the Score of each example, in order, from one forward and one backward pass.

        Weights and state are not changed. A point whose loss or gradient is not finite gets a status and changes no
        other score.
        """
        self._model.eval()
        examples = [example for example in batch if answer_tokens(example)]
        parts: defaultdict[int, list[Tensor]] = defaultdict(list)  # by index in `examples`: a scalar for each parameter

        @torch.no_grad()
        def consume(name: str, index: int, gradient: Tensor, rows: Tensor | None) -> None:
            reference = self._gradient[name]
            parts[index].append(self._step.first_order(name, gradient, reference, rows))
            if rows is not None:  # g = 0 in the parameter's other rows, but momentum still moves them
                rest = self._zero_gradient_rows(name)
                parts[index].append(rest.sum() - rest[rows].sum())

        losses = self._points.for_each(examples, consume) if examples else []
        scores = {}
        for i, (example, loss) in enumerate(zip(examples, losses, strict=True)):
            influence = math.fsum(torch.stack([part.double() for part in parts[i]]).tolist()) + self._decay
            scores[id(example)] = make_score(example, influence, loss)
        return [scores.get(id(example)) or make_score(example, math.nan, math.nan) for example in batch]

    def _zero_gradient_rows(self, name: str) -> Tensor:
        """Return the contribution of each row of an embedding with g = 0, `[rows]`, float64."""
        if name not in self._rest:
            self._rest[name] = self._step.zero_gradient_rows(name, self._gradient[name])
        return self._rest[name]
