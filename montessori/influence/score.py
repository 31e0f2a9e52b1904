"""What an estimator says about one point, and the loss and gradient that every estimator starts from."""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from montessori.chat import Example
from montessori.influence.reference import answer_tokens, example_loss

Status = Literal["ok", "no-answer", "not-finite"]


@dataclass(frozen=True)
class Score:
    """The influence of one training point on the reference loss."""

    id: str
    influence: float  # I(x), nats: positive when the step on x lowers the reference loss; NaN unless ok
    training_loss: float  # ℓ(θ; x), nats per answer token
    tokens: int  # answer tokens, those that the loss is the mean of
    status: Status  # why there is no influence, or "ok"


def make_score(example: Example, influence: float, training_loss: float) -> Score:
    """The Score of `example`; numbers that are not finite become a status instead of an influence."""
    tokens = answer_tokens(example)
    status: Status = "not-finite" if tokens else "no-answer"
    if math.isfinite(influence) and math.isfinite(training_loss):
        status = "ok"
    return Score(example.id, influence if status == "ok" else math.nan, training_loss, tokens, status)


def loss_and_gradient(
    model: nn.Module, parameters: dict[str, nn.Parameter], example: Example
) -> tuple[float, tuple[Tensor, ...] | None]:
    """ℓ(θ; x), and ∇ℓ in the order of `parameters`: None where the loss is not finite and has no gradient."""
    if not answer_tokens(example):
        return math.nan, None
    loss = example_loss(model, example)
    training_loss = loss.item()
    if not math.isfinite(training_loss):
        return training_loss, None
    return training_loss, torch.autograd.grad(loss, list(parameters.values()), materialize_grads=True)
