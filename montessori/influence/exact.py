"""Influence as it is defined: I(x) = L(θ) − L(θ + Δ(x)), by taking the optimiser's step on x and undoing it.

Costs a forward and a backward pass on x and a forward pass over the whole reference set, and one clone of the
trainable weights in memory. It is the check on the other estimators; it needs float32 weights.
Source: Montessori-Instruct (arXiv 2410.14208), section 3.2, equations for the local data influence.
"""

import math
from collections.abc import Sequence
from functools import cached_property

import torch
from torch import Tensor, nn

from montessori.data.chat import Example
from montessori.errors import InputError
from montessori.influence.adamw import trainable_parameters
from montessori.influence.batches import TOKEN_BUDGET, Batch, answer_tokens
from montessori.influence.ranks import Ranks, gradients
from montessori.influence.reference import example_loss, reference_loss, require_finite
from montessori.influence.score import Score, make_score
from montessori.influence.step import Step


class Exact:
    """Takes each point's step and measures the reference loss after it."""

    def __init__(
        self,
        model: nn.Module,
        step: Step,
        reference_examples: Sequence[Example],
        token_budget: int = TOKEN_BUDGET,
        narrow_weights: bool = False,
    ):
        """`token_budget` bounds the padded tokens of a reference batch.

        Raises InputError when the weights are narrower than float32 (unless `narrow_weights` asks for that noise) or
        the state does not fit, StageError when the reference loss is not finite to begin with.
        """
        if not narrow_weights:
            _require_float32(model)
        self._model, self._step, self._ranks = model, step, Ranks.of(model)
        self._parameters = trainable_parameters(model)
        step.check(self._parameters)
        self._reference, self._token_budget = reference_examples, token_budget
        self._weights = [p.detach().clone() for p in self._parameters.values()]
        self.reference_loss, self._losses = reference_loss(model, reference_examples, token_budget)
        require_finite(reference_examples, self._losses)

    @cached_property
    def momentum_influence(self) -> float:
        """I(∅) = L(θ) − L(θ + Δ(∅)), nats: what the step with g = 0 does by momentum (and weight decay) alone."""
        return self._lowered_by_step(None)

    def score(self, batch: Batch) -> list[Score]:
        """The Score of each example, in order.

        When it returns or raises, the weights are those that were given, bit for bit. A point whose loss, gradient
        or step is not finite gets a status and changes no other score.
        """
        self._model.eval()
        return [self._score(example) for example in batch]

    def _score(self, example: Example) -> Score:
        if not answer_tokens(example):
            return make_score(example, math.nan, math.nan)
        loss = example_loss(self._model, example)
        if not math.isfinite(loss.item()):
            return make_score(example, math.nan, loss.item())
        # Every rank is at the same point: one gradient of it is enough.
        found = gradients(self._model, loss if self._ranks.rank == 0 else loss * 0)
        return make_score(example, self._lowered_by_step(found), loss.item())

    @torch.no_grad()
    def _lowered_by_step(self, gradients: Sequence[Tensor] | None) -> float:
        """L(θ) − L(θ + Δ) for the step with `gradients` (None: zero); the weights are put back."""
        try:
            for i, (name, parameter) in enumerate(self._parameters.items()):
                parameter.add_(self._step.displacement(name, parameter, gradients[i] if gradients else None))
            _, after = reference_loss(self._model, self._reference, self._token_budget)
        finally:
            for parameter, weights in zip(self._parameters.values(), self._weights, strict=True):
                parameter.copy_(weights)
        # Differences first: the two losses share their leading digits, and a sum of losses would round them off.
        if not all(map(math.isfinite, after)):
            return math.nan
        return math.fsum(b - a for b, a in zip(self._losses, after, strict=True)) / len(after)


def _require_float32(model: nn.Module) -> None:
    # All parameters, frozen ones too: a narrow base model rounds the reference loss itself.
    wide = (torch.float32, torch.float64)
    narrow = next((n for n, p in model.named_parameters() if p.dtype not in wide), None)
    if narrow is not None:
        raise InputError(
            f"estimator exact needs float32 weights, and {narrow} is not: in bfloat16 half a unit in the last place "
            "of a 0.03 weight is 6e-5 while a step is 5e-6, so scores would be rounding noise; load the student in "
            "float32, or use taylor"
        )
