"""Compute influence by its definition, I(x) = L(θ) − L(θ + Δ(x)), by taking the optimizer step on x and undoing it.

Each point costs a forward and a backward pass on x and a forward pass over the whole reference set. One clone of the
trainable weights stays in memory. This estimator checks the other ones. It needs float32 weights.

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
from montessori.influence.distributed import RankGroup, gradients
from montessori.influence.reference import example_loss, reference_loss, require_finite
from montessori.influence.score import Score, make_score
from montessori.influence.step import Step


class Exact:
    """Score points by taking each one's step and measuring the reference loss after it."""

    def __init__(
        self,
        model: nn.Module,
        step: Step,
        reference_examples: Sequence[Example],
        token_budget: int = TOKEN_BUDGET,
        *,
        narrow_weights: bool = False,
    ):
        """Measure the reference loss before any step. `token_budget` limits the padded tokens of a reference batch.

        Raises InputError when the weights are narrower than float32 (unless `narrow_weights` accepts the noise) or when
        the state does not fit the model. Raises StageError when the reference loss is not finite.
        """
        if not narrow_weights:
            _require_float32(model)
        self._model, self._step, self._group = model, step, RankGroup.of(model)
        self._parameters = trainable_parameters(model)
        step.check(self._parameters)
        self._reference, self._token_budget = reference_examples, token_budget
        self._weights = [p.detach().clone() for p in self._parameters.values()]
        self.reference_loss, self._losses = reference_loss(model, reference_examples, token_budget)
        require_finite(reference_examples, self._losses)

    @cached_property
    def momentum_influence(self) -> float:
        """Return I(∅) = L(θ) − L(θ + Δ(∅)), nats, the effect of the step with g = 0.

        The step moves the weights by momentum and weight decay alone.
        """
        return self._loss_decrease(None)

    def score(self, batch: Batch) -> list[Score]:
        """Return the Score of each example, in order.

        The weights are restored bit for bit, also after an error. A point whose loss, gradient or step is not finite
        gets a status and changes no other score.
        """
        self._model.eval()
        return [self._score(example) for example in batch]

    def _score(self, example: Example) -> Score:
        if not answer_tokens(example):
            return make_score(example, math.nan, math.nan)
        loss = example_loss(self._model, example)
        if not math.isfinite(loss.item()):
            return make_score(example, math.nan, loss.item())
        # All ranks work on the same point, and `gradients` sums over ranks: only the first may contribute.
        point_gradients = gradients(self._model, loss if self._group.rank == 0 else loss * 0)
        return make_score(example, self._loss_decrease(point_gradients), loss.item())

    @torch.no_grad()
    def _loss_decrease(self, gradients: Sequence[Tensor] | None) -> float:
        """Return L(θ) − L(θ + Δ) for the step with `gradients` (None: zero), and restore the weights."""
        try:
            for i, (name, parameter) in enumerate(self._parameters.items()):
                parameter.add_(self._step.displacement(name, parameter, gradients[i] if gradients else None))
            _, after = reference_loss(self._model, self._reference, self._token_budget)
        finally:
            for parameter, weights in zip(self._parameters.values(), self._weights, strict=True):
                parameter.copy_(weights)
        # Subtract example by example: the difference of two sums of losses would lose its digits to rounding.
        if not all(map(math.isfinite, after)):
            return math.nan
        return math.fsum(b - a for b, a in zip(self._losses, after, strict=True)) / len(after)


def _require_float32(model: nn.Module) -> None:
    # Frozen parameters count too: a narrow base model rounds the reference loss.
    wide = (torch.float32, torch.float64)
    narrow = next((n for n, p in model.named_parameters() if p.dtype not in wide), None)
    if narrow is not None:
        raise InputError(
            f"estimator exact needs float32 weights, and {narrow} is not: in bfloat16 half a unit in the last place "
            "of a 0.03 weight is 6e-5 while a step is 5e-6, so scores would be rounding noise; load the student in "
            "float32, or use taylor"
        )
