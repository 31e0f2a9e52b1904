"""The numbers of real model families, and what keeps a batch from changing them."""

import json

import pytest
import torch
import transformers
from families import (
    DRAWN,
    GREEDY,
    Measured,
    answers,
    build,
    build_config,
    generated_alone,
    gradient_error,
    measure,
    plain_loss,
    points,
    reloads,
    scoring_error,
    texts,
    tokenizer,
    training_error,
)
from torch import nn

from montessori.errors import InputError
from montessori.influence.per_sample import PerSampleGradients
from montessori.influence.reference import example_losses
from montessori.models import loading
from montessori.models.families import EQUAL_LENGTHS, PADDED, batching, context_of, share_a_batch
from montessori.models.folder import check_model_folder
from montessori.settings.models import Lora
from montessori.synthesis.engines.transformers import TransformersEngine

# A window of its own, sliding windows, a state, a convolution, distances in place of positions, both of linear and full
# attention, a state that transformers mixes in a batch, and chunks.
SAMPLE = ["gpt_neo", "gemma2", "mamba2", "lfm2", "bloom", "qwen3_5_text", "rwkv", "llama4_text"]


@pytest.mark.parametrize("model_type", SAMPLE)
def test_greedy_answers_are_those_of_generate_for_one_prompt(model_type):
    model = build(model_type)
    expected = generated_alone(model)
    assert len({text for (text, _), _ in expected}) > 5
    assert answers(model, GREEDY, 4) == expected
    assert answers(model, DRAWN, 4) == answers(model, DRAWN, 1)


@pytest.mark.parametrize("model_type", SAMPLE)
def test_gradients_of_points_are_those_of_autograd_one_by_one(model_type):
    assert scoring_error(build(model_type)) < 1e-6


@pytest.mark.parametrize("model_type", ["mixtral", "llama4_text", "afmoe", "gemma3", "recurrent_gemma"])
def test_a_training_has_the_loss_of_its_points_and_no_other(model_type):
    """Without the loss that balances experts, and with a cap on logits.

    A bias frozen by design and a tower for pictures have no state to miss.
    """
    assert training_error(build(model_type)) < 1e-6


@pytest.mark.long
@pytest.mark.parametrize(
    "model_type",
    sorted(PADDED | EQUAL_LENGTHS | {"rwkv", "ctrl", "gemma3", "gemma4", "llama4", "qwen3_5"}),
)
def test_all_numbers_of_a_family_are_right(model_type):
    measured = measure(model_type)
    assert isinstance(measured, Measured)
    assert measured.right, measured


def test_a_model_with_code_of_its_own_is_not_known(tiny_llama):
    class Own(transformers.LlamaForCausalLM):
        pass

    model = tiny_llama()
    assert batching(model) == "padded"
    assert batching(loading.add_lora(model, Lora(rank=2), seed=0)) == "padded"
    model.__class__ = Own
    assert batching(model) == "alone"
    assert not share_a_batch(model, [3, 4])
    assert batching(nn.Linear(2, 2)) == "alone"


def test_kinds_of_layers_that_a_known_type_can_be_set_to_are_not_padded():
    model = build("gemma2")
    assert batching(model) == "padded"
    model.config.layer_types = ["chunked_attention", "full_attention"]
    assert batching(model) == "equal lengths"


@pytest.fixture
def long_rotations():
    """A model that rotates positions otherwise once a text is longer than 16 tokens."""
    config = transformers.Phi3Config(
        vocab_size=96, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
        max_position_embeddings=64, original_max_position_embeddings=16, pad_token_id=0, bos_token_id=1,
        eos_token_id=2, initializer_range=0.3,
        rope_parameters={
            "rope_type": "longrope", "rope_theta": 1e4, "short_factor": [1.0] * 8, "long_factor": [9.0] * 8,
            "original_max_position_embeddings": 16,
        },
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return transformers.Phi3ForCausalLM(config).eval()


def test_a_short_text_is_not_rotated_as_a_long_one_of_its_batch(long_rotations):
    assert share_a_batch(long_rotations, [3, 16])
    assert share_a_batch(long_rotations, [17, 30])
    assert not share_a_batch(long_rotations, [16, 17])
    assert answers(long_rotations, GREEDY, 4) == generated_alone(long_rotations)
    wide = long_rotations.double()
    batch = points()
    assert example_losses(wide, batch).tolist() == pytest.approx([plain_loss(wide, p).item() for p in batch], rel=1e-6)
    assert gradient_error(wide, batch) < 1e-6


class Borrowing(nn.Module):
    """Multiply by the weights of a layer without calling it."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x):
        return nn.functional.linear(x, self.layer.weight)


def test_weights_that_are_read_outside_of_their_layer_keep_their_gradient(tiny_llama):
    model = tiny_llama(vocab_size=96).double()
    for layer in model.model.layers:
        layer.mlp.up_proj = Borrowing(layer.mlp.up_proj)
    assert PerSampleGradients(model).one_pass  # nothing shows in the layers themselves
    assert gradient_error(model, points()) < 1e-10


def test_a_model_without_positions_has_the_context_of_its_setting():
    model = build("mamba")
    prompt = [{"role": "user", "content": " ".join(f"w{i}" for i in texts([300])[0])}]
    ((_, answer),) = TransformersEngine(model, tokenizer()).generate([prompt], GREEDY, 1, [0])
    assert (answer.prompt_tokens, answer.cut) == (300, False)
    ((_, answer),) = TransformersEngine(model, tokenizer(), context=50).generate([prompt], GREEDY, 1, [0])
    assert (answer.prompt_tokens, answer.cut) == (50 - GREEDY.max_tokens, True)
    assert context_of(build("mpt")) == context_of(build("gemma3")) == 256


@pytest.mark.parametrize("model_type", ["bert", "xlnet", "bart"])
def test_a_model_that_does_not_continue_a_text_is_refused_by_name(model_type, tmp_path):
    loading.save(build(model_type), tokenizer(), tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    if model_type == "bart":  # saved as what AutoModelForCausalLM makes of it: the decoder alone
        config["is_encoder_decoder"] = True
        (tmp_path / "config.json").write_text(json.dumps(config))
    for look in (check_model_folder, loading.load_model, loading.skeleton):
        with pytest.raises(InputError, match=f"a model of type {model_type} .* give a causal language model"):
            look(tmp_path)


def test_an_encoder_that_was_made_a_decoder_is_accepted(tmp_path):
    model = build("bert")
    model.config.is_decoder = True
    loading.save(model, tokenizer(), tmp_path)
    check_model_folder(tmp_path)
    loaded = loading.load_model(tmp_path)
    assert answers(loaded, GREEDY, 4) == generated_alone(loaded)


SHELLS = {
    "gemma3": "Gemma3ForConditionalGeneration",
    "llama4": "Llama4ForConditionalGeneration",
    "qwen3_5": "Qwen3_5ForConditionalGeneration",
}


@pytest.mark.parametrize("model_type", SHELLS)
def test_of_a_model_with_a_tower_for_pictures_the_text_part_is_trained(model_type, tmp_path):
    whole = getattr(transformers, SHELLS[model_type])(build_config(model_type)).eval()
    loading.save(whole, tokenizer(), tmp_path)
    model = loading.load_model(tmp_path)
    ids = torch.tensor([texts()[4]])
    reader = whole.language_model if model_type == "llama4" else whole  # which has no answer for text alone
    with torch.no_grad():
        torch.testing.assert_close(model(input_ids=ids).logits, reader(input_ids=ids).logits)
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert trained
    assert not [name for name in trained if "vision" in name or "projector" in name]
    shape = {name for name, p in loading.skeleton(tmp_path).named_parameters() if p.requires_grad}
    assert shape == trained
    assert reloads(model)
    adapters = loading.add_lora(model, Lora(rank=2), seed=0)
    assert not [name for name, p in adapters.named_parameters() if p.requires_grad and "vision" in name]
