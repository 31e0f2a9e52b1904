"""Local data influence: how one optimiser step on a training point changes the student's reference loss.

`taylor` and `exact` are the estimators; both offer `score` and `momentum_influence`.
"""

from montessori.influence import exact, taylor
from montessori.influence.adamw import OptimizerState, displacement, trainable_parameters
from montessori.influence.reference import (
    ReferenceGradient,
    example_loss,
    reference_gradient,
    reference_loss,
)
from montessori.influence.score import Score

__all__ = [
    "OptimizerState",
    "ReferenceGradient",
    "Score",
    "displacement",
    "exact",
    "example_loss",
    "reference_gradient",
    "reference_loss",
    "taylor",
    "trainable_parameters",
]
