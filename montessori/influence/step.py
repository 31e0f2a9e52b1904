"""Define the interface of an optimizer step, and the step of plain gradient descent. `adamw` has AdamW's step."""

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from montessori.errors import InputError


def check_rate(learning_rate: float) -> None:
    """Raise InputError unless a step with this learning rate moves the weights, and by a finite amount."""
    if not (math.isfinite(learning_rate) and learning_rate > 0):
        raise InputError(
            f"the learning rate of the step is {learning_rate:g}, and it has to be above 0 (a finished schedule leaves "
            "0); give the rate of the step with --learning-rate (in Python: dataclasses.replace(state, "
            "learning_rate=5e-6))"
        )


class Step(Protocol):
    """Compute one optimizer step with the gradient of one point, by parameter name."""

    @property
    def learning_rate(self) -> float:
        """Return η of the step."""

    @property
    def beta1(self) -> float:
        """Return the share of the old first moment in the new one."""

    def check(self, parameters: dict[str, nn.Parameter]) -> None:
        """Raise InputError unless the state fits `parameters`."""

    def displacement(self, name: str, parameter: Tensor, gradient: Tensor | None) -> Tensor:
        """Return Δ of one parameter."""

    def first_order(self, name: str, gradient: Tensor, reference: Tensor, rows: Tensor | None = None) -> Tensor:
        """Return −⟨∇L, Δ⟩ over one parameter, or over `rows` of it, without weight decay."""

    def zero_gradient_rows(self, name: str, reference: Tensor) -> Tensor:
        """Return `first_order` for g = 0, separately for each row of the parameter."""

    def decay(self, name: str, parameter: Tensor, reference: Tensor) -> float:
        """Return the share of weight decay in −⟨∇L, Δ⟩."""

    def direction(self, name: str, reference: Tensor, square: Tensor | None) -> Tensor:
        """Return u of one parameter, in which ∂I/∂g ≈ η(1−β₁)u if `square` were every point's g²."""


@dataclass(frozen=True)
class GradientDescent:
    """Take the step −ηg, for a student without an optimizer state."""

    learning_rate: float  # η
    beta1: float = 0.0

    def check(self, parameters: dict[str, nn.Parameter]) -> None:  # noqa: ARG002
        """Accept any model, and a positive learning rate."""
        check_rate(self.learning_rate)

    def displacement(self, name: str, parameter: Tensor, gradient: Tensor | None) -> Tensor:  # noqa: ARG002
        """Return −ηg, shaped like `parameter`, in float32 or wider."""
        dtype = torch.promote_types(parameter.dtype, torch.float32)
        if gradient is None:
            return torch.zeros_like(parameter, dtype=dtype)
        return gradient.to(dtype) * -self.learning_rate

    def first_order(self, name: str, gradient: Tensor, reference: Tensor, rows: Tensor | None = None) -> Tensor:  # noqa: ARG002
        """Return η⟨∇L, g⟩. See `OptimizerState.first_order`."""
        r = reference if rows is None else reference[rows]
        dtype = torch.promote_types(gradient.dtype, r.dtype)
        return torch.dot(gradient.reshape(-1).to(dtype), r.reshape(-1).to(dtype)) * self.learning_rate

    def zero_gradient_rows(self, name: str, reference: Tensor) -> Tensor:  # noqa: ARG002
        """Return zeros, because a zero gradient makes no step."""
        return torch.zeros(len(reference), dtype=torch.float64, device=reference.device)

    def decay(self, name: str, parameter: Tensor, reference: Tensor) -> float:  # noqa: ARG002
        """Return 0, because there is no weight decay."""
        return 0.0

    def direction(self, name: str, reference: Tensor, square: Tensor | None) -> Tensor:  # noqa: ARG002
        """Return ∇L itself."""
        return reference
