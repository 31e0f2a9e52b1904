"""What a student is measured on, against counts made by hand."""

import pytest
import torch

from montessori.data.chat import Example, encode, user
from montessori.evaluation.metrics import exact_match, measure, next_token_accuracy
from montessori.synthesis.engines import Answer, Generation
from montessori.synthesis.engines.transformers import TransformersEngine


def test_a_mean_comes_with_its_standard_error():
    assert measure([1.0, 0.0, 1.0, 1.0]) == {"mean": 0.75, "standard_error": pytest.approx(0.25), "n": 4}
    assert measure([0.5]) == {"mean": 0.5, "standard_error": 0.0, "n": 1}


class Parrot:
    """Answers with what the test put in, the last first, and remembers how it was asked."""

    def __init__(self, *answers: str):
        self.answers = answers

    def generate(self, prompts, sampling, samples, seeds):
        self.prompts, self.sampling, self.samples = prompts, sampling, samples
        for i, text in reversed(list(enumerate(self.answers))):
            yield i, Answer([Generation(text, "stop", 1)], 1)


def test_an_answer_matches_exactly_or_not_at_all_white_space_aside():
    right = ["red", "red blue", "red\n blue ", "", "Red", "red", "redblue"]
    given = ["red", " red  blue\n", "red blue", "", "red", "red blue", "red blue"]
    rows = [{"instruction": f"Task {n}", "response": text} for n, text in enumerate(right)]
    engine = Parrot(*given)
    assert exact_match(engine, rows, max_tokens=7) == [1, 1, 1, 1, 0, 0, 0]
    assert engine.prompts == [user(f"Task {n}") for n in range(7)]
    sampling = engine.sampling
    assert (sampling.temperature, sampling.max_tokens, engine.samples) == (0, 7, 1)
    assert (sampling.presence_penalty, sampling.repetition_penalty) == (0, 1)


def test_a_model_matches_its_own_greedy_answer(tiny_llama, tiny_tokenizer):
    engine = TransformersEngine(tiny_llama(), tiny_tokenizer)
    rows = [{"instruction": f"Name {n} colours.", "response": ""} for n in ("two", "three")]
    empty = exact_match(engine, rows, max_tokens=1)
    prompt = tiny_tokenizer.apply_chat_template(user("Name two colours."), add_generation_prompt=True)["input_ids"]
    out = engine.model.generate(torch.tensor([prompt]), do_sample=False, max_new_tokens=6, pad_token_id=0)
    rows[0]["response"] = tiny_tokenizer.decode(out[0, len(prompt) :], skip_special_tokens=True)
    assert empty == [0, 0]
    assert exact_match(engine, rows, max_tokens=6) == [1, 0]


def test_the_share_of_tokens_ranked_first_counts_the_answer_only(tiny_llama, tiny_tokenizer):
    model = tiny_llama()
    examples = [
        encode(tiny_tokenizer, str(n), user(f"Name {n} colours."), "red, green and blue " * n, max_length=256)
        for n in (1, 2, 3)
    ]
    expected = []
    for example in examples:
        with torch.no_grad():
            right = [
                int(model(torch.tensor([example.input_ids[:i]])).logits[0, -1].argmax()) == example.input_ids[i]
                for i in range(example.prompt_length, len(example.input_ids))
            ]
        expected.append(sum(right) / len(right))
    assert next_token_accuracy(model, examples) == pytest.approx(expected)


def test_a_token_counts_when_the_model_ranks_it_first(tiny_llama, tiny_tokenizer):
    model = tiny_llama()
    example = encode(tiny_tokenizer, "a", user("Name a colour."), "red, green and blue", max_length=256)
    ids = torch.tensor([example.input_ids[: example.prompt_length]])
    greedy = model.generate(ids, do_sample=False, max_new_tokens=4, eos_token_id=None, pad_token_id=0)[0].tolist()
    wrong = (greedy[-1] + 1) % model.config.vocab_size
    made = Example("b", [*greedy[:-1], wrong], example.prompt_length)
    assert next_token_accuracy(model, [Example("a", greedy, example.prompt_length), made]) == [1.0, 0.75]


def test_every_token_but_the_first_counts_without_a_prompt(tiny_llama):
    model = tiny_llama()
    greedy = model.generate(torch.tensor([[40]]), do_sample=False, max_new_tokens=4, eos_token_id=None, pad_token_id=0)
    assert next_token_accuracy(model, [Example("a", greedy[0].tolist(), 0)]) == [1.0]
