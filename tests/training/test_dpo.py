import copy
import math

import pytest
import torch

from montessori.data.chat import encode, user
from montessori.errors import StageError
from montessori.models import loading
from montessori.settings.models import Lora
from montessori.settings.training import Dpo
from montessori.training.dpo import train_dpo

CHOSEN = "Practises sums.\n<instruction>Add two numbers and say whether the sum is even.</instruction>"
REJECTED = "Practises colours.\n<instruction>Name the capital of the sea.</instruction>"


def pairs(n):
    return [
        {"prompt": user(f"Write task {i}."), "chosen": f"{i} {CHOSEN}", "rejected": f"{REJECTED} {i}"} for i in range(n)
    ]


def settings(**changes):
    chosen = {"learning_rate": 1e-3, "batch_size": 4, "per_device_batch_size": 2, "warm_up_share": 0.0}
    return Dpo(**(chosen | changes))


def log_prob(model, tokenizer, pair, answer):
    """log π of an answer, summed over its tokens, by hand."""
    example = encode(tokenizer, "x", pair["prompt"], pair[answer], max_length=256)
    assert example is not None
    ids = torch.tensor([example.input_ids])
    log_probs = model(input_ids=ids).logits[0, :-1].log_softmax(-1).gather(1, ids[0, 1:, None])[:, 0]
    return log_probs[example.prompt_length - 1 :].sum()


def mean_margin(model, tokenizer, data):
    with torch.no_grad():
        margins = [
            log_prob(model, tokenizer, pair, "chosen") - log_prob(model, tokenizer, pair, "rejected") for pair in data
        ]
    return torch.stack(margins).mean().item()


def test_the_first_loss_is_ln_2_and_the_margin_grows(tiny_llama, tiny_tokenizer):
    model, data = tiny_llama(), pairs(8)
    before = mean_margin(model, tiny_tokenizer, data)
    log = train_dpo(model, tiny_tokenizer, data, settings(epochs=3), max_length=256, seed=0).log
    after = mean_margin(model, tiny_tokenizer, data)
    assert log[0]["loss"] == pytest.approx(math.log(2), abs=1e-7)
    assert log[0]["reward_margin"] == 0
    assert after > before + 1
    assert log[-1]["reward_accuracy"] == 1
    assert log[-1]["reward_margin"] > 0.01
    assert [row["step"] for row in log] == list(range(1, 7))


def test_the_log_shows_loss_and_drift_as_computed_by_hand_in_float64(tiny_llama, tiny_tokenizer):
    data, beta = pairs(4), 0.1
    model, first = tiny_llama(), tiny_llama()
    train_dpo(first, tiny_tokenizer, data, settings(decay_share=0.0), max_length=256, seed=0)  # one step, as below
    log = train_dpo(model, tiny_tokenizer, data, settings(epochs=2, decay_share=0.0), max_length=256, seed=0).log
    policy, reference = first.double(), tiny_llama().double()
    logp = {
        (name, answer): torch.stack([log_prob(m, tiny_tokenizer, pair, answer) for pair in data])
        for name, m in {"policy": policy, "reference": reference}.items()
        for answer in ("chosen", "rejected")
    }
    chosen = beta * (logp["policy", "chosen"] - logp["reference", "chosen"])
    rejected = beta * (logp["policy", "rejected"] - logp["reference", "rejected"])
    expected = {
        "loss": -torch.nn.functional.logsigmoid(chosen - rejected).mean().item(),
        "chosen_reward": chosen.mean().item(),
        "rejected_reward": rejected.mean().item(),
        "reward_margin": (chosen - rejected).mean().item(),
        "chosen_logp": logp["policy", "chosen"].mean().item(),
        "rejected_logp": logp["policy", "rejected"].mean().item(),
    }
    assert {key: log[1][key] for key in expected} == pytest.approx(expected, rel=1e-3, abs=1e-5)
    assert log[1]["learning_rate"] == 1e-3


def test_the_first_gradient_is_that_of_the_dpo_loss(tiny_llama, tiny_tokenizer):
    data, model, plain = pairs(4), tiny_llama(), tiny_llama().double()
    before = [p.detach().clone().double() for p in model.parameters()]
    train_dpo(model, tiny_tokenizer, data, settings(decay_share=0.0), max_length=256, seed=0)
    reference = tiny_llama().double()
    margins = [
        log_prob(plain, tiny_tokenizer, pair, "chosen")
        - log_prob(plain, tiny_tokenizer, pair, "rejected")
        - log_prob(reference, tiny_tokenizer, pair, "chosen").detach()
        + log_prob(reference, tiny_tokenizer, pair, "rejected").detach()
        for pair in data
    ]
    (-torch.nn.functional.logsigmoid(0.1 * torch.stack(margins)).mean()).backward()
    for parameter, old, hand in zip(model.parameters(), before, plain.parameters(), strict=True):
        assert hand.grad is not None
        large = hand.grad.abs() > 1e-4  # AdamW's first step is the gradient's sign, where rounding cannot flip it
        step = (parameter.detach().double() - old)[large]
        torch.testing.assert_close(step, -1e-3 * hand.grad[large].sign(), rtol=1e-2, atol=1e-6)


def test_the_same_seed_gives_the_same_bits(tiny_llama, tiny_tokenizer):
    first, second = tiny_llama(), tiny_llama()
    a = train_dpo(first, tiny_tokenizer, pairs(8), settings(), max_length=256, seed=1)
    b = train_dpo(second, tiny_tokenizer, pairs(8), settings(), max_length=256, seed=1)
    assert a == b
    assert all(torch.equal(p, q) for p, q in zip(first.parameters(), second.parameters(), strict=True))


def test_lora_moves_only_its_adapters_away_from_where_they_were(tiny_llama, tiny_tokenizer):
    model = loading.add_lora(tiny_llama(), Lora(rank=2), seed=0)
    train_dpo(model, tiny_tokenizer, pairs(4), settings(), max_length=256, seed=0)  # adapters are no longer zero
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    log = train_dpo(model, tiny_tokenizer, pairs(8), settings(epochs=2), max_length=256, seed=0).log
    after = dict(model.named_parameters())
    assert log[0]["loss"] == pytest.approx(math.log(2), abs=1e-7)  # the reference is the adapter as it came
    assert log[-1]["reward_margin"] > 0
    assert list(model.peft_config) == ["default"]
    assert after.keys() == before.keys()
    for name, parameter in after.items():
        assert parameter.requires_grad == ("lora_" in name)
        assert torch.equal(parameter, before[name]) != ("lora_" in name)


def test_a_copy_of_a_trained_model_computes_with_its_own_weights(tiny_llama, tiny_tokenizer):
    model = tiny_llama()
    train_dpo(model, tiny_tokenizer, pairs(4), settings(), max_length=256, seed=0)
    twin = copy.deepcopy(model)
    with torch.no_grad():
        twin.lm_head.weight.zero_()
    assert twin(input_ids=torch.tensor([[5, 6]])).logits.abs().max() == 0


def test_pairs_that_do_not_fit_are_counted(tiny_llama, tiny_tokenizer):
    data = pairs(4)
    data[0]["prompt"] = user("Write a very long task. " * 100)
    data[1]["chosen"] = CHOSEN * 20
    data[2]["rejected"] = "  "
    result = train_dpo(tiny_llama(), tiny_tokenizer, data, settings(), max_length=200, seed=0)
    assert (result.trained, result.dropped, result.truncated) == (2, 2, 1)


def test_no_pairs_are_an_error_that_says_what_to_change(tiny_llama, tiny_tokenizer):
    with pytest.raises(StageError, match=r"set preferences\.split to prompt_mean"):
        train_dpo(tiny_llama(), tiny_tokenizer, [], settings(), max_length=256, seed=0)
    with pytest.raises(StageError, match="none of the 4 preference pairs fits into 16 tokens"):
        train_dpo(tiny_llama(), tiny_tokenizer, pairs(4), settings(), max_length=16, seed=0)
