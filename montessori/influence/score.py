"""Define the score of one point and the interface of every estimator."""

import math
from dataclasses import dataclass
from typing import Literal, Protocol

from montessori.data.chat import Example
from montessori.influence.batches import Batch, answer_tokens

Status = Literal["ok", "no-answer", "too-long", "not-finite"]


@dataclass(frozen=True)
class Score:
    """Hold the influence of one training point on the reference loss."""

    id: str
    influence: float  # I(x), nats: positive when the step on x lowers the reference loss; NaN unless ok
    training_loss: float  # ℓ(θ; x), nats per answer token
    tokens: int  # answer tokens; the loss is the mean over them
    status: Status  # "ok", or the reason for the missing influence


class Estimator(Protocol):
    """Score batches of points. `Taylor`, `Directional` and `Exact` implement this interface."""

    @property
    def momentum_influence(self) -> float:
        """Return I(∅), nats, the influence of the step with g = 0, by momentum and weight decay alone."""

    def score(self, batch: Batch) -> list[Score]:
        """Return the Score of each example, in order. Afterwards weights and state are unchanged, bit for bit."""


def make_score(example: Example, influence: float, training_loss: float) -> Score:
    """Return the Score of `example`. Numbers that are not finite become a status instead of an influence."""
    tokens = answer_tokens(example)
    status: Status = "not-finite" if tokens else "no-answer"
    if math.isfinite(influence) and math.isfinite(training_loss):
        status = "ok"
    influence = influence if status == "ok" else math.nan
    return Score(example.id, influence, training_loss=training_loss, tokens=tokens, status=status)
