"""Tiny real models, built here: nothing is downloaded."""

from collections.abc import Callable

import pytest
import torch
from seeds import seeds
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from montessori.data.template import DEFAULT_TEMPLATE

TEXT = [
    "Name three colours of the rainbow: red, green and blue.",
    "Write a short poem about the sea and the wind.",
    "What is the capital of France? The capital of France is Paris.",
    "Sort the words apple, pear and plum by their length.",
    "<instruction>Explain why the sky is blue.</instruction>",
    "Add 12 and 30, then say whether the sum is even or odd. The sum is 42, which is even.",
]


LONG = {"s3_server", "bucket", "images", "stack"}  # fixtures that start servers, for which no test of `make test` waits


def pytest_report_header() -> str:
    return f"random tests take the seeds of this commit: {', '.join(map(str, seeds(3)))}"


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if LONG & set(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.long)


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)  # bit-identical repeats need a fixed thread count


@pytest.fixture(scope="session")
def tiny_tokenizer() -> PreTrainedTokenizerBase:
    """A byte-level BPE of 384 pieces with <pad>, <s>, </s> and the default chat template."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=384,
        special_tokens=["<pad>", "<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXT, trainer)
    wrapped = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="</s>")
    wrapped.chat_template = DEFAULT_TEMPLATE
    return wrapped


@pytest.fixture
def tiny_llama(tiny_tokenizer: PreTrainedTokenizerBase) -> Callable[..., LlamaForCausalLM]:
    """`tiny_llama(seed=0, **config)` builds a fresh float32 Llama of 43,000 parameters."""

    def build(seed: int = 0, **config: object) -> LlamaForCausalLM:
        shape = {
            "vocab_size": len(tiny_tokenizer),
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": 256,
            "pad_token_id": tiny_tokenizer.pad_token_id,
            "bos_token_id": tiny_tokenizer.bos_token_id,
            "eos_token_id": tiny_tokenizer.eos_token_id,
        }
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return LlamaForCausalLM(LlamaConfig(**(shape | config))).eval()

    return build
