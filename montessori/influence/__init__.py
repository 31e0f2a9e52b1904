"""Local data influence: how one optimiser step on a training point changes the student's reference loss.

    from montessori.data import chat, rows
    from montessori.models import loading
    from montessori.settings.schema import DataSource

    model, tokenizer = loading.load_model("warm/model"), loading.load_tokenizer("warm/model")

    def examples(file):
        points = rows.read(DataSource(source=file), "points")    # checked: id, instruction or messages, response
        return chat.encode_pairs(tokenizer, points, max_length=1024).examples

    points, reference = examples("points.jsonl"), examples("reference.jsonl")
    step = OptimizerState.load("warm")                         # or GradientDescent(5e-6)
    gradient, loss = reference_gradient(model, reference)      # by parameter name; nats/token
    estimator = Taylor(model, step, gradient)                  # or Directional; or Exact(model, step, reference)
    scores = [score for batch in plan(points) for score in estimator.score(batch)]

A Score has `id`, `influence` (nats/token saved on the reference set), `training_loss`, `tokens` and `status`; they come
in the order of the batches, which are of points of like length. `taylor` is the step's effect to first order, as is
`directional`, which also holds v fixed; `exact` is the definition. Wrong input is an InputError (montessori.errors).

`sharded` has what a student needs that no single GPU holds, `memory` what each estimator takes.
"""

from montessori.influence.adamw import OptimizerState, trainable_parameters
from montessori.influence.batches import TOKEN_BUDGET, plan
from montessori.influence.directional import Directional
from montessori.influence.exact import Exact
from montessori.influence.reference import (
    ReferenceGradient,
    example_loss,
    reference_gradient,
    reference_loss,
)
from montessori.influence.score import Estimator, Score
from montessori.influence.step import GradientDescent, Step
from montessori.influence.taylor import Taylor

__all__ = [
    "TOKEN_BUDGET",
    "Directional",
    "Estimator",
    "Exact",
    "GradientDescent",
    "OptimizerState",
    "ReferenceGradient",
    "Score",
    "Step",
    "Taylor",
    "example_loss",
    "plan",
    "reference_gradient",
    "reference_loss",
    "trainable_parameters",
]
