"""Recognize from its state whether an optimizer takes AdamW's step.

The state is a dict as `torch.optim.Optimizer.state_dict` returns it. A file does not name its optimizer, so the keys of
the state and the settings of the groups decide. Every key has to be known: an unknown key may change the step.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from montessori.errors import InputError

StateDict = Mapping[str, Any]  # state: by parameter number; param_groups: a list with params and settings

MOMENTS = ("exp_avg", "exp_avg_sq")
REQUIRED = {"params", "lr", "betas", "eps", "weight_decay", "amsgrad"}
# Settings that choose an implementation, or that other code left. They do not change the step, except that capturable
# rounds the two bias corrections to float32, alike for all parameters.
NEUTRAL = {"foreach", "fused", "capturable", "differentiable", "initial_lr", "param_names"}
KNOWN = REQUIRED | NEUTRAL | {"maximize", "decoupled_weight_decay"}
ADVICE = "train with torch.optim.AdamW, or give no state and let the student be warmed up with AdamW"

# A key that only this optimizer has, in its state or in its settings. The first match counts.
SIGNS = {
    "state1": "an optimiser of bitsandbytes, whose moments are not plain numbers",
    "ns_steps": "Muon",
    "mu_product": "NAdam",
    "momentum_decay": "NAdam",
    "exp_avg_sq_row": "Adafactor",
    "row_var": "Adafactor",
    "relative_step": "Adafactor",
    "beta2_decay": "Adafactor",
    "exp_inf": "Adamax",
    "acc_delta": "Adadelta",
    "square_avg": "RMSprop",
    "lr_decay": "Adagrad",
    "ax": "ASGD",
    "step_sizes": "Rprop",
    "tolerance_grad": "L-BFGS",
    "update_proj_gap": "GaLore or APOLLO",
    "d0": "Prodigy",
    "weight_sum": "a schedule-free optimiser",
    "exp_avg_diff": "Adan",
    "exp_avg_var": "AdaBelief",
    "correct_bias": "AdamW of an old transformers, whose epsilon and decay differ from torch.optim.AdamW's",
    "bias_correction": "FusedAdam of apex or DeepSpeed",
    "dampening": "SGD",
    "momentum_buffer": "SGD with momentum, or Muon",
    "max_exp_avg_sq": "AMSGrad",
}


def require_adamw(saved: StateDict, *, vouched: bool = False) -> None:
    """Raise InputError, naming the optimizer, unless `saved` is the state of AdamW, or of Adam without weight decay.

    Older versions of torch do not store whether weight decay is decoupled. With `vouched` it is.
    """
    reason = next(_other_optimizer(saved), None)
    if reason:
        raise InputError(f"the state is that of {reason}; influence follows AdamW's step: {ADVICE}")
    groups = saved["param_groups"]
    if any(group["weight_decay"] and "decoupled_weight_decay" not in group for group in groups) and not vouched:
        raise InputError(
            "the state has a weight decay and does not say whether the optimiser was AdamW or Adam, whose decay "
            "is an L2 penalty; if it was AdamW, say so with --optimizer adamw (in Python: vouched=True)"
        )


def _other_optimizer(saved: StateDict) -> Iterator[str]:
    """Yield the names of optimizers that the state is of, other than AdamW and Adam without weight decay."""
    groups, states = saved["param_groups"], saved["state"].values()
    settings = {key for group in groups for key in group}
    stored = {key for state in states for key in state}
    yield from (name for sign, name in SIGNS.items() if sign in settings | stored)
    if stored - {"step"} == {"exp_avg"}:
        yield "Lion"
    if any(group.get("amsgrad") for group in groups):
        yield "AMSGrad"
    if any(group.get("maximize") for group in groups):
        yield "an optimiser with maximize=True, which goes uphill"
    if any(group.get("weight_decay") and group.get("decoupled_weight_decay") is False for group in groups):
        yield "Adam with an L2 penalty (weight_decay above 0)"
    if not stored:
        yield "an optimiser without moments: it has taken no step, or is plain SGD"
    if settings >= REQUIRED - {"amsgrad"} and "amsgrad" not in settings:
        yield "RAdam or a relative of it (Adam and AdamW have the setting amsgrad)"
    for what, odd in (("settings", settings - KNOWN), ("state", stored - {"step", *MOMENTS})):
        if odd:
            yield f"an unknown optimiser, with {', '.join(sorted(map(str, odd)))} in its {what}"
    for what, absent in (("settings", REQUIRED - settings), ("state", {"step", *MOMENTS} - stored)):
        if absent:
            yield f"an unknown optimiser, without {', '.join(sorted(absent))} in its {what}"


def shared_scalars(settings: list[Mapping[str, Any]], steps: list[Any]) -> dict[str, float | int]:
    """Return the scalars of `OptimizerState` that all parameters share, each given with its group's settings.

    Raises InputError where parameters differ in anything but weight decay on or off.
    """
    rows = {
        (int(step), float(group["lr"]), *map(float, group["betas"]), float(group["eps"]))
        for group, step in zip(settings, steps, strict=True)
    }
    decays = {float(group["weight_decay"]) for group in settings} - {0.0}
    if len(rows) != 1 or len(decays) > 1:
        raise InputError(
            "the optimiser's parameters differ in step count, learning rate, betas or decay; influence follows a step "
            "with one value of each for all parameters"
        )
    names = ("step", "learning_rate", "beta1", "beta2", "epsilon")
    return dict(zip(names, rows.pop(), strict=True)) | {"weight_decay": max(decays, default=0.0)}
