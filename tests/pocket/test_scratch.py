import pytest
import torch

from montessori.data.chat import encode, prompt_ids, user
from montessori.errors import InputError
from montessori.models import loading
from montessori.pocket import scratch, world
from montessori.settings.models import Scratch

TINY = Scratch(vocabulary=400, hidden=32, layers=1, heads=2, context=128, steps=30, batch_size=4, learning_rate=1e-2)
ROWS = [{"instruction": f"Name {n} towns in Spain.", "response": f"Madrid and {n} more."} for n in range(20)]


@pytest.fixture(scope="module")
def conversations():
    return world.student_conversations(400, 0)


@pytest.fixture(scope="module")
def trained(conversations):
    model, tokenizer = scratch.build(conversations, TINY, 0)
    return model, tokenizer, scratch.train(model, tokenizer, conversations, TINY, seed=0)


def test_training_lowers_the_loss_and_logs_each_step(trained):
    _, _, log = trained
    assert [row["step"] for row in log] == list(range(1, 31))
    assert log[-1]["loss"] < log[0]["loss"] - 2
    assert max(row["learning_rate"] for row in log) == TINY.learning_rate


def test_the_same_seed_gives_the_same_model_to_the_bit(conversations, trained):
    model, tokenizer = scratch.build(conversations, TINY, 0)
    assert tokenizer.get_vocab() == trained[1].get_vocab()
    scratch.train(model, tokenizer, conversations, TINY, seed=0)
    for ours, theirs in zip(model.parameters(), trained[0].parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_another_seed_gives_another_model(conversations, trained):
    model, _ = scratch.build(conversations, TINY, 1)
    assert not torch.equal(model.model.embed_tokens.weight, trained[0].model.embed_tokens.weight)


def test_packing_keeps_conversations_apart(trained, conversations):
    model, tokenizer, _ = trained
    examples = [scratch._encode(tokenizer, c, TINY.context) for c in conversations[:3]]
    with torch.no_grad():
        packed = scratch._loss(model, [examples])
        apart = scratch._loss(model, [[example] for example in examples])
    assert packed.item() == pytest.approx(apart.item(), rel=1e-5)


def test_a_saved_model_loads_as_any_other(trained, tmp_path):
    model, tokenizer, _ = trained
    loading.save(model, tokenizer, tmp_path)
    loaded, again = loading.load_model(tmp_path), loading.load_tokenizer(tmp_path)
    prompt = user("Say again: cow moon star")
    assert prompt_ids(again, [prompt]) == prompt_ids(tokenizer, [prompt])
    example = encode(again, "x", prompt, "cow moon star", max_length=128)
    assert example == encode(tokenizer, "x", prompt, "cow moon star", max_length=128)
    ids = torch.tensor([example.input_ids])
    assert torch.equal(loaded(ids).logits, model(ids).logits)


def test_roles_and_tags_are_single_tokens_and_text_survives(trained):
    tokenizer = trained[1]
    for token in ("<|user|>", "<|assistant|>", "<|end|>", "<|pad|>", "<instruction>", "</instruction>"):
        assert len(tokenizer(token, add_special_tokens=False)["input_ids"]) == 1
    text = "It trains é 中.\n<instruction>Say again: cow</instruction>"
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert tokenizer.decode(ids, skip_special_tokens=True) == text


def test_a_word_is_the_same_token_in_a_question_and_at_the_start_of_an_answer(trained):
    example = encode(trained[1], "x", user("Say again: cow"), "cow", max_length=64)
    word, end = example.input_ids[example.prompt_length :]
    assert word in example.input_ids[: example.prompt_length]
    assert end == trained[1].eos_token_id


def test_conversations_too_long_for_the_context_are_an_error(conversations):
    model, tokenizer = scratch.build(conversations, TINY, 0)
    with pytest.raises(InputError, match="context"):
        scratch.train(model, tokenizer, [[*user("cow " * 500), {"role": "assistant", "content": "no"}]], TINY, seed=0)


def test_the_first_steps_see_short_conversations_only(conversations):
    long = [*user("cow " * 80), {"role": "assistant", "content": "milk"}]
    settings = TINY.model_copy(update={"steps": 1})
    losses = []
    for mixed in (conversations, [*conversations, long]):
        model, tokenizer = scratch.build(conversations, settings, 0)
        losses.append(
            scratch.train(model, tokenizer, mixed, settings.model_copy(update={"steps": 3}), seed=0)[0]["loss"]
        )
    assert losses[0] == losses[1]


def test_real_rows_become_both_kinds_of_teacher_conversations():
    conversations = scratch.alpaca_teacher_conversations(ROWS, 10, 0)
    writing = [c for c in conversations if c[-1]["content"].endswith("</instruction>")]
    assert len(writing) == 5
    for prompt, answer in writing:
        new = answer["content"].split("<instruction>")[1]
        assert new not in prompt["content"]
    assert scratch.alpaca_student_conversations(ROWS)[3][-1]["content"] == ROWS[3]["response"]
