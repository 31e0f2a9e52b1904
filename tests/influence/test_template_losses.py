"""Losses and influences with real templates and tokenizers equal a float64 computation that knows none of our code."""

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from montessori.data.chat import encode_pairs
from montessori.influence import GradientDescent, Taylor, reference_gradient
from tests.data.test_chat_templates import TEMPLATES
from tests.data.trained_tokenizers import tokenizer_of

ROWS = [
    {"id": "a", "instruction": "Name a colour.", "response": "Red."},
    {"id": "b", "instruction": "Add 1 and 2.", "response": "The sum is 3.\n\n1 + 2 = 3"},
    {"id": "c", "instruction": "Why is the sky blue?", "response": "Because it scatters light."},
]
RATE = 1e-3


def truth(model, tokenizer, row) -> torch.Tensor:
    """Return the mean loss of the tokens from the response on, with the space before it, in the template's text."""
    turns = [{"role": "user", "content": row["instruction"]}, {"role": "assistant", "content": row["response"]}]
    text = tokenizer.apply_chat_template(turns, tokenize=False)
    start = len(text[: text.rindex(row["response"])].rstrip(" "))
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    first = next(n for n, (_, end) in enumerate(encoded["offset_mapping"]) if end > start)
    ids = torch.tensor(encoded["input_ids"])
    logprobs = model(ids[None]).logits[0].log_softmax(-1)
    return -logprobs[first - 1 : -1].gather(1, ids[first:, None]).mean()


@pytest.mark.parametrize(
    ("name", "kind"),
    [("zephyr", "prepend"), ("llama_2", "metaspace"), ("gemma3", "metaspace"), ("qwen3", "byte-level")],
)
def test_influence_is_that_of_the_whole_conversation(name: str, kind: str) -> None:
    tokenizer = tokenizer_of(kind, TEMPLATES[name])
    torch.manual_seed(0)
    shape = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), **shape)).double().eval()
    examples = {example.id: example for example in encode_pairs(tokenizer, ROWS, 512).examples}
    gradient, loss = reference_gradient(model, [examples["a"], examples["b"]])
    estimator = Taylor(model, GradientDescent(RATE), gradient)
    (score,) = estimator.score([examples["c"]])

    expected = (truth(model, tokenizer, ROWS[0]) + truth(model, tokenizer, ROWS[1])) / 2
    assert loss == pytest.approx(expected.item(), rel=1e-9)
    parameters = list(model.parameters())
    ours = torch.autograd.grad(expected, parameters)
    theirs = torch.autograd.grad(truth(model, tokenizer, ROWS[2]), parameters)
    influence = RATE * sum((a * b).sum() for a, b in zip(ours, theirs, strict=True))
    assert score.influence == pytest.approx(influence.item(), rel=1e-6)
