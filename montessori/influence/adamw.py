"""The optimiser step that influence is about: one AdamW step on one point, from the student's own optimiser state.

    m' = β₁m + (1−β₁)g          v' = β₂v + (1−β₂)g²
    Δ  = −η·[m'/(1−β₁^(t+1))] / [√(v'/(1−β₂^(t+1))) + ε] − ηλθ

Source: Loshchilov and Hutter 2019 (decoupled weight decay), in the form of `torch.optim.AdamW`.
"""

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from functools import cache, cached_property
from pathlib import Path
from typing import Self

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
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
    """AdamW's state after warm-up, by parameter name (trainable parameters only).

    The moments may be narrower than float32 to save memory (`narrowed`); a step is computed in float32 or wider.
    """

    exp_avg: Mapping[str, Tensor]  # m, shaped like its parameter
    exp_avg_sq: Mapping[str, Tensor]  # v
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

    def narrowed(self, dtype: torch.dtype) -> Self:
        """The same state with its moments in `dtype`; docs/results.md has what bfloat16 costs in fidelity."""
        m, v = ({n: t.to(dtype) for n, t in moments.items()} for moments in (self.exp_avg, self.exp_avg_sq))
        return replace(self, exp_avg=m, exp_avg_sq=v)

    def displacement(self, name: str, parameter: Tensor, gradient: Tensor | None) -> Tensor:
        """Δ for one parameter: how far a step with `gradient` (None: zero) moves it.

        Shaped like `parameter`, in float32 or wider: a bfloat16 step would round away what tells points apart.
        """
        dtype = torch.promote_types(parameter.dtype, torch.float32)
        g = torch.zeros_like(parameter, dtype=dtype) if gradient is None else gradient.to(dtype)
        m, v = self.exp_avg[name].to(dtype), self.exp_avg_sq[name].to(dtype)
        delta = _quotient(g, m, v, *self._constants).mul_(-self._scale)
        if self._decay(name):
            delta.sub_(parameter, alpha=self._decay(name))
        return delta

    def first_order(self, name: str, gradient: Tensor, reference: Tensor, rows: Tensor | None = None) -> Tensor:
        """−⟨∇L, Δ⟩ over one parameter, its weight decay aside (`decay`): a scalar in float32 or wider.

        `gradient` is ∇ℓ and `reference` ∇L, both shaped like the parameter. With `rows` `[n]`, `gradient` holds
        only those rows of it, and so does the sum.
        """
        tensors = (t if rows is None else t[rows] for t in (self.exp_avg[name], self.exp_avg_sq[name], reference))
        g = gradient.reshape(-1)
        m, v, r = (t.reshape(-1) for t in tensors)
        if g.is_cuda:
            product: Tensor = fused_product()(g, m, v, r, *self._constants)
            return product * self._scale
        if len(g) <= CACHED:
            return _product(g, m, v, r, self._constants) * self._scale
        pieces = zip(*(t.split(CACHED) for t in (g, m, v, r)), strict=True)
        parts = [_product(g, m, v, r, self._constants) for g, m, v, r in pieces]
        return torch.stack(parts).sum() * self._scale

    def at_rest(self, name: str, reference: Tensor) -> Tensor:
        """`first_order` with g = 0, by row of the parameter: `[rows]`, float64."""
        dtype = torch.promote_types(reference.dtype, torch.float32)
        m, v, r = (t.to(dtype) for t in (self.exp_avg[name], self.exp_avg_sq[name], reference))
        each = _quotient(torch.zeros_like(r), m, v, *self._constants).mul_(r)
        return (
            each.flatten(1).sum(1, dtype=torch.float64) * self._scale if each.ndim > 1 else each.double() * self._scale
        )

    def decay(self, name: str, parameter: Tensor, reference: Tensor) -> float:
        """−⟨∇L, −ηλθ⟩ over one parameter: what weight decay adds to every point's influence."""
        if not self._decay(name):
            return 0.0
        return self._decay(name) * float((parameter.double() * reference).sum())

    def direction(self, name: str, reference: Tensor, square: Tensor | None) -> Tensor:
        """u of one parameter: ∇L preconditioned with one v' for all points, so that ∂I/∂g ≈ η(1−β₁)u at every point.

        `square` stands for their g²; None: v' is v as it is before the step.
        """
        dtype = torch.promote_types(reference.dtype, torch.float32)
        if square is None:
            v = self.exp_avg_sq[name].to(dtype) / (1 - self.beta2**self.step)
        else:
            v = torch.lerp(square.to(dtype), self.exp_avg_sq[name].to(dtype), self.beta2)
            v /= 1 - self.beta2 ** (self.step + 1)
        return reference.to(dtype) / ((v.sqrt_() + self.epsilon) * (1 - self.beta1 ** (self.step + 1)))

    def save(self, folder: Path | str) -> None:
        """Write the moments as safetensors and the scalars as JSON into `folder`, which is made if it is missing."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        tensors = {f"exp_avg.{n}": t.detach().cpu().contiguous() for n, t in self.exp_avg.items()}
        tensors |= {f"exp_avg_sq.{n}": t.detach().cpu().contiguous() for n, t in self.exp_avg_sq.items()}
        save_file(tensors, folder / TENSORS)
        scalars = {f.name: getattr(self, f.name) for f in fields(self) if not f.name.startswith("exp_avg")}
        (folder / SCALARS).write_text(json.dumps(scalars, indent=2) + "\n")

    @classmethod
    def load(cls, folder: Path | str, device: torch.device | str = "cpu", dtype: torch.dtype | None = None) -> Self:
        """The state that `save` wrote, its tensors on `device`, in `dtype` (default: as they are).

        Each tensor is converted as it is read. Raises InputError when the folder holds no state.
        """
        try:
            tensors = load_tensors(Path(folder) / TENSORS, device, dtype)
            scalars = json.loads((Path(folder) / SCALARS).read_text())
            scalars["no_decay"] = tuple(scalars["no_decay"])
            m, v = (
                {n.removeprefix(f"{moment}."): t for n, t in tensors.items() if n.startswith(f"{moment}.")}
                for moment in ("exp_avg", "exp_avg_sq")
            )
            return cls(m, v, **scalars)
        except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
            raise InputError(
                f"{folder}: no optimiser state ({error}); {TENSORS} and {SCALARS} are expected, "
                "as OptimizerState.of(optimizer, model).save(folder) writes them"
            ) from None

    def _decay(self, name: str) -> float:
        """ηλ of a parameter."""
        return 0.0 if name in self.no_decay else self.learning_rate * self.weight_decay

    # With √β₂ drawn out of the fraction and the bias corrections multiplied through it,
    # Δ = −scale·lerp(m, g, 1−β₁) / (√(v + c·g²) + ε'), which reads m and v as they lie.

    @cached_property
    def _constants(self) -> tuple[float, float, float]:
        """1−β₁, c and ε'."""
        return 1 - self.beta1, (1 - self.beta2) / self.beta2, self.epsilon * self._root

    @cached_property
    def _scale(self) -> float:
        return self.learning_rate / (1 - self.beta1 ** (self.step + 1)) * self._root

    @cached_property
    def _root(self) -> float:
        return math.sqrt((1 - self.beta2 ** (self.step + 1)) / self.beta2)


CACHED = 1 << 17  # elements of a piece whose intermediate results stay in a core's cache


def _quotient(g: Tensor, m: Tensor, v: Tensor, weight: float, c: float, epsilon: float) -> Tensor:
    """lerp(m, g) / (√(v + c·g²) + ε'), a new tensor."""
    return torch.lerp(m, g, weight).div_(torch.addcmul(v, g, g, value=c).sqrt_().add_(epsilon))


def _product(g: Tensor, m: Tensor, v: Tensor, r: Tensor, constants: tuple[float, float, float]) -> Tensor:
    """⟨r, quotient⟩ of flat tensors; narrow ones are widened first."""
    dtype = torch.promote_types(g.dtype, torch.float32)
    g, m, v, r = (t.to(dtype) for t in (g, m, v, r))
    return torch.dot(_quotient(g, m, v, *constants), r)


@cache
def fused_product() -> Callable[..., Tensor]:
    """`_product` as one compiled kernel that reads each tensor once and writes nothing: for GPUs."""

    def product(g: Tensor, m: Tensor, v: Tensor, r: Tensor, weight: float, c: float, epsilon: float) -> Tensor:
        dtype = torch.promote_types(g.dtype, torch.float32)
        g, m, v, r = (t.to(dtype) for t in (g, m, v, r))
        return (torch.lerp(m, g, weight) / (torch.sqrt(v + c * g * g) + epsilon) * r).sum()

    compiled: Callable[..., Tensor] = torch.compile(product, dynamic=True)
    return compiled


def load_tensors(file: Path, device: torch.device | str, dtype: torch.dtype | None) -> dict[str, Tensor]:
    """The tensors of a safetensors file, each on `device` and in `dtype` (None: its own) before the next is read."""
    with safe_open(file, "pt", device=str(device)) as tensors:
        return {name: tensors.get_tensor(name).to(dtype=dtype) for name in tensors.keys()}  # noqa: SIM118


def require_alike(tensors: Mapping[str, Tensor], parameters: dict[str, nn.Parameter], what: str) -> None:
    """Raise InputError, naming a parameter, unless `tensors` has one of its shape for each parameter."""
    differing = sorted(tensors.keys() ^ parameters.keys())
    if differing:
        lacking = ("the model", "it") if differing[0] in tensors else ("it", "the model")
        raise InputError(f"{what} does not fit the model: {lacking[0]} lacks {differing[0]}, which {lacking[1]} has")
    for name, parameter in parameters.items():
        if tensors[name].shape != parameter.shape:
            raise InputError(
                f"{what} does not fit the model: {name} is {list(tensors[name].shape)} there, "
                f"{list(parameter.shape)} in the model"
            )
