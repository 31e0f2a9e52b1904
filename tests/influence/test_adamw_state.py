"""The optimiser state that a warm-up leaves behind, and the step that it implies."""

from pathlib import Path

import pytest
import torch
from torch import nn
from warm_student import tiny_student, warm_up

from montessori.errors import InputError
from montessori.influence import OptimizerState


def small_model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2)).double()


def stepped(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int = 5) -> None:
    for _ in range(steps):
        optimizer.zero_grad()
        model(torch.randn(8, 4, dtype=torch.float64)).square().mean().backward()
        optimizer.step()


@pytest.mark.parametrize("zero_gradient", [False, True])
def test_the_displacement_is_what_torch_adamw_does_next(zero_gradient: bool):
    model = small_model()
    weights, biases = ([p for p in model.parameters() if p.ndim == d] for d in (2, 1))
    optimizer = torch.optim.AdamW(
        [{"params": weights}, {"params": biases, "weight_decay": 0.0}],
        lr=1e-2, betas=(0.8, 0.95), eps=1e-3, weight_decay=0.3,
    )  # fmt: skip
    stepped(model, optimizer)
    state = OptimizerState.of(optimizer, model)
    assert state.no_decay == ("0.bias", "1.bias")
    for p in model.parameters():
        p.grad = torch.zeros_like(p) if zero_gradient else torch.randn_like(p)
    with torch.no_grad():
        expected = {
            n: p + state.displacement(n, p, None if zero_gradient else p.grad) for n, p in model.named_parameters()
        }
    optimizer.step()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.detach(), expected[name], rtol=1e-13, atol=1e-15)


def test_the_step_of_a_bfloat16_parameter_is_computed_in_float32():
    parameter = torch.ones(3, dtype=torch.bfloat16)
    moment = torch.full((3,), 0.1)
    state = OptimizerState({"w": moment}, {"w": moment}, step=3, learning_rate=5e-6)
    wide = state.displacement("w", parameter, parameter)
    assert wide.dtype == torch.float32
    assert torch.equal(moment, torch.full((3,), 0.1))


def test_a_saved_state_comes_back_bit_for_bit(tmp_path: Path):
    state = warm_up(tiny_student(), weight_decay=0.1)
    state.save(tmp_path)
    loaded = OptimizerState.load(tmp_path)
    scalars = ["step", "learning_rate", "beta1", "beta2", "epsilon", "weight_decay", "no_decay"]
    assert [getattr(loaded, s) for s in scalars] == [getattr(state, s) for s in scalars]
    assert loaded.no_decay
    assert loaded.step == 10
    for ours, theirs in ((loaded.exp_avg, state.exp_avg), (loaded.exp_avg_sq, state.exp_avg_sq)):
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[n], t) for n, t in theirs.items())


def test_an_optimiser_that_took_no_step_is_refused():
    model = small_model()
    with pytest.raises(InputError, match="it has taken no step"):
        OptimizerState.of(torch.optim.AdamW(model.parameters()), model)


def test_parameter_groups_with_different_learning_rates_are_refused():
    model = small_model()
    optimizer = torch.optim.AdamW([{"params": layer.parameters(), "lr": 10.0**-i} for i, layer in enumerate(model)])
    stepped(model, optimizer)
    with pytest.raises(InputError, match="differ in step count, learning rate"):
        OptimizerState.of(optimizer, model)
