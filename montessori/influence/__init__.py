"""Local data influence: how one optimiser step on a training point changes the student's reference loss.

    model, tokenizer = load_model("warm/model"), load_tokenizer("warm/model")        # montessori.models
    points = encode_pairs(tokenizer, rows, max_length=1024).examples                   # montessori.chat
    step = OptimizerState.load(Path("warm"))                                           # or GradientDescent(5e-6)
    gradient, loss = reference_gradient(model, reference)
    estimator = Taylor(model, step, gradient)                # or Directional; or Exact(model, step, reference)
    scores = [score for batch in plan(points) for score in estimator.score(batch)]

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
