"""The AdamW step that influence is about: one step on one point, from the student's own optimiser state.

    m' = β₁m + (1−β₁)g          v' = β₂v + (1−β₂)g²
    Δ  = −η·[m'/(1−β₁^(t+1))] / [√(v'/(1−β₂^(t+1))) + ε] − ηλθ

Source: Loshchilov and Hutter 2019 (decoupled weight decay), in the form of `torch.optim.AdamW`.
"""

import json
import math
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Self

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from montessori.errors import InputError

TENSORS = "optimizer.safetensors"
SCALARS = "optimizer.json"

Gradients = dict[str, Tensor]  # by parameter name, each shaped like its parameter


def trainable_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that a training step moves, by name: all of them, or the adapters of a LoRA model."""
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


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
    no_decay: tuple[str, ...] = ()  # parameters without weight decay: a Trainer leaves out norms and biases

    @classmethod
    def of(cls, optimizer: torch.optim.Optimizer, model: nn.Module) -> Self:
        """The state of a `torch.optim.AdamW` that trained `model`; the moments are shared, not copied.

        Raises InputError where a parameter has no state or the groups differ in more than whether they decay.
        """
        parameters = trainable_parameters(model)
        for name, parameter in parameters.items():
            if not optimizer.state.get(parameter):
                raise InputError(f"the optimiser holds no state of {name}: it has not taken a step on it")
        states = {n: optimizer.state[p] for n, p in parameters.items()}
        group_of = {p: group for group in optimizer.param_groups for p in group["params"]}
        groups = {n: group_of[p] for n, p in parameters.items()}
        scalars = {
            (int(states[n]["step"]), float(group["lr"]), *group["betas"], group["eps"]) for n, group in groups.items()
        }
        decays = {group["weight_decay"] for group in groups.values()} - {0.0}
        if len(scalars) != 1 or len(decays) > 1:
            raise InputError("the optimiser's parameters differ in step count, learning rate, betas or decay")
        step, learning_rate, beta1, beta2, epsilon = scalars.pop()
        return cls(
            exp_avg={n: s["exp_avg"] for n, s in states.items()},
            exp_avg_sq={n: s["exp_avg_sq"] for n, s in states.items()},
            step=step,
            learning_rate=learning_rate,
            beta1=beta1,
            beta2=beta2,
            epsilon=epsilon,
            weight_decay=max(decays, default=0.0),
            no_decay=tuple(n for n, group in groups.items() if decays and not group["weight_decay"]),
        )

    def check(self, parameters: dict[str, nn.Parameter]) -> None:
        """Raise InputError unless the moments are those of `parameters`: the same names and shapes."""
        for moments in (self.exp_avg, self.exp_avg_sq):
            require_alike(moments, parameters, "the optimiser state")

    def save(self, folder: Path) -> None:
        """Write the moments as safetensors and the scalars as JSON into `folder`."""
        tensors = {f"exp_avg.{n}": t.detach().cpu().contiguous() for n, t in self.exp_avg.items()}
        tensors |= {f"exp_avg_sq.{n}": t.detach().cpu().contiguous() for n, t in self.exp_avg_sq.items()}
        save_file(tensors, folder / TENSORS)
        scalars = {f.name: getattr(self, f.name) for f in fields(self) if not f.name.startswith("exp_avg")}
        (folder / SCALARS).write_text(json.dumps(scalars, indent=2) + "\n")

    @classmethod
    def load(cls, folder: Path, device: torch.device | str = "cpu") -> Self:
        """The state that `save` wrote, its tensors on `device`."""
        tensors = load_file(folder / TENSORS, device=str(device))
        m = {n.removeprefix("exp_avg."): t for n, t in tensors.items() if n.startswith("exp_avg.")}
        v = {n.removeprefix("exp_avg_sq."): t for n, t in tensors.items() if n.startswith("exp_avg_sq.")}
        scalars = json.loads((folder / SCALARS).read_text())
        scalars["no_decay"] = tuple(scalars["no_decay"])
        return cls(m, v, **scalars)


def displacement(parameter: Tensor, gradient: Tensor | None, name: str, state: OptimizerState) -> Tensor:
    """Δ for one parameter: how far an AdamW step with `gradient` (None: zero) moves it.

    Shaped like `parameter`, in float32 or wider: a bfloat16 step would round away what tells points apart.
    """
    dtype = torch.promote_types(parameter.dtype, torch.float32)
    m = state.exp_avg[name].to(dtype)
    v = state.exp_avg_sq[name].to(dtype) * state.beta2
    if gradient is None:
        m = m * state.beta1
    else:
        g = gradient.to(dtype)
        m = torch.lerp(m, g, 1 - state.beta1)
        v = v.addcmul_(g, g, value=1 - state.beta2)
    # √(1−β₂^(t+1)) is multiplied through the fraction, so that each tensor is passed over once less.
    root = math.sqrt(1 - state.beta2 ** (state.step + 1))
    scale = state.learning_rate * root / (1 - state.beta1 ** (state.step + 1))
    delta = m.div_(v.sqrt_().add_(state.epsilon * root)).mul_(-scale)
    if state.weight_decay and name not in state.no_decay:
        delta.sub_(parameter, alpha=state.learning_rate * state.weight_decay)
    return delta


def require_alike(tensors: dict[str, Tensor], parameters: dict[str, nn.Parameter], what: str) -> None:
    """Raise InputError, naming a parameter, unless `tensors` has one of its shape for each parameter."""
    differing = sorted(tensors.keys() ^ parameters.keys())
    if differing:
        raise InputError(f"{what} does not fit the model: only one of them has {differing[0]}")
    for name, parameter in parameters.items():
        if tensors[name].shape != parameter.shape:
            raise InputError(
                f"{what} does not fit the model: {name} is {list(tensors[name].shape)} there, "
                f"{list(parameter.shape)} in the model"
            )
