"""What an estimator says about one point, and what every estimator offers."""

import math
from dataclasses import dataclass
from typing import Literal, Protocol

from montessori.data.chat import Example
from montessori.influence.batches import Batch, answer_tokens

Status = Literal["ok", "no-answer", "too-long", "not-finite"]


@dataclass(frozen=True)
class Score:
    """The influence of one training point on the reference loss."""

    id: str
    influence: float  # I(x), nats: positive when the step on x lowers the reference loss; NaN unless ok
    training_loss: float  # ℓ(θ; x), nats per answer token
    tokens: int  # answer tokens, those that the loss is the mean of
    status: Status  # why there is no influence, or "ok"


class Estimator(Protocol):
    """What `Taylor`, `Directional` and `Exact` have in common."""

    @property
    def momentum_influence(self) -> float:
        """I(∅), nats: the influence of the step with g = 0, by momentum and weight decay alone."""

    def score(self, batch: Batch) -> list[Score]:
        """The Score of each example, in order; weights and state are afterwards those that were given, bit for bit."""


def make_score(example: Example, influence: float, training_loss: float) -> Score:
    """The Score of `example`; numbers that are not finite become a status instead of an influence."""
    tokens = answer_tokens(example)
    status: Status = "not-finite" if tokens else "no-answer"
    if math.isfinite(influence) and math.isfinite(training_loss):
        status = "ok"
    return Score(example.id, influence if status == "ok" else math.nan, training_loss, tokens, status)
