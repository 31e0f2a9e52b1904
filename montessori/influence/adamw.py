"""Compute one AdamW step on one point, from the student's own optimizer state.

    m' = β₁m + (1−β₁)g          v' = β₂v + (1−β₂)g²
    Δ  = −η·[m'/(1−β₁^(t+1))] / [√(v'/(1−β₂^(t+1))) + ε] − ηλθ

Influence measures the effect of this step. Source: Loshchilov and Hutter 2019 (decoupled weight decay), in the form of
`torch.optim.AdamW`.
"""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cache, cached_property
from pathlib import Path
from typing import Any, Self

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from montessori.errors import InputError
from montessori.influence.optimizers import ADVICE, StateDict, require_adamw, shared_scalars
from montessori.influence.step import check_rate

TENSORS = "optimizer.safetensors"
SCALARS = "optimizer.json"

ORIGIN = "give the one that this student's training left"

Gradients = dict[str, Tensor]  # by parameter name, each shaped like its parameter


def trainable_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """Return the trainable parameters by name. For a LoRA model these are its adapters."""
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


@dataclass(frozen=True)
class OptimizerState:
    """Hold AdamW's state after warm-up, by parameter name (trainable parameters only).

    The moments may be narrower than float32 to save memory (see `to`). A step is computed in float32 or wider.
    """

    exp_avg: Mapping[str, Tensor]  # m, shaped like its parameter
    exp_avg_sq: Mapping[str, Tensor]  # v, shaped like its parameter
    step: int  # t, the steps that the student has taken
    learning_rate: float  # η of the next step
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8
    weight_decay: float = 0.0
    no_decay: tuple[str, ...] = ()  # parameters without weight decay; a transformers Trainer exempts norms and biases

    @classmethod
    def of(cls, optimizer: torch.optim.Optimizer, model: nn.Module) -> Self:
        """Return the state of the optimizer that trained `model`. The moments are shared with it, not copied.

        The optimizer is a `torch.optim.AdamW`, or an `Adam` without weight decay, with any flags. Raises InputError for
        other optimizers, where a parameter has no state, and where parameter groups differ in anything but weight decay
        on or off.
        """
        optimizer = getattr(optimizer, "optimizer", optimizer)  # accelerate wraps it
        if type(optimizer) not in (torch.optim.AdamW, torch.optim.Adam):
            raise InputError(f"the optimiser is {type(optimizer).__name__}; influence follows AdamW's step: {ADVICE}")
        names = {id(parameter): name for name, parameter in trainable_parameters(model).items()}
        order = [names.get(id(p)) for group in optimizer.param_groups for p in group["params"]]
        return cls.from_state_dict(
            optimizer.state_dict(), order, [*names.values()], vouched=isinstance(optimizer, torch.optim.AdamW)
        )

    @classmethod
    def from_state_dict(
        cls, saved: StateDict, names: Sequence[str | None], parameters: Sequence[str], *, vouched: bool = False
    ) -> Self:
        """Return the state of `parameters` in an optimizer's `state_dict`, whose n-th parameter has the n-th name.

        Parameters with other names, or with none, are left out. Raises InputError as `of` does.
        """
        require_adamw(saved, vouched=vouched)
        numbered = [(number, group) for group in saved["param_groups"] for number in group["params"]]
        found = {n: numbered[i] for i, n in enumerate(names) if n is not None}
        for name in parameters:
            if name not in found or not saved["state"].get(found[name][0]):
                raise InputError(f"the optimiser holds no state of {name}: it has not taken a step on it")
        groups = {n: found[n][1] for n in parameters}
        states = {n: saved["state"][found[n][0]] for n in parameters}
        scalars: dict[str, Any] = shared_scalars([*groups.values()], [state["step"] for state in states.values()])
        return cls(
            exp_avg={n: state["exp_avg"] for n, state in states.items()},
            exp_avg_sq={n: state["exp_avg_sq"] for n, state in states.items()},
            no_decay=tuple(n for n, group in groups.items() if scalars["weight_decay"] and not group["weight_decay"]),
            **scalars,
        )

    def check(self, parameters: dict[str, nn.Parameter]) -> None:
        """Raise InputError unless a step can be taken with the state, on `parameters` of its names and shapes."""
        for moments in (self.exp_avg, self.exp_avg_sq):
            require_same_shapes(moments, parameters, "the optimiser state")
        check_rate(self.learning_rate)
        if self.step < 1:
            raise InputError("the optimiser state has taken no step (step = 0); train or warm the student up first")
        if not (0 <= self.beta1 < 1 and 0 < self.beta2 < 1 and self.epsilon >= 0 and self.weight_decay >= 0):
            raise InputError(
                f"the optimiser state has betas {self.beta1:g}, {self.beta2:g}, epsilon {self.epsilon:g} and weight "
                f"decay {self.weight_decay:g}; betas lie between 0 and 1, and none of the others is negative"
            )
        for name in self.exp_avg:
            _check_values(name, self.exp_avg[name], self.exp_avg_sq[name])

    def to(self, dtype: torch.dtype) -> Self:
        """Return the same state with its moments in `dtype`. docs/results/influence.md has the fidelity in bfloat16."""
        m, v = ({n: t.to(dtype) for n, t in moments.items()} for moments in (self.exp_avg, self.exp_avg_sq))
        return replace(self, exp_avg=m, exp_avg_sq=v)

    def displacement(self, name: str, parameter: Tensor, gradient: Tensor | None) -> Tensor:
        """Return Δ for one parameter, its displacement by a step with `gradient` (None: a zero gradient).

        Shaped like `parameter`, in float32 or wider. A bfloat16 step would round away the differences between points.
        """
        dtype = torch.promote_types(parameter.dtype, torch.float32)
        g = torch.zeros_like(parameter, dtype=dtype) if gradient is None else gradient.to(dtype)
        m, v = self.exp_avg[name].to(dtype), self.exp_avg_sq[name].to(dtype)
        delta = _quotient(g, m, v, *self._constants).mul_(-self._scale)
        if self._decay(name):
            delta.sub_(parameter, alpha=self._decay(name))
        return delta

    def first_order(self, name: str, gradient: Tensor, reference: Tensor, rows: Tensor | None = None) -> Tensor:
        """Return −⟨∇L, Δ⟩ over one parameter without its weight decay, as a scalar in float32 or wider.

        `gradient` is ∇ℓ and `reference` ∇L, both shaped like the parameter. With `rows` `[n]`, `gradient` holds only
        those rows, and the sum covers only them. `decay` returns the share of weight decay.
        """
        tensors = (t if rows is None else t[rows] for t in (self.exp_avg[name], self.exp_avg_sq[name], reference))
        g = gradient.reshape(-1)
        m, v, r = (t.reshape(-1) for t in tensors)
        if g.is_cuda:
            product: Tensor = fused_product()(g, m, v, r, *self._constants)
            return product * self._scale
        if len(g) <= CACHE_ELEMENTS:
            return _product(g, m, v, r, self._constants) * self._scale
        pieces = zip(*(t.split(CACHE_ELEMENTS) for t in (g, m, v, r)), strict=True)
        parts = [_product(g, m, v, r, self._constants) for g, m, v, r in pieces]
        return torch.stack(parts).sum() * self._scale

    def zero_gradient_rows(self, name: str, reference: Tensor) -> Tensor:
        """Return `first_order` for g = 0, separately for each row of the parameter: `[rows]`, float64."""
        dtype = torch.promote_types(reference.dtype, torch.float32)
        m, v, r = (t.to(dtype) for t in (self.exp_avg[name], self.exp_avg_sq[name], reference))
        each = _quotient(torch.zeros_like(r), m, v, *self._constants).mul_(r)
        return (
            each.flatten(1).sum(1, dtype=torch.float64) * self._scale if each.ndim > 1 else each.double() * self._scale
        )

    def decay(self, name: str, parameter: Tensor, reference: Tensor) -> float:
        """Return −⟨∇L, −ηλθ⟩ over one parameter, the share of weight decay in every point's influence."""
        if not self._decay(name):
            return 0.0
        return self._decay(name) * float((parameter.double() * reference).sum())

    def direction(self, name: str, reference: Tensor, square: Tensor | None) -> Tensor:
        """Return u for one parameter, ∇L preconditioned with one v' for all points, so that ∂I/∂g ≈ η(1−β₁)u.

        `square` replaces each point's own g² in v'. With None, v' is v before the step.
        """
        dtype = torch.promote_types(reference.dtype, torch.float32)
        if square is None:
            v = self.exp_avg_sq[name].to(dtype) / (1 - self.beta2**self.step)
        else:
            v = torch.lerp(square.to(dtype), self.exp_avg_sq[name].to(dtype), self.beta2)
            v /= 1 - self.beta2 ** (self.step + 1)
        return reference.to(dtype) / ((v.sqrt_() + self.epsilon) * (1 - self.beta1 ** (self.step + 1)))

    def save(self, folder: Path | str) -> None:
        """Write the moments as safetensors and the scalars as JSON into `folder`, and create it if it is missing."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        tensors = {f"exp_avg.{n}": t.detach().cpu().contiguous() for n, t in self.exp_avg.items()}
        tensors |= {f"exp_avg_sq.{n}": t.detach().cpu().contiguous() for n, t in self.exp_avg_sq.items()}
        save_file(tensors, folder / TENSORS)
        scalars = {f.name: getattr(self, f.name) for f in fields(self) if not f.name.startswith("exp_avg")}
        (folder / SCALARS).write_text(json.dumps(scalars, indent=2) + "\n")

    @classmethod
    def load(cls, folder: Path | str, device: torch.device | str = "cpu", dtype: torch.dtype | None = None) -> Self:
        """Read the state that `save` wrote, with its tensors on `device` and in `dtype` (default: unchanged).

        Each tensor is converted before the next one is read. Raises InputError when the folder holds no state.
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
        """Return ηλ of a parameter."""
        return 0.0 if name in self.no_decay else self.learning_rate * self.weight_decay

    # The formula at the top of this file, with √β₂ and the bias corrections moved into constants, is
    # Δ = −scale·lerp(m, g, 1−β₁) / (√(v + c·g²) + ε'). It reads m and v unscaled, so no temporary copy is made.

    @cached_property
    def _constants(self) -> tuple[float, float, float]:
        """Return 1−β₁, c and ε'."""
        return 1 - self.beta1, (1 - self.beta2) / self.beta2, self.epsilon * self._root

    @cached_property
    def _scale(self) -> float:
        """Return the scale of Δ."""
        return self.learning_rate / (1 - self.beta1 ** (self.step + 1)) * self._root

    @cached_property
    def _root(self) -> float:
        """Return the factor that moving √β₂ and v's bias correction leaves."""
        return math.sqrt((1 - self.beta2 ** (self.step + 1)) / self.beta2)


CACHE_ELEMENTS = 1 << 17  # elements at a time, so that intermediate results stay in a core's cache


def _quotient(g: Tensor, m: Tensor, v: Tensor, weight: float, c: float, epsilon: float) -> Tensor:
    """Return lerp(m, g) / (√(v + c·g²) + ε') as a new tensor."""
    return torch.lerp(m, g, weight).div_(torch.addcmul(v, g, g, value=c).sqrt_().add_(epsilon))


def _product(g: Tensor, m: Tensor, v: Tensor, r: Tensor, constants: tuple[float, float, float]) -> Tensor:
    """Return ⟨r, quotient⟩ of flat tensors. Narrow ones are widened first."""
    dtype = torch.promote_types(g.dtype, torch.float32)
    g, m, v, r = (t.to(dtype) for t in (g, m, v, r))
    return torch.dot(_quotient(g, m, v, *constants), r)


@cache
def fused_product() -> Callable[..., Tensor]:
    """Return `_product` as one compiled GPU kernel, which reads each tensor once and writes no intermediate result."""

    def product(g: Tensor, m: Tensor, v: Tensor, r: Tensor, weight: float, c: float, epsilon: float) -> Tensor:
        dtype = torch.promote_types(g.dtype, torch.float32)
        g, m, v, r = (t.to(dtype) for t in (g, m, v, r))
        return (torch.lerp(m, g, weight) / (torch.sqrt(v + c * g * g) + epsilon) * r).sum()

    compiled: Callable[..., Tensor] = torch.compile(product, dynamic=True)
    return compiled


def load_tensors(file: Path, device: torch.device | str, dtype: torch.dtype | None) -> dict[str, Tensor]:
    """Read the tensors of a safetensors file by name, moved to `device` and `dtype` (None: its own).

    Each tensor is converted before the next one is read.
    """
    with safe_open(file, "pt", device=str(device)) as tensors:
        return {name: tensors.get_tensor(name).to(dtype=dtype) for name in tensors.keys()}  # noqa: SIM118


def _check_values(name: str, m: Tensor, v: Tensor) -> None:
    """Raise InputError for moments that no training leaves: NaN, infinite, or a negative second moment."""
    for moment, tensor in (("exp_avg", m), ("exp_avg_sq", v)):
        shard = tensor.to_local() if isinstance(tensor, DTensor) else tensor
        if not shard.numel():
            continue
        low, high = map(float, torch.aminmax(shard))  # NaN if any element is
        problem = "NaN or infinite" if not (math.isfinite(low) and math.isfinite(high)) else "negative"
        if problem != "negative" or (moment == "exp_avg_sq" and low < 0):
            raise InputError(
                f"the optimiser state has {problem} values in {moment} of {name}: the training diverged, or the file "
                "is damaged; give the state of an earlier checkpoint"
            )


def require_same_shapes(tensors: Mapping[str, Tensor], parameters: dict[str, nn.Parameter], what: str) -> None:
    """Raise InputError, naming a parameter, unless `tensors` has one tensor of its shape for each parameter."""
    differing = sorted(tensors.keys() ^ parameters.keys())
    if differing:
        lacking = ("the model", "it") if differing[0] in tensors else ("it", "the model")
        raise InputError(
            f"{what} does not fit the model: {lacking[0]} lacks {differing[0]}, which {lacking[1]} has; {ORIGIN}"
        )
    for name, parameter in parameters.items():
        if tensors[name].shape != parameter.shape:
            raise InputError(
                f"{what} does not fit the model: {name} is {list(tensors[name].shape)} there, "
                f"{list(parameter.shape)} in the model; {ORIGIN}"
            )
