"""Influence as it is defined: I(x) = L(θ) − L(θ + Δ(x)), by taking the AdamW step on x and undoing it.

Costs a forward and a backward pass on x and a forward pass over the whole reference set, and one clone of the
trainable weights in memory. It is the check on `taylor`; it needs float32 weights.
Source: Montessori-Instruct (arXiv 2410.14208), section 3.2, equations for the local data influence.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from montessori.chat import Example
from montessori.errors import InputError
from montessori.influence.adamw import OptimizerState, displacement, trainable_parameters
from montessori.influence.reference import reference_loss, require_finite
from montessori.influence.score import Score, loss_and_gradient, make_score


@dataclass(frozen=True)
class _Before:
    """The student as it is before any step."""

    parameters: dict[str, nn.Parameter]
    weights: list[Tensor]  # a clone of each parameter
    losses: list[float]  # of each reference example


def score(
    model: nn.Module,
    state: OptimizerState,
    reference_examples: Sequence[Example],
    examples: Iterable[Example],
) -> Iterator[Score]:
    """The Score of each example, in order.

    When a Score is handed over the weights are again those that were given, bit for bit; the state is never
    written; the model is left in evaluation mode. A point whose loss, gradient or step is not finite gets a
    status and changes no other score. Raises InputError when the weights are narrower than float32 or the
    state does not fit, StageError when the reference loss is not finite to begin with.
    """
    before = _before(model, state, reference_examples)
    return (_score(model, state, reference_examples, before, example) for example in examples)


def momentum_influence(model: nn.Module, state: OptimizerState, reference_examples: Sequence[Example]) -> float:
    """I(∅) = L(θ) − L(θ + Δ(∅)), nats: what the step with g = 0 does by momentum (and weight decay) alone."""
    before = _before(model, state, reference_examples)
    return _lowered_by_step(model, state, reference_examples, before, None)


def _score(
    model: nn.Module,
    state: OptimizerState,
    reference_examples: Sequence[Example],
    before: _Before,
    example: Example,
) -> Score:
    training_loss, gradients = loss_and_gradient(model, before.parameters, example)
    if gradients is None:
        return make_score(example, math.nan, training_loss)
    influence = _lowered_by_step(model, state, reference_examples, before, gradients)
    return make_score(example, influence, training_loss)


@torch.no_grad()
def _lowered_by_step(
    model: nn.Module,
    state: OptimizerState,
    reference_examples: Sequence[Example],
    before: _Before,
    gradients: Sequence[Tensor] | None,
) -> float:
    """L(θ) − L(θ + Δ) for the step with `gradients` (None: zero); the weights are put back."""
    try:
        for i, (name, parameter) in enumerate(before.parameters.items()):
            parameter.add_(displacement(parameter, gradients[i] if gradients else None, name, state))
        _, after = reference_loss(model, reference_examples)
    finally:
        for parameter, weights in zip(before.parameters.values(), before.weights, strict=True):
            parameter.copy_(weights)
    # Differences first: the two losses share their leading digits, and a sum of losses would round them off.
    if not all(map(math.isfinite, after)):
        return math.nan
    return math.fsum(b - a for b, a in zip(before.losses, after, strict=True)) / len(after)


def _before(model: nn.Module, state: OptimizerState, reference_examples: Sequence[Example]) -> _Before:
    # All parameters, frozen ones too: a narrow base model rounds the reference loss itself.
    wide = (torch.float32, torch.float64)
    narrow = next((n for n, p in model.named_parameters() if p.dtype not in wide), None)
    if narrow is not None:
        raise InputError(
            f"influence.estimator=exact needs float32 weights, and {narrow} is not: in bfloat16 half a unit "
            "in the last place of a 0.03 weight is 6e-5 while a step is 5e-6, so scores would be rounding "
            "noise; set student.dtype=float32 or influence.estimator=taylor"
        )
    parameters = trainable_parameters(model)
    state.check(parameters)
    _, losses = reference_loss(model, reference_examples)
    require_finite(reference_examples, losses)
    return _Before(parameters, [p.detach().clone() for p in parameters.values()], losses)
