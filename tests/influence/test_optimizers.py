"""Which optimizers' states give influence, checked against the optimizers' own next step in float64."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn
from transformers.optimization import Adafactor

from montessori.errors import InputError
from montessori.influence import GradientDescent, OptimizerState
from montessori.influence.optimizers import require_adamw

ACCEPTED: dict[str, tuple[Any, dict[str, Any]]] = {
    "AdamW": (torch.optim.AdamW, {}),
    "AdamW with decay": (torch.optim.AdamW, {"weight_decay": 0.3}),
    "AdamW, fused": (torch.optim.AdamW, {"weight_decay": 0.3, "fused": True}),
    "AdamW, foreach": (torch.optim.AdamW, {"weight_decay": 0.3, "foreach": True}),
    "AdamW, learning rate in a tensor": (torch.optim.AdamW, {"lr": torch.tensor(2e-3, dtype=torch.float64)}),
    "Adam": (torch.optim.Adam, {}),
    "Adam with decoupled decay": (torch.optim.Adam, {"weight_decay": 0.3, "decoupled_weight_decay": True}),
}
REFUSED: dict[str, tuple[Any, dict[str, Any]]] = {
    "SGD": (torch.optim.SGD, {"momentum": 0.9}),
    "Muon": (torch.optim.Muon, {}),
    "NAdam": (torch.optim.NAdam, {}),
    "RAdam": (torch.optim.RAdam, {}),
    "Adafactor": (torch.optim.Adafactor, {}),
    "Adafactor of transformers": (Adafactor, {"scale_parameter": False, "relative_step": False, "lr": 1e-3}),
    "Adamax": (torch.optim.Adamax, {}),
    "Adadelta": (torch.optim.Adadelta, {}),
    "RMSprop": (torch.optim.RMSprop, {}),
    "Adagrad": (torch.optim.Adagrad, {}),
    "ASGD": (torch.optim.ASGD, {}),
    "Rprop": (torch.optim.Rprop, {}),
    "AMSGrad": (torch.optim.AdamW, {"amsgrad": True}),
    "maximize": (torch.optim.AdamW, {"maximize": True}),
    "L2 penalty": (torch.optim.Adam, {"weight_decay": 0.1}),
}


def small_model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 3, bias=False), nn.Linear(3, 2, bias=False)).double()


def stepped(kind: Any, options: dict[str, Any]) -> tuple[nn.Module, torch.optim.Optimizer]:
    model = small_model()
    optimizer = kind(model.parameters(), **options)
    for _ in range(5):
        optimizer.zero_grad()
        model(torch.randn(8, 4, dtype=torch.float64)).square().mean().backward()
        optimizer.step()
    return model, optimizer


@pytest.mark.parametrize("name", ACCEPTED)
def test_the_displacement_is_the_optimiser_s_own_next_step(name: str) -> None:
    model, optimizer = stepped(*ACCEPTED[name])
    state = OptimizerState.of(optimizer, model)
    state.check(dict(model.named_parameters()))
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    for p in model.parameters():
        p.grad = torch.randn_like(p)
    expected = {n: state.displacement(n, before[n], p.grad) for n, p in model.named_parameters()}
    optimizer.step()
    for n, p in model.named_parameters():
        torch.testing.assert_close(p.detach() - before[n], expected[n], rtol=1e-6, atol=1e-14)


@pytest.mark.parametrize("name", REFUSED)
def test_another_optimiser_is_refused_by_name(name: str) -> None:
    model, optimizer = stepped(*REFUSED[name])
    named = name.split()[0] if name != "L2 penalty" else name
    with pytest.raises(InputError, match=rf"(?s)that of .*{named}.*train with torch\.optim\.AdamW"):
        require_adamw(optimizer.state_dict())
    with pytest.raises(InputError, match=r"influence follows AdamW's step"):
        OptimizerState.of(optimizer, model)


@pytest.mark.parametrize(
    ("state", "settings", "named"),
    [
        ({"step": 1, "state1": 0, "state2": 0, "qmap1": 0}, {}, "bitsandbytes"),
        ({"exp_avg": 0}, {}, "Lion"),
        ({"step": 1, "exp_avg": 0, "exp_avg_sq": 0}, {"correct_bias": True}, "old transformers"),
        ({"step": 1, "exp_avg": 0, "exp_avg_sq": 0, "master": 0}, {}, "unknown optimiser, with master in its state"),
        ({"step": 1, "exp_avg": 0, "exp_avg_sq": 0}, {"caution": True}, "unknown optimiser, with caution in its set"),
        ({"exp_avg": 0, "exp_avg_sq": 0}, {}, "without step in its state"),
    ],
)
def test_the_states_of_other_libraries_are_refused_by_name(
    state: dict[str, Any], settings: dict[str, Any], named: str
) -> None:
    group = {"params": [0], "lr": 1e-3, "betas": (0.9, 0.99), "eps": 1e-8, "weight_decay": 0.0, "amsgrad": False}
    with pytest.raises(InputError, match=named):
        require_adamw({"state": {0: state}, "param_groups": [group | settings]})


def test_a_subclass_of_adamw_is_refused_because_its_step_may_differ() -> None:
    class Cautious(torch.optim.AdamW):
        pass

    model, optimizer = stepped(Cautious, {})
    with pytest.raises(InputError, match="the optimiser is Cautious"):
        OptimizerState.of(optimizer, model)


def test_an_older_state_with_a_decay_of_unknown_kind_needs_the_user_s_word() -> None:
    model, optimizer = stepped(torch.optim.AdamW, {"weight_decay": 0.3})
    saved = optimizer.state_dict()
    for group in saved["param_groups"]:
        del group["decoupled_weight_decay"]
    names = [name for name, _ in model.named_parameters()]
    with pytest.raises(InputError, match="--optimizer adamw"):
        OptimizerState.from_state_dict(saved, names, names)
    assert OptimizerState.from_state_dict(saved, names, names, vouched=True).weight_decay == 0.3
    saved["param_groups"][0]["weight_decay"] = 0.0  # then both take the same step
    assert OptimizerState.from_state_dict(saved, names, names).weight_decay == 0.0


@pytest.mark.parametrize("rate", [0.0, -1e-5, math.nan, math.inf])
def test_a_learning_rate_that_moves_nothing_is_refused_with_the_option_that_gives_one(rate: float) -> None:
    model, optimizer = stepped(torch.optim.AdamW, {})
    parameters = dict(model.named_parameters())
    for step in (replace(OptimizerState.of(optimizer, model), learning_rate=rate), GradientDescent(rate)):
        with pytest.raises(InputError, match="--learning-rate"):
            step.check(parameters)


@pytest.mark.parametrize(
    ("moment", "value", "problem"),
    [
        ("exp_avg", math.nan, "NaN or infinite values in exp_avg of 1.weight"),
        ("exp_avg", -math.inf, "NaN or infinite values in exp_avg of 1.weight"),
        ("exp_avg_sq", math.nan, "NaN or infinite values in exp_avg_sq of 1.weight"),
        ("exp_avg_sq", -1e-9, "negative values in exp_avg_sq of 1.weight"),
    ],
)
def test_moments_that_no_training_leaves_are_refused(moment: str, value: float, problem: str) -> None:
    model, optimizer = stepped(torch.optim.AdamW, {})
    state = OptimizerState.of(optimizer, model)
    getattr(state, moment)["1.weight"][0, 1] = value
    with pytest.raises(InputError, match=problem):
        state.check(dict(model.named_parameters()))


@pytest.mark.parametrize("change", [{"step": 0}, {"beta2": 1.0}, {"beta1": math.nan}, {"weight_decay": -0.1}])
def test_scalars_without_a_step_are_refused(change: dict[str, float]) -> None:
    model, optimizer = stepped(torch.optim.AdamW, {})
    with pytest.raises(InputError, match=r"no step|betas"):
        replace(OptimizerState.of(optimizer, model), **change).check(dict(model.named_parameters()))
