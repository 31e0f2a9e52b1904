import os
import random

import numpy as np
import pytest
import torch
from transformers.utils import logging

from montessori import progress
from montessori.data.chat import Example
from montessori.errors import InputError, StageError
from montessori.influence.adamw import OptimizerState
from montessori.models import loading
from montessori.settings.models import Lora
from montessori.settings.training import Training
from montessori.training.sft import fine_tune
from montessori.training.trainer import LengthSortedSampler, learning_rate_factor


def examples(n, seed=0, vocabulary=384):
    """Conversations of 8 to 40 random tokens, a random part of them the prompt."""
    rng = random.Random(seed)
    lengths = [rng.randint(8, 40) for _ in range(n)]
    return [
        Example(str(i), [rng.randrange(3, vocabulary) for _ in range(length)], rng.randint(2, length - 3))
        for i, length in enumerate(lengths)
    ]


def settings(**changes):
    return Training(**({"learning_rate": 1e-2, "batch_size": 8, "per_device_batch_size": 2} | changes))


def token_loss(model, batch):
    """The mean nll of all answer tokens by hand, one example at a time and without padding."""
    total, tokens = torch.zeros((), dtype=next(model.parameters()).dtype), 0
    for example in batch:
        ids = torch.tensor([example.input_ids])
        log_probs = model(input_ids=ids).logits[0, :-1].log_softmax(-1)
        nll = -log_probs.gather(1, ids[0, 1:, None])[:, 0]
        total = total + nll[example.prompt_length - 1 :].sum()
        tokens += len(example.input_ids) - example.prompt_length
    return total / tokens


def in_order(batch, batch_size, seed):
    """The batches of one epoch."""
    order = list(LengthSortedSampler([len(e.input_ids) for e in batch], batch_size, seed))
    return [[batch[i] for i in order[s : s + batch_size]] for s in range(0, len(order), batch_size)]


def by_hand(model, batches, settings):
    """Plain PyTorch over `batches`: one AdamW step each, on the whole batch at once."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1.0, weight_decay=settings.weight_decay)
    log = []
    for step, batch in enumerate(batches):
        optimizer.param_groups[0]["lr"] = settings.learning_rate * learning_rate_factor(step, len(batches), settings)
        loss = token_loss(model, batch)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), settings.max_gradient_norm)
        optimizer.step()
        optimizer.zero_grad()
        log.append({"step": step + 1, "loss": loss.item(), "learning_rate": optimizer.param_groups[0]["lr"]})
    return log, optimizer


def test_loss_goes_down(tiny_llama, tiny_tokenizer):
    log = fine_tune(tiny_llama(), tiny_tokenizer, examples(16), settings(epochs=20), seed=0).log
    assert log[-1]["loss"] < log[0]["loss"] - 1
    assert [row["step"] for row in log] == list(range(1, 41))


def test_the_first_loss_is_the_mean_over_answer_tokens_in_float64(tiny_llama, tiny_tokenizer):
    data = examples(8)
    log = fine_tune(tiny_llama(), tiny_tokenizer, data, settings(), seed=0).log
    assert log[0]["loss"] == pytest.approx(token_loss(tiny_llama().double(), data).item(), rel=1e-6)


def test_training_equals_plain_pytorch_in_float64(tiny_llama, tiny_tokenizer):
    data, chosen = examples(27), settings(weight_decay=0.1, warm_up_share=0.5, decay_share=0.5)
    model, plain = tiny_llama(), tiny_llama().double()
    result = fine_tune(model, tiny_tokenizer, data, chosen, seed=3)
    log, optimizer = by_hand(plain, in_order(data, 8, 3), chosen)

    assert len(result.log) == len(log) == 4  # the last step has three examples
    for row, expected in zip(result.log, log, strict=True):
        assert row == pytest.approx(expected, rel=1e-4)
    state = OptimizerState.of(optimizer, plain)
    assert (result.optimizer.step, result.optimizer.weight_decay) == (4, 0.1)
    assert result.optimizer.learning_rate == chosen.learning_rate  # the peak, not the last step's
    for name, moment in state.exp_avg.items():
        torch.testing.assert_close(result.optimizer.exp_avg[name].double(), moment, rtol=1e-3, atol=1e-7)
        torch.testing.assert_close(
            result.optimizer.exp_avg_sq[name].double(), state.exp_avg_sq[name], rtol=1e-3, atol=1e-10
        )


def test_micro_batches_do_not_change_the_step(tiny_llama, tiny_tokenizer):
    first, second = tiny_llama(), tiny_llama()
    a = fine_tune(first, tiny_tokenizer, examples(16), settings(per_device_batch_size=1), seed=0)
    b = fine_tune(second, tiny_tokenizer, examples(16), settings(per_device_batch_size=8), seed=0)
    for row, other in zip(a.log, b.log, strict=True):
        assert row == pytest.approx(other, rel=1e-5)
    for name, moment in a.optimizer.exp_avg.items():
        torch.testing.assert_close(moment, b.optimizer.exp_avg[name], rtol=1e-3, atol=1e-6)


def test_the_same_seed_gives_the_same_bits_and_another_seed_another_order(tiny_llama, tiny_tokenizer):
    def run(seed):
        model = tiny_llama(attention_dropout=0.1)
        result = fine_tune(model, tiny_tokenizer, examples(16), settings(), seed=seed)
        return model.state_dict(), result

    (weights, result), (again, repeated), (_, other) = run(5), run(5), run(6)
    assert result.log == repeated.log != other.log
    assert all(torch.equal(weights[name], again[name]) for name in weights)
    moments, moments_again = result.optimizer.exp_avg, repeated.optimizer.exp_avg
    assert all(torch.equal(moments[name], moments_again[name]) for name in moments)


def test_fewer_examples_than_a_batch_still_make_a_step_every_epoch(tiny_llama, tiny_tokenizer):
    log = fine_tune(tiny_llama(), tiny_tokenizer, examples(3), settings(epochs=2), seed=0).log
    assert len(log) == 2


def test_no_examples_are_an_error(tiny_llama, tiny_tokenizer):
    with pytest.raises(StageError, match="max_length"):
        fine_tune(tiny_llama(), tiny_tokenizer, [], settings(), seed=0)


def test_a_diverging_training_ends_with_what_to_change(tiny_llama, tiny_tokenizer):
    model = tiny_llama()
    with torch.no_grad():
        model.lm_head.weight[0, 0] = float("nan")
    with pytest.raises(StageError, match=r"loss is nan at step 1 of 2.*lower learning_rate"):
        fine_tune(model, tiny_tokenizer, examples(16), settings(), seed=0)


def test_progress_is_reported_step_by_step(tiny_llama, tiny_tokenizer):
    reports = []
    with progress.send_to(lambda *report: reports.append(report)):
        fine_tune(tiny_llama(), tiny_tokenizer, examples(16), settings(), seed=0)
    assert [report[:3] for report in reports] == [(0, 2, "steps"), (1, 2, "steps"), (2, 2, "steps")]
    assert reports[-1][3].startswith("loss ")


def test_nothing_is_left_behind(tiny_llama, tiny_tokenizer, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    model = tiny_llama()
    attributes, environment = set(vars(model)), dict(os.environ)
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    logging.set_verbosity_info()
    try:
        fine_tune(model, tiny_tokenizer, examples(8), settings(gradient_checkpointing=True), seed=0)
        assert logging.get_verbosity() == logging.INFO
    finally:
        logging.set_verbosity_warning()
    assert set(vars(model)) == attributes
    assert "forward" not in vars(model)
    assert model.config.use_cache
    assert not model.training
    assert not model.is_activation_checkpointing
    assert all(p.grad is None for p in model.parameters())
    assert torch.equal(torch.get_rng_state(), states[0])
    assert (random.getstate(), np.random.get_state()[1].tolist()) == states[1:]
    assert os.environ == environment
    assert not list(tmp_path.iterdir())
    assert capfd.readouterr().out == ""


def test_gradient_checkpointing_changes_no_bit(tiny_llama, tiny_tokenizer):
    plain, checkpointed = tiny_llama(), tiny_llama()
    fine_tune(plain, tiny_tokenizer, examples(8), settings(), seed=0)
    fine_tune(checkpointed, tiny_tokenizer, examples(8), settings(gradient_checkpointing=True), seed=0)
    pairs = zip(plain.parameters(), checkpointed.parameters(), strict=True)
    assert all(torch.equal(p, q) for p, q in pairs)


def test_bfloat16_weights_learn_in_float32(tiny_llama, tiny_tokenizer):
    model = tiny_llama().bfloat16()
    before = [p.float().clone() for p in model.parameters()]
    fine_tune(model, tiny_tokenizer, examples(8), settings(learning_rate=5e-6, warm_up_share=0), seed=0)
    moved = torch.cat([(p - b).abs().flatten() for p, b in zip(model.parameters(), before, strict=True)])
    assert all(p.dtype == torch.float32 for p in model.parameters())
    assert (moved > 0).float().mean() > 0.5  # in bfloat16 nearly all of these steps would be rounded away


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_lora_trains_only_the_adapters(tiny_llama, tiny_tokenizer, dtype):
    model = loading.add_lora(tiny_llama().to(dtype), Lora(rank=2), seed=0)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    result = fine_tune(model, tiny_tokenizer, examples(16), settings(epochs=2), seed=0)
    for name, parameter in model.named_parameters():
        assert parameter.requires_grad == ("lora_" in name)
        assert torch.equal(parameter, before[name]) != ("lora_" in name)
    assert set(result.optimizer.exp_avg) == {name for name in before if "lora_" in name}


def test_the_order_is_fresh_every_epoch_and_sorted_within_a_step():
    lengths = [random.Random(i).randint(1, 50) for i in range(37)]
    sampler = LengthSortedSampler(lengths, 8, seed=0)
    epochs = [list(sampler), list(sampler)]
    assert [sorted(order) for order in epochs] == [list(range(37))] * 2
    assert epochs[0] != epochs[1]
    for order in epochs:
        for start in range(0, 37, 8):
            step = [lengths[row] for row in order[start : start + 8]]
            assert step == sorted(step)


def test_a_batch_that_the_processes_cannot_share_evenly_is_wrong_input(tiny_llama, tiny_tokenizer, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "3")
    with pytest.raises(InputError, match=r"batch_size \(8\) must be a multiple .* \(2 x 3\)"):
        fine_tune(tiny_llama(), tiny_tokenizer, examples(8), settings(), seed=0)
