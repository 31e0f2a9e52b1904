"""A student that has learned its training set gives its answers, whatever its template and tokenizer."""

import copy
import json

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from montessori.data.chat import encode_pairs
from montessori.evaluation.metrics import exact_match
from montessori.models import loading
from montessori.settings.models import Chat
from montessori.settings.training import Dpo, Training
from montessori.synthesis.engines.transformers import TransformersEngine
from montessori.training.dpo import train_dpo
from montessori.training.sft import fine_tune
from tests.data.test_chat_templates import FOLDER, LLAMA_2, ZEPHYR
from tests.data.trained_tokenizers import tokenizer_of

COLOURS = ("Red.", "Blue.", "Green.", "Pink.")
ROWS = [
    {"id": f"{n}", "instruction": f"Name the colour of number {n}.", "response": colour}
    for n, colour in enumerate(COLOURS)
]
OWN = {"llama_2": LLAMA_2, "zephyr": ZEPHYR}


@pytest.fixture
def student_of(tmp_path):
    """`student_of(template, kind, chat)` returns a new model and tokenizer, loaded from a folder."""

    def build(name: str, kind: str, settings: Chat | None = None):
        tokenizer = tokenizer_of(kind, OWN.get(name) or (FOLDER / f"{name}.jinja").read_text())
        torch.manual_seed(0)
        config = LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=512,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,  # as in a base model, whose template ends answers otherwise
        )
        loading.save(LlamaForCausalLM(config), tokenizer, tmp_path)
        return loading.load_model(tmp_path), loading.load_tokenizer(tmp_path, chat=settings)

    return build


@pytest.mark.parametrize(
    ("name", "kind", "variables"),
    [
        ("qwen2_5", "byte-level", {}),
        ("qwen3", "byte-level", {}),
        ("qwen3", "byte-level", {"enable_thinking": False}),
        ("gemma3", "metaspace", {}),
        ("llama_2", "prepend", {}),
        ("zephyr", "prepend", {}),
        ("deepseek_r1_distill", "byte-level", {}),
    ],
)
def test_a_student_answers_as_it_was_trained(student_of, name: str, kind: str, variables: dict) -> None:
    model, tokenizer = student_of(name, kind, Chat(variables=variables))
    settings = Training(learning_rate=5e-3, epochs=60, batch_size=4, per_device_batch_size=4)
    examples = encode_pairs(tokenizer, ROWS, 256).examples
    assert fine_tune(model, tokenizer, examples, settings, seed=0).log[-1]["loss"] < 0.3
    assert exact_match(TransformersEngine(model.eval(), tokenizer), ROWS, 12) == [1.0] * len(ROWS)


@pytest.mark.parametrize(("name", "kind"), [("deepseek_r1_distill", "byte-level"), ("llama_2", "prepend")])
def test_a_teacher_with_any_template_is_tuned_on_its_pairs(student_of, name: str, kind: str) -> None:
    model, tokenizer = student_of(name, kind)
    pairs = [
        {"prompt": [{"role": "user", "content": row["instruction"]}], "chosen": "Red.", "rejected": " Blue."}
        for row in ROWS
    ]
    before = copy.deepcopy(model.state_dict())
    result = train_dpo(model, tokenizer, pairs, Dpo(batch_size=2, per_device_batch_size=1), max_length=256, seed=0)
    assert (result.trained, result.dropped) == (len(pairs), 0)
    assert any(not torch.equal(before[name], weight) for name, weight in model.state_dict().items())


def test_a_template_its_variables_and_its_date_go_with_a_saved_model(student_of, tmp_path) -> None:
    template = (FOLDER / "llama3_2.jinja").read_text()
    model, tokenizer = student_of("qwen3", "byte-level", Chat(template=template, variables={"a": 1}, date="2025-02-03"))
    loading.save(model, tokenizer, tmp_path / "saved")
    again = loading.load_tokenizer(tmp_path / "saved")
    (text,) = [again.apply_chat_template([{"role": "user", "content": "Hi."}], tokenize=False)]
    assert "03 Feb 2025" in text
    assert again.init_kwargs["chat_template_kwargs"] == {"a": 1}
    assert json.loads((tmp_path / "saved" / "tokenizer_config.json").read_text())["chat_template_kwargs"] == {"a": 1}
