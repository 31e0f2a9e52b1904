"""Compute local data influence: the change of the student's reference loss by one optimizer step on a training point.

    from montessori.data import chat, rows
    from montessori.models import loading
    from montessori.settings.data import DataSource

    model, tokenizer = loading.load_model("warm/model"), loading.load_tokenizer("warm/model")

    def examples(file):
        points = rows.read(DataSource(source=file), "points")    # checked: id, instruction or messages, response
        return chat.encode_pairs(tokenizer, points, max_length=1024).examples

    points, reference = examples("points.jsonl"), examples("reference.jsonl")
    step = OptimizerState.load("warm")                         # or .of(optimizer, model), or GradientDescent(5e-6)
    gradient, loss = reference_gradient(model, reference)      # by parameter name; nats/token
    estimator = Taylor(model, step, gradient)                  # or Directional; or Exact(model, step, reference)
    scores = [score for batch in make_batches(points) for score in estimator.score(batch)]

A `Score` has `id`, `influence` (nats/token saved on the reference set), `training_loss`, `tokens` and `status`. Scores
come in the order of the batches, and a batch holds points of similar length.

`Exact` computes influence by its definition. `Taylor` computes the effect of the step to first order. `Directional`
does the same with one fixed v for all points. Wrong input raises an InputError (montessori.errors).

`montessori.influence.sharded` scores with a student too large for one GPU. `montessori.influence.memory` says how much
memory each estimator needs.
"""

from montessori.influence.adamw import OptimizerState, trainable_parameters
from montessori.influence.batches import TOKEN_BUDGET, make_batches
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
    "make_batches",
    "reference_gradient",
    "reference_loss",
    "trainable_parameters",
]
