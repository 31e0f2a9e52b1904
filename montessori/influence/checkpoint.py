"""Read AdamW's state from a file that torch wrote: a Trainer's `optimizer.pt`, or accelerate's `optimizer.bin`.

Such a file numbers the parameters in the order of the optimizer's groups, and has no names. Shapes and counts show
which parameter a number is. A file that allows two answers is refused.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor, nn
from transformers.trainer_pt_utils import get_parameter_names

from montessori.errors import InputError
from montessori.influence.adamw import OptimizerState, trainable_parameters
from montessori.influence.optimizers import MOMENTS, StateDict, require_adamw
from montessori.models.state_folder import is_own, state_files

Shape = tuple[int, ...]

# A transformers Trainer decays no parameter of these names, and none of a LayerNorm: Trainer.get_decay_parameter_names.
NO_DECAY = [r"bias", r"layernorm", r"rmsnorm", r"(?:^|\.)norm(?:$|\.)", r"_norm(?:$|\.)"]


def read_state_dict(file: Path, *, vouched: bool = False) -> StateDict:
    """Return the optimizer's state in `file`, without reading the numbers of its tensors yet.

    No code in the file is run. Raises InputError when it is not the state of AdamW (see `optimizers.require_adamw`).
    """
    try:
        saved = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
    except UnpicklingError as error:
        (name,) = re.findall(r"GLOBAL (\S+)", str(error))[:1] or ["something"]
        raise InputError(
            f"{file}: it holds more than tensors and numbers ({name}), which could run code, so it is not opened; in "
            "the training script save the state with OptimizerState.of(optimizer, model).save"
        ) from None
    except (OSError, RuntimeError, EOFError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"{file}: not a whole file of torch.save ({reason}); copy it again") from None
    if not (isinstance(saved, dict) and {"state", "param_groups"} <= saved.keys() and saved["param_groups"]):
        raise InputError(f"{file}: not an optimiser's state_dict(); it needs state and param_groups")
    try:
        require_adamw(saved, vouched=vouched)
    except InputError as error:
        raise InputError(f"{file}: {error}") from None
    for state in saved["state"].values():
        for moment in MOMENTS:
            if not (type(tensor := state[moment]) is Tensor and tensor.is_floating_point()):
                raise InputError(f"{file}: {moment} is no plain tensor of numbers, but {type(tensor).__name__}")
    return saved


def read_state(folder: Path, model: nn.Module, *, vouched: bool = False) -> OptimizerState:
    """Return the state in `folder`, of any known form, for the trainable parameters of `model`.

    The tensors of the model may be without storage. Raises InputError when the state does not fit the model, or fits it
    in two ways. A state in the own form is compared with the model by `OptimizerState.check`.
    """
    if is_own(folder):
        return OptimizerState.load(folder)
    file, *trainer = state_files(folder)
    saved = read_state_dict(file, vouched=vouched)
    try:
        names = _names(saved, model, by_trainer=bool(trainer))
        return OptimizerState.from_state_dict(saved, names, [*trainable_parameters(model)], vouched=vouched)
    except InputError as error:
        raise InputError(f"{file}: {error}") from None


def _names(saved: StateDict, model: nn.Module, *, by_trainer: bool) -> list[str]:
    """Return the names of the state's parameters in its own order."""
    groups = [group["params"] for group in saved["param_groups"]]
    numbers = [number for group in groups for number in group]
    if all(isinstance(number, str) for number in numbers):  # FSDP gathers a state by name
        names = numbers
    elif all("param_names" in group for group in saved["param_groups"]):
        names = [name for group in saved["param_groups"] for name in group["param_names"]]
    else:
        names = _names_by_shape(saved, model, by_trainer=by_trainer)
    shapes = {name: tuple(p.shape) for name, p in model.named_parameters()}
    for name, number in zip(names, numbers, strict=True):
        found = _shape(saved, number)
        if name not in shapes or found not in (None, shapes[name]):
            there = f"{list(found or ())} there, {list(shapes[name])} in the model" if name in shapes else "unknown"
            raise InputError(f"the optimiser state is of another model: {name} is {there}")
    return names


def _names_by_shape(saved: StateDict, model: nn.Module, *, by_trainer: bool) -> list[str]:
    """Return the names, when the model's order within each group gives the shapes in exactly one way."""
    groups = [[_shape(saved, number) for number in group["params"]] for group in saved["param_groups"]]
    total = sum(map(len, groups))
    every = dict(model.named_parameters())
    parameters: dict[str, nn.Parameter] = trainable_parameters(model)
    if total != len(parameters):
        if total != len(every):
            raise InputError(
                f"the optimiser state has {total} parameters, and the model has {len(parameters)} that are trained "
                f"({len(every)} in all); give the state that this student's training left (a LoRA state goes with a "
                "student whose adapter is in its folder adapter/)"
            )
        parameters = every
    found = orders(groups, {name: tuple(p.shape) for name, p in parameters.items()})
    if len(found) > 1 and by_trainer:
        decayed = {*get_parameter_names(model, [nn.LayerNorm], NO_DECAY)}
        rule = sorted(parameters, key=lambda name: name not in decayed)  # stable: the model's order within a group
        found = [order for order in [rule] if [len(g) for g in groups if g][:1] == [len(decayed & {*parameters})]]
    if len(found) == 1:
        return found[0]
    if not found:
        raise InputError(
            "the optimiser state is of another model: its shapes, in the order of its parameter groups, are not those "
            "of the model's parameters; give the state that this student's training left"
        )
    raise InputError(
        "the optimiser state has no names, and the shapes of its parameter groups fit the model in more than one way; "
        "in the training script save it with OptimizerState.of(optimizer, model).save"
    )


def orders(groups: Sequence[Sequence[Shape | None]], parameters: dict[str, Shape]) -> list[list[str]]:
    """Return the names in the order of the groups, for two of the ways to deal the parameters out to the groups.

    Each group takes its parameters in their order, and the shapes have to agree (None: any shape). The list is empty
    where there is no way, and has one element where there is only one.
    """
    ways: dict[tuple[int, ...], list[tuple[int, ...]]] = {(0,) * len(groups): [()]}  # by the number that each group has
    for shape in parameters.values():
        after: dict[tuple[int, ...], list[tuple[int, ...]]] = {}
        for taken, dealt in ways.items():
            for g, group in enumerate(groups):
                if taken[g] < len(group) and group[taken[g]] in (None, shape):
                    more = after.setdefault((*taken[:g], taken[g] + 1, *taken[g + 1 :]), [])
                    more += [(*way, g) for way in dealt[: 2 - len(more)]]
        ways = after
    names = [*parameters]
    return [
        [names[i] for g in range(len(groups)) for i, chosen in enumerate(way) if chosen == g]
        for dealt in ways.values()
        for way in dealt
    ]


def _shape(saved: StateDict, number: Any) -> Shape | None:
    """Return the shape of a parameter by its moments, or None where it has none."""
    state = saved["state"].get(number)
    return tuple(state["exp_avg"].shape) if state else None
