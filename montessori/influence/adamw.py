"""The AdamW step that influence is about: one step on one point, from the student's own optimiser state.

    m' = β₁m + (1−β₁)g          v' = β₂v + (1−β₂)g²
    Δ  = −η·[m'/(1−β₁^(t+1))] / [√(v'/(1−β₂^(t+1))) + ε] − ηλθ

Source: Loshchilov and Hutter 2019 (decoupled weight decay), in the form of `torch.optim.AdamW`.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

TENSORS = "optimizer.safetensors"
SCALARS = "optimizer.json"


@dataclass(frozen=True)
class OptimizerState:
    """AdamW's state after warm-up, by parameter name (trainable parameters only)."""

    exp_avg: dict[str, Tensor]  # m, shaped like its parameter
    exp_avg_sq: dict[str, Tensor]  # v
    step: int  # t, steps done
    learning_rate: float  # η of the next step
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8
    weight_decay: float = 0.0

    def save(self, folder: Path) -> None:
        """Write the moments as safetensors and the scalars as JSON into `folder`."""
        tensors = {f"exp_avg.{n}": t.detach().cpu().contiguous() for n, t in self.exp_avg.items()}
        tensors |= {f"exp_avg_sq.{n}": t.detach().cpu().contiguous() for n, t in self.exp_avg_sq.items()}
        save_file(tensors, folder / TENSORS)
        scalars = {
            "step": self.step,
            "learning_rate": self.learning_rate,
            "beta1": self.beta1,
            "beta2": self.beta2,
            "epsilon": self.epsilon,
            "weight_decay": self.weight_decay,
        }
        (folder / SCALARS).write_text(json.dumps(scalars, indent=2) + "\n")

    @classmethod
    def load(cls, folder: Path, device: torch.device | str = "cpu") -> Self:
        """The state that `save` wrote, its tensors on `device`."""
        tensors = load_file(folder / TENSORS, device=str(device))
        pick = lambda kind: {  # noqa: E731
            n.removeprefix(kind + "."): t for n, t in tensors.items() if n.startswith(kind + ".")
        }
        return cls(pick("exp_avg"), pick("exp_avg_sq"), **json.loads((folder / SCALARS).read_text()))


def displacement(parameter: Tensor, gradient: Tensor | None, name: str, state: OptimizerState) -> Tensor:
    """Δ for one parameter: how far an AdamW step with `gradient` (None: zero) moves it. Same shape and dtype."""
    m = state.exp_avg[name] * state.beta1
    v = state.exp_avg_sq[name] * state.beta2
    if gradient is not None:
        m = m + (1 - state.beta1) * gradient
        v = v + (1 - state.beta2) * gradient * gradient
    m_hat = m / (1 - state.beta1 ** (state.step + 1))
    v_hat = v / (1 - state.beta2 ** (state.step + 1))
    delta = -state.learning_rate * m_hat / (v_hat.sqrt() + state.epsilon)
    if state.weight_decay:
        delta = delta - state.learning_rate * state.weight_decay * parameter
    return delta
