"""AdamW's state from the files of a transformers Trainer and of accelerate, found by name."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from torch import nn
from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaForCausalLM,
    MambaConfig,
    MambaForCausalLM,
    Trainer,
    TrainingArguments,
)
from warm_student import random_examples, tiny_lora_student, tiny_student

from montessori.errors import InputError
from montessori.influence import OptimizerState
from montessori.influence.checkpoint import orders, read_state, read_state_dict
from montessori.models.loading import without_storage
from montessori.models.state_folder import state_files


def tied() -> nn.Module:
    config = tiny_student().config
    config.tie_word_embeddings = True
    return LlamaForCausalLM(config)


def with_biases() -> nn.Module:
    return GPT2LMHeadModel(GPT2Config(vocab_size=64, n_embd=32, n_layer=2, n_head=2, n_positions=64))


def with_decayed_vectors() -> nn.Module:
    """Return a Mamba, of which a Trainer decays some vectors and not others."""
    return MambaForCausalLM(MambaConfig(vocab_size=64, hidden_size=16, state_size=4, num_hidden_layers=2))


def trained(model: nn.Module, folder: Path, **arguments: Any) -> tuple[Path, OptimizerState]:
    """Return the checkpoint after 3 of 4 steps of a Trainer, and the state that its optimizer has in memory."""
    rows = [{"input_ids": e.input_ids[:8], "labels": e.input_ids[:8]} for e in random_examples(8, seed=3)]
    settings = TrainingArguments(
        output_dir=str(folder), per_device_train_batch_size=2, max_steps=4, save_steps=3, learning_rate=1e-3,
        report_to="none", use_cpu=True, disable_tqdm=True, logging_strategy="no", **arguments,
    )  # fmt: skip
    states: list[OptimizerState] = []

    class Kept(Trainer):
        def _save_checkpoint(self, *given: Any, **more: Any) -> None:
            super()._save_checkpoint(*given, **more)
            if self.state.global_step == 3:
                state = OptimizerState.of(self.optimizer, self.model)
                m, v = ({n: t.clone() for n, t in ts.items()} for ts in (state.exp_avg, state.exp_avg_sq))
                scalars = {n: getattr(state, n) for n in SCALARS}
                states.append(OptimizerState(m, v, **scalars))

    Kept(model=model, args=settings, train_dataset=rows).train()
    return folder / "checkpoint-3", states[0]


SCALARS = ("step", "learning_rate", "beta1", "beta2", "epsilon", "weight_decay", "no_decay")


def assert_same(found: OptimizerState, expected: OptimizerState) -> None:
    for name in SCALARS:
        assert getattr(found, name) == getattr(expected, name), name
    for ours, theirs in ((found.exp_avg, expected.exp_avg), (found.exp_avg_sq, expected.exp_avg_sq)):
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[name], tensor) for name, tensor in theirs.items())


@pytest.mark.parametrize("build", [tiny_student, tied, with_biases, with_decayed_vectors, tiny_lora_student])
def test_a_trainer_s_checkpoint_gives_the_state_of_its_optimiser_by_name(
    build: Callable[[], nn.Module], tmp_path: Path
) -> None:
    checkpoint, expected = trained(build(), tmp_path, weight_decay=0.1)
    assert expected.no_decay or build is tiny_lora_student
    assert 0 < expected.learning_rate < 1e-3  # the rate of the next step, by the schedule
    found = read_state(checkpoint, without_storage(build()))
    assert_same(found, expected)
    found.save(tmp_path / "own")
    assert_same(read_state(tmp_path / "own", build()), expected)


class Scaled(nn.Module):
    """A decayed vector and an undecayed one of the same shape, which shapes alone do not tell apart."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 3)
        self.scale, self.shift_bias = nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(3))


def test_shapes_that_fit_in_two_ways_need_the_rule_of_a_trainer(tmp_path: Path) -> None:
    model = Scaled()
    decayed = Trainer.get_decay_parameter_names(None, model)  # type: ignore[arg-type]
    assert decayed == ["linear.weight", "scale"]
    named = [*model.named_parameters()]
    groups = [
        {"params": [p for n, p in named if n in decayed], "weight_decay": 0.1},
        {"params": [p for n, p in named if n not in decayed], "weight_decay": 0.0},
    ]
    optimizer = stepped(model, groups)
    torch.save(optimizer.state_dict(), tmp_path / "optimizer.pt")
    with pytest.raises(InputError, match="in more than one way; in the training script save it with OptimizerState"):
        read_state(tmp_path, Scaled())
    (tmp_path / "trainer_state.json").write_text("{}")
    assert_same(read_state(tmp_path, Scaled()), OptimizerState.of(optimizer, model))


def test_another_optimiser_of_a_trainer_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="Adafactor"):
        trained(tiny_student(), tmp_path, optim="adafactor")  # the one in memory
    with pytest.raises(InputError, match=r"optimizer\.pt: the state is that of Adafactor"):
        read_state(tmp_path / "checkpoint-3", tiny_student())


def stepped(model: nn.Module, groups: Any = None) -> torch.optim.Optimizer:
    optimizer = torch.optim.AdamW(groups or model.parameters(), lr=1e-3)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.grad = torch.randn_like(parameter)
    optimizer.step()
    return optimizer


def test_a_folder_of_accelerate_gives_the_state_by_name(tmp_path: Path) -> None:
    accelerator = Accelerator(cpu=True)
    model = tiny_student()
    model, optimizer = accelerator.prepare(model, stepped(model))
    accelerator.save_state(str(tmp_path / "saved"))
    assert (tmp_path / "saved" / "optimizer.bin").is_file()
    assert_same(read_state(tmp_path / "saved", tiny_student()), OptimizerState.of(optimizer, model))


def test_frozen_parameters_may_be_in_the_optimiser(tmp_path: Path) -> None:
    model = tiny_lora_student()
    optimizer = stepped(model)  # all parameters are given to it, and only the adapters have a gradient
    torch.save(optimizer.state_dict(), tmp_path / "optimizer.pt")
    found = read_state(tmp_path, tiny_lora_student())
    assert all("lora" in name for name in found.exp_avg)
    assert_same(found, OptimizerState.of(optimizer, model))


def test_names_in_the_file_count_more_than_the_order(tmp_path: Path) -> None:
    model = tiny_student()
    backwards = [*model.named_parameters()][::-1]
    optimizer = stepped(model, backwards)
    torch.save(optimizer.state_dict(), tmp_path / "optimizer.pt")
    assert_same(read_state(tmp_path, tiny_student()), OptimizerState.of(optimizer, model))


def test_a_state_by_name_as_fsdp_gathers_it_needs_no_order(tmp_path: Path) -> None:
    model = tiny_student()
    optimizer = stepped(model)
    torch.save(get_optimizer_state_dict(model, optimizer), tmp_path / "optimizer.bin")
    assert_same(read_state(tmp_path, tiny_student()), OptimizerState.of(optimizer, model))


def test_the_state_of_another_model_is_refused(tmp_path: Path) -> None:
    torch.save(stepped(tiny_student()).state_dict(), tmp_path / "optimizer.pt")
    with pytest.raises(InputError, match=r"has 21 parameters, and the model has 20 that are trained"):
        read_state(tmp_path, tied())
    other = tiny_student()
    other.lm_head = nn.Linear(32, 65, bias=False)
    with pytest.raises(InputError, match="of another model: its shapes"):
        read_state(tmp_path, other)


class Stranger:
    """Something that a pickle can hold and a state has no need of."""


def test_a_file_that_could_run_code_is_not_opened(tmp_path: Path) -> None:
    torch.save({"state": {}, "param_groups": [Stranger()]}, tmp_path / "optimizer.pt")
    with pytest.raises(InputError, match=r"could run code.*OptimizerState\.of"):
        read_state_dict(tmp_path / "optimizer.pt")
    (tmp_path / "optimizer.pt").write_bytes(b"half a file")
    with pytest.raises(InputError, match="copy it again"):
        read_state_dict(tmp_path / "optimizer.pt")
    torch.save({"model": torch.ones(2)}, tmp_path / "optimizer.pt")
    with pytest.raises(InputError, match="needs state and param_groups"):
        read_state_dict(tmp_path / "optimizer.pt")


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (["zero_to_fp32.py", "trainer_state.json"], r"of DeepSpeed.*safe_get_full_optimizer_state"),
        (["bf16_zero_pp_rank_0_mp_rank_00_optim_states.pt"], "of DeepSpeed"),
        (["optimizer_0", "trainer_state.json"], "of sharded FSDP.*FULL_STATE_DICT"),
        (["optimizer.bin", "optimizer_1.bin"], r"it has optimizer\.bin and optimizer_1\.bin; influence follows one"),
        (["optimizer.bin", "optimizer.pt"], r"it has optimizer\.pt and optimizer\.bin"),
        (["optimizer.json"], "no optimiser state in it; expected is"),
        ([], "no optimiser state in it; expected is"),
    ],
)
def test_a_folder_without_a_readable_state_says_how_to_get_one(tmp_path: Path, files: list[str], message: str) -> None:
    for name in files:
        (tmp_path / name).touch()
    with pytest.raises(InputError, match=message):
        state_files(tmp_path)


def test_orders_are_all_ways_to_deal_the_parameters_out_up_to_two() -> None:
    matrix, vector = (2, 2), (2,)
    parameters = {"a": matrix, "b": vector, "c": matrix, "d": vector}
    assert orders([[matrix, matrix], [vector, vector]], parameters) == [["a", "c", "b", "d"]]
    assert orders([[matrix, vector, matrix, vector]], parameters) == [["a", "b", "c", "d"]]
    assert orders([[vector, vector], [matrix]], parameters) == []
    assert orders([[vector, matrix], [matrix, vector]], parameters) == [["b", "c", "a", "d"]]
    assert len(orders([[matrix], [vector], [matrix], [vector]], parameters)) == 2
