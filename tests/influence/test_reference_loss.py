"""The reference loss and its gradient, against transformers' own loss one example at a time."""

from pathlib import Path

import pytest
import torch
from torch import nn
from warm_student import plain_loss, random_examples, tiny_student, warm_up

from montessori.data.chat import Example
from montessori.errors import InputError
from montessori.influence import (
    ReferenceGradient,
    example_loss,
    reference_gradient,
    reference_loss,
)


@pytest.fixture(scope="module")
def model() -> nn.Module:
    torch.set_num_threads(1)
    return tiny_student().eval()


def hf_loss(model: nn.Module, example: Example) -> float:
    ids = torch.tensor([example.input_ids])
    labels = ids.clone()
    labels[0, : example.prompt_length] = -100
    return model(input_ids=ids, labels=labels).loss.item()


def test_losses_are_those_of_transformers_in_the_order_given(model: nn.Module):
    examples = random_examples(30, seed=3)
    mean, losses = reference_loss(model, examples)
    expected = [hf_loss(model, e) for e in examples]
    assert losses == pytest.approx(expected, rel=1e-6)
    assert mean == pytest.approx(sum(expected) / len(expected), rel=1e-6)
    assert example_loss(model, examples[0]).item() == pytest.approx(expected[0], rel=1e-6)


def test_the_very_first_token_is_never_predicted(model: nn.Module):
    example = Example("whole", [5, 6, 7, 8], prompt_length=0)
    assert example_loss(model, example).item() == pytest.approx(hf_loss(model, example), rel=1e-6)


@pytest.mark.parametrize("padded_tokens", [1, 50, 100_000])
def test_the_mean_and_its_gradient_do_not_depend_on_the_batch_size(model: nn.Module, padded_tokens: int):
    examples = random_examples(13, seed=4)
    longest = max(len(e.input_ids) for e in examples)
    batch_tokens: list[int] = []
    model.get_input_embeddings().register_forward_pre_hook(lambda _, args: batch_tokens.append(args[0].numel()))
    expected = sum(plain_loss(model, e) for e in examples) / len(examples)
    names = [n for n, _ in model.named_parameters()]
    expected_gradient = dict(zip(names, torch.autograd.grad(expected, list(model.parameters())), strict=True))
    gradient, loss = reference_gradient(model, examples, padded_tokens)
    assert max(batch_tokens) <= max(padded_tokens, longest)
    assert loss == pytest.approx(expected.item(), rel=1e-6)
    assert reference_loss(model, examples, padded_tokens)[0] == pytest.approx(expected.item(), rel=1e-6)
    assert gradient.keys() == expected_gradient.keys()
    for name, tensor in gradient.items():
        torch.testing.assert_close(tensor, expected_gradient[name], rtol=1e-4, atol=1e-7)


def test_a_long_example_counts_no_more_than_a_short_one(model: nn.Module):
    short, long = Example("s", [1, 2, 3], 2), Example("l", [1, 2, *range(3, 40)], 2)
    mean, (first, second) = reference_loss(model, [short, long])
    assert mean == pytest.approx((first + second) / 2)


def test_an_empty_reference_set_is_refused(model: nn.Module):
    with pytest.raises(InputError, match="reference set is empty"):
        reference_loss(model, [])
    with pytest.raises(InputError, match="reference set is empty"):
        reference_gradient(model, [])


def test_the_gradient_of_a_bfloat16_student_is_summed_in_float32():
    gradient, _ = reference_gradient(tiny_student().bfloat16(), random_examples(3, seed=5), token_budget=1)
    assert {t.dtype for t in gradient.values()} == {torch.float32}


def test_a_saved_reference_gradient_comes_back_bit_for_bit(tmp_path: Path):
    model = tiny_student()
    warm_up(model)
    gradient, loss = reference_gradient(model, random_examples(3, seed=6))
    saved = ReferenceGradient(gradient, loss, n=3, momentum_influence=1.25e-5)
    saved.save(tmp_path)
    loaded = ReferenceGradient.load(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["gradient.json", "gradient.safetensors"]
    assert (loaded.loss, loaded.n, loaded.momentum_influence) == (loss, 3, 1.25e-5)
    assert loaded.gradient.keys() == gradient.keys()
    assert all(torch.equal(loaded.gradient[n], t) for n, t in gradient.items())
