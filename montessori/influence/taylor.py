"""Influence to first order: I(x) ≈ −⟨∇L(θ), Δ(x)⟩, with the true AdamW step Δ(x).

Costs a forward and a backward pass on x, whatever the size of the reference set. It ranks points as `exact`
does (docs/method.md has the measurement) and, unlike it, still does so with bfloat16 weights.
Source: Montessori-Instruct (arXiv 2410.14208), section 3.2, expanded around θ.
"""

import math
from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor, nn

from montessori.chat import Example
from montessori.influence.adamw import (
    Gradients,
    OptimizerState,
    displacement,
    require_alike,
    trainable_parameters,
)
from montessori.influence.score import Score, loss_and_gradient, make_score


def score(model: nn.Module, state: OptimizerState, gradient: Gradients, examples: Iterable[Example]) -> Iterator[Score]:
    """The Score of each example, in order. `gradient` is ∇L(θ) from `reference_gradient`.

    Weights and state are never written; the model is left in evaluation mode. A point whose loss or gradient
    is not finite gets a status and changes no other score. Raises InputError where state or gradient does not
    fit the model.
    """
    _check(model, state, gradient)
    return (_score(model, state, gradient, example) for example in examples)


def momentum_influence(model: nn.Module, state: OptimizerState, gradient: Gradients) -> float:
    """I(∅) = −⟨∇L, Δ(∅)⟩, nats: the part of every score that comes from momentum (and weight decay)."""
    _check(model, state, gradient)
    return _first_order(trainable_parameters(model), None, state, gradient)


def _score(model: nn.Module, state: OptimizerState, gradient: Gradients, example: Example) -> Score:
    parameters = trainable_parameters(model)
    training_loss, gradients = loss_and_gradient(model, parameters, example)
    if gradients is None:
        return make_score(example, math.nan, training_loss)
    return make_score(example, _first_order(parameters, gradients, state, gradient), training_loss)


@torch.no_grad()
def _first_order(
    parameters: dict[str, nn.Parameter],
    gradients: Sequence[Tensor] | None,
    state: OptimizerState,
    reference: Gradients,
) -> float:
    """−⟨∇L, Δ⟩, summed in float64, for the step with `gradients` (None: zero)."""
    products = []
    for i, (name, parameter) in enumerate(parameters.items()):
        delta = displacement(parameter, gradients[i] if gradients else None, name, state)
        products.append(delta.mul_(reference[name]).sum(dtype=torch.float64))
    return -float(torch.stack(products).sum())


def _check(model: nn.Module, state: OptimizerState, gradient: Gradients) -> None:
    parameters = trainable_parameters(model)
    state.check(parameters)
    require_alike(gradient, parameters, "the reference gradient")
    model.eval()
