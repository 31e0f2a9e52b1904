"""Local data influence: how one optimiser step on a training point changes the student's reference loss."""

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
from montessori.influence.score import Score
from montessori.influence.step import GradientDescent, Step
from montessori.influence.taylor import Taylor

__all__ = [
    "TOKEN_BUDGET",
    "Directional",
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
