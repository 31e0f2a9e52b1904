"""Influence to first order: I(x) ≈ −⟨∇L(θ), Δ(x)⟩, with the true step Δ(x).

Costs a forward and a backward pass on x and one pass over m, v and ∇L, whatever the size of the reference set.
It ranks points as `exact` does (docs/method.md has the measurement) and, unlike it, still does so with bfloat16
weights. Nothing is copied: each gradient is used up as the backward pass makes it.
Source: Montessori-Instruct (arXiv 2410.14208), section 3.2, expanded around θ.
"""

import math
from collections import defaultdict
from functools import cached_property

import torch
from torch import Tensor, nn

from montessori.influence.adamw import Gradients, require_alike, trainable_parameters
from montessori.influence.batches import Batch, answer_tokens
from montessori.influence.per_sample import PerSampleGradients
from montessori.influence.ranks import whole, whole_step
from montessori.influence.score import Score, make_score
from montessori.influence.step import Step


class Taylor:
    """Scores points by the product of their step with the reference gradient."""

    def __init__(self, model: nn.Module, step: Step, gradient: Gradients):
        """`gradient` is ∇L(θ). Raises InputError where the state or the gradient does not fit the model."""
        self._model = model
        parameters = trainable_parameters(model)
        step.check(parameters)
        require_alike(gradient, parameters, "the reference gradient")
        self._points = PerSampleGradients(model)
        self._step, self._gradient = whole_step(step), whole(gradient)
        weights = whole(parameters).items()
        self._decay = math.fsum(step.decay(n, p.detach(), self._gradient[n]) for n, p in weights)
        self._rest: dict[str, Tensor] = {}

    @cached_property
    def momentum_influence(self) -> float:
        """I(∅) = −⟨∇L, Δ(∅)⟩, nats: the part of every score that comes from momentum (and weight decay)."""
        parts = (float(self._step.at_rest(n, r).sum()) for n, r in self._gradient.items())
        return math.fsum(parts) + self._decay

    def score(self, batch: Batch) -> list[Score]:
        """The Score of each example, in order, from one forward and backward pass.

        Weights and state are not written. A point whose loss or gradient is not finite gets a status and changes
        no other score.
        """
        self._model.eval()
        examples = [example for example in batch if answer_tokens(example)]
        parts: defaultdict[int, list[Tensor]] = defaultdict(list)  # by place in `examples`: a scalar a parameter

        @torch.no_grad()
        def consume(name: str, place: int, gradient: Tensor, rows: Tensor | None) -> None:
            reference = self._gradient[name]
            parts[place].append(self._step.first_order(name, gradient, reference, rows))
            if rows is not None:  # the other rows have g = 0
                rest = self._at_rest(name)
                parts[place].append(rest.sum() - rest[rows].sum())

        losses = self._points.each(examples, consume) if examples else []
        scores = {}
        for i, (example, loss) in enumerate(zip(examples, losses, strict=True)):
            influence = math.fsum(torch.stack([part.double() for part in parts[i]]).tolist()) + self._decay
            scores[id(example)] = make_score(example, influence, loss)
        return [scores.get(id(example)) or make_score(example, math.nan, math.nan) for example in batch]

    def _at_rest(self, name: str) -> Tensor:
        """What each row of an embedding gives with g = 0, `[rows]`, float64."""
        if name not in self._rest:
            self._rest[name] = self._step.at_rest(name, self._gradient[name])
        return self._rest[name]
