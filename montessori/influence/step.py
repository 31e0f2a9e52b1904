"""What an estimator needs of an optimiser: the step that it takes on a point. AdamW's is in `adamw`, the plain one
here.
"""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn


class Step(Protocol):
    """One optimiser step with the gradient of one point, by parameter name."""

    @property
    def learning_rate(self) -> float:
        """η of the step."""

    @property
    def beta1(self) -> float:
        """Share of the old first moment in the new one."""

    def check(self, parameters: dict[str, nn.Parameter]) -> None:
        """Raise InputError unless the state is that of `parameters`."""

    def displacement(self, name: str, parameter: Tensor, gradient: Tensor | None) -> Tensor:
        """Δ of one parameter."""

    def first_order(self, name: str, gradient: Tensor, reference: Tensor, rows: Tensor | None = None) -> Tensor:
        """−⟨∇L, Δ⟩ over one parameter, or `rows` of it, weight decay aside."""

    def at_rest(self, name: str, reference: Tensor) -> Tensor:
        """`first_order` with g = 0, by row of the parameter."""

    def decay(self, name: str, parameter: Tensor, reference: Tensor) -> float:
        """What weight decay adds to it."""

    def direction(self, name: str, reference: Tensor, square: Tensor | None) -> Tensor:
        """u of one parameter: what I(x) gains for each unit of g, over η(1−β₁), if `square` is every point's g²."""


@dataclass(frozen=True)
class GradientDescent:
    """θ − ηg: the step of a student that comes without an optimiser state."""

    learning_rate: float  # η
    beta1: float = 0.0

    def check(self, parameters: dict[str, nn.Parameter]) -> None:
        """Fits any model."""

    def displacement(self, name: str, parameter: Tensor, gradient: Tensor | None) -> Tensor:  # noqa: ARG002
        """−ηg, shaped like `parameter`, in float32 or wider."""
        dtype = torch.promote_types(parameter.dtype, torch.float32)
        if gradient is None:
            return torch.zeros_like(parameter, dtype=dtype)
        return gradient.to(dtype) * -self.learning_rate

    def first_order(self, name: str, gradient: Tensor, reference: Tensor, rows: Tensor | None = None) -> Tensor:  # noqa: ARG002
        """η⟨∇L, g⟩: see `OptimizerState.first_order`."""
        r = reference if rows is None else reference[rows]
        dtype = torch.promote_types(gradient.dtype, r.dtype)
        return torch.dot(gradient.reshape(-1).to(dtype), r.reshape(-1).to(dtype)) * self.learning_rate

    def at_rest(self, name: str, reference: Tensor) -> Tensor:  # noqa: ARG002
        """Zeros: without a gradient there is no step."""
        return torch.zeros(len(reference), dtype=torch.float64, device=reference.device)

    def decay(self, name: str, parameter: Tensor, reference: Tensor) -> float:  # noqa: ARG002
        """Nothing: there is no weight decay."""
        return 0.0

    def direction(self, name: str, reference: Tensor, square: Tensor | None) -> Tensor:  # noqa: ARG002
        """∇L itself."""
        return reference
