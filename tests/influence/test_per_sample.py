"""Gradients of the points of a batch, against autograd one point at a time, across architectures."""

from collections import defaultdict
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn
from warm_student import plain_loss, random_examples, tiny_lora_student

from montessori.data.chat import Example
from montessori.influence.per_sample import PerSampleGradients

SMALL = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "pad_token_id": None,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
# name: model type, its own settings, whether the points of a batch can share a backward pass
FAMILIES: dict[str, tuple[str, dict[str, Any], bool]] = {
    "llama": ("Llama", SMALL, True),
    "llama, tied": ("Llama", SMALL | {"tie_word_embeddings": True}, True),
    "llama, padding row": ("Llama", SMALL | {"pad_token_id": 5}, True),
    "llama, tied, padding row": ("Llama", SMALL | {"pad_token_id": 5, "tie_word_embeddings": True}, True),
    "mistral": ("Mistral", SMALL | {"sliding_window": 8}, True),
    "qwen2, biases": ("Qwen2", SMALL, True),
    "qwen3, norms of heads": ("Qwen3", SMALL | {"head_dim": 8}, True),
    "gemma2, scaled embedding": ("Gemma2", SMALL | {"head_dim": 8}, False),
    "gpt2, positions": ("GPT2", {"vocab_size": 64, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}, False),
    "gpt-neox": ("GPTNeoX", SMALL, True),
    "phi": ("Phi", SMALL, True),
    "olmo2": ("Olmo2", SMALL, True),
    "smollm3": ("SmolLM3", SMALL, True),
    "opt": ("OPT", SMALL | {"ffn_dim": 48, "word_embed_proj_dim": 32}, False),
    "mixtral, experts": ("Mixtral", SMALL | {"num_local_experts": 4}, False),
    "mamba": ("Mamba", {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2, "state_size": 4}, False),
}


def gradients(model: nn.Module, examples: list[Example]) -> tuple[dict[str, list[Tensor]], list[float], bool]:
    found: dict[str, list[Tensor]] = defaultdict(lambda: [torch.empty(0)] * len(examples))
    shapes = {n: p.shape for n, p in model.named_parameters()}

    def consume(name: str, place: int, gradient: Tensor, rows: Tensor | None) -> None:
        assert not found[name][place].numel()
        whole = gradient.clone()
        if rows is not None:
            whole = torch.zeros(shapes[name]).index_add_(0, rows, gradient)
        found[name][place] = whole

    per_sample = PerSampleGradients(model)
    losses = per_sample.for_each(examples, consume)
    return found, losses, per_sample.one_pass


def expect_autograd(model: nn.Module, examples: list[Example], found: dict[str, list[Tensor]]) -> None:
    trainable = {n: p for n, p in model.named_parameters() if p.requires_grad}
    assert found.keys() == trainable.keys()
    for i, example in enumerate(examples):
        expected = torch.autograd.grad(plain_loss(model, example), list(trainable.values()), materialize_grads=True)
        for name, gradient in zip(trainable, expected, strict=True):
            torch.testing.assert_close(found[name][i], gradient, rtol=1e-4, atol=2e-6, msg=f"{name} of point {i}")


@pytest.mark.parametrize("family", FAMILIES)
def test_gradients_of_a_batch_are_those_of_its_points(family: str):
    torch.set_num_threads(1)
    torch.manual_seed(0)
    kind, settings, shared = FAMILIES[family]
    config = getattr(transformers, f"{kind}Config")(**settings)
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    examples = [Example("whole", [3, 5, 5, 9], 0), *random_examples(4, seed=1)]
    found, losses, was_shared = gradients(model, examples)
    assert was_shared == shared
    assert losses == pytest.approx([plain_loss(model, e).item() for e in examples], rel=1e-5)
    expect_autograd(model, examples, found)
    assert all(p.requires_grad and p.grad is None for p in model.parameters())


def test_of_a_lora_model_only_the_adapters_have_gradients():
    model, examples = tiny_lora_student().eval(), random_examples(4, seed=2)
    for p in model.parameters():  # LoRA's second factors begin at zero, where half of the gradients vanish
        if p.requires_grad:
            p.data.normal_(0, 0.1)
    found, _, shared = gradients(model, examples)
    assert shared
    expect_autograd(model, examples, found)


def test_a_layer_used_twice_has_the_sum_of_both_gradients():
    torch.manual_seed(0)
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**SMALL, use_cache=False)).eval()
    model.model.layers[1] = model.model.layers[0]
    examples = random_examples(3, seed=3)
    found, _, shared = gradients(model, examples)
    assert shared
    expect_autograd(model, examples, found)


def test_a_parameter_that_nothing_uses_has_a_gradient_of_zero():
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**SMALL)).eval()
    model.unused = nn.Linear(3, 3)
    examples = random_examples(2, seed=5)
    expect_autograd(model, examples, gradients(model, examples)[0])


def test_a_single_point_is_a_batch_of_one():
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**SMALL)).eval()
    examples = random_examples(1, seed=4)
    expect_autograd(model, examples, gradients(model, examples)[0])
