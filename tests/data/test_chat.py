"""Conversations as tokens, with the loss on the answer only."""

import copy
import logging

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from montessori.data import chat
from montessori.data.chat import encode, encode_pairs, prompt_ids, prompt_of, user
from montessori.errors import InputError

TEXT = st.text(st.characters(codec="utf-8"), max_size=40)


@pytest.fixture
def with_template(tiny_tokenizer):
    def build(template: str):
        tokenizer = copy.deepcopy(tiny_tokenizer)
        tokenizer.chat_template = template
        return tokenizer

    return build


def test_the_loss_counts_the_answer_and_the_token_that_ends_it(tiny_tokenizer):
    example = encode(tiny_tokenizer, "a", user("Name a colour."), "Red.", max_length=256)
    answer = example.input_ids[example.prompt_length :]
    assert tiny_tokenizer.decode(answer) == "Red.</s>"
    assert tiny_tokenizer.decode(example.input_ids) == "<s><|user|>\nName a colour.\n<|assistant|>\nRed.</s>"
    assert example.completion_mask == [0] * example.prompt_length + [1] * len(answer)
    assert (example.id, example.truncated) == ("a", False)


@given(prompt=TEXT, answer=TEXT)
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_an_example_begins_with_the_tokens_that_the_model_is_prompted_with(tiny_tokenizer, prompt, answer):
    example = encode(tiny_tokenizer, "a", user(prompt), answer, max_length=10_000)
    assert (example is None) == (not answer.strip())
    if example:
        prompted = prompt_ids(tiny_tokenizer, [user(prompt)])[0]
        assert example.input_ids[: example.prompt_length] == prompted
        assert tiny_tokenizer.decode(example.input_ids[example.prompt_length :]) == f"{answer}</s>"


def test_every_length_keeps_what_fits_and_nothing_is_learned_from_a_prompt_alone(tiny_tokenizer):
    whole = encode(tiny_tokenizer, "a", user("Name a colour."), "Red, green and blue.", max_length=10_000)
    for max_length in range(1, len(whole.input_ids) + 2):
        cut = encode(tiny_tokenizer, "a", user("Name a colour."), "Red, green and blue.", max_length=max_length)
        if max_length <= whole.prompt_length:
            assert cut is None
        else:
            assert cut.input_ids == whole.input_ids[:max_length]
            assert cut.prompt_length == whole.prompt_length
            assert sum(cut.completion_mask) > 0
            assert cut.truncated == (max_length < len(whole.input_ids))


def test_only_the_last_answer_of_a_conversation_counts(tiny_tokenizer):
    turns = [*user("Hello."), {"role": "assistant", "content": "Good day."}, *user("Name a colour.")]
    example = encode(tiny_tokenizer, "a", turns, "Red.", max_length=256)
    assert tiny_tokenizer.decode(example.input_ids[example.prompt_length :]) == "Red.</s>"
    assert "Good day.</s>" in tiny_tokenizer.decode(example.input_ids[: example.prompt_length])


def test_a_template_that_rewrites_the_prompt_is_refused(with_template):
    tokenizer = with_template(
        "{{ messages[-1]['content'] | length }}{% for m in messages %}{{ m['content'] }}{% endfor %}"
    )
    with pytest.raises(InputError, match="chat template does not keep the prompt"):
        encode(tokenizer, "a", user("Name a colour."), "Red.", max_length=256)


def test_what_a_template_adds_after_the_answer_is_learned_too(with_template):
    tokenizer = with_template(
        "{% for m in messages %}{{ '[' + m['role'] + ']' + m['content'] }}"
        "{% if m['role'] == 'assistant' %}{{ eos_token + '\n' }}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}[assistant]{% endif %}"
    )
    example = encode(tokenizer, "a", user("Name a colour."), "Red.", max_length=256)
    assert tokenizer.decode(example.input_ids[example.prompt_length :]) == "Red.</s>\n"


def test_pairs_keep_their_order_and_nothing_is_dropped_in_silence(tiny_tokenizer):
    rows = [
        {"id": "good", "instruction": "Name a colour.", "response": "Red."},
        {"id": "no answer", "instruction": "Name a colour.", "response": " \n"},
        {"id": "long prompt", "instruction": "Name a colour. " * 50, "response": "Red."},
        {"id": "long answer", "instruction": "Name a colour.", "response": "Red. " * 50},
    ]
    encoded = encode_pairs(tiny_tokenizer, rows, 64)
    assert [example.id for example in encoded.examples] == ["good", "long answer"]
    assert list(encoded.dropped.items()) == [("no answer", "no-answer"), ("long prompt", "too-long")]
    assert encoded.counts == {"encoded": 2, "dropped": 2, "truncated": 1}
    only_dropped = encode_pairs(tiny_tokenizer, rows[1:2], 64)
    assert (only_dropped.examples, only_dropped.dropped) == ([], {"no answer": "no-answer"})


ROWS = st.lists(
    st.fixed_dictionaries(
        {"instruction": TEXT, "response": TEXT},
        optional={"messages": st.lists(st.builds(lambda text: user(text)[0], TEXT), min_size=1, max_size=3)},
    ),
    max_size=12,
)


@given(rows=ROWS, max_length=st.integers(1, 120), batch=st.integers(1, 5))
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_pairs_tokenized_together_are_the_same_as_one_by_one(tiny_tokenizer, rows, max_length, batch):
    rows = [{"id": str(n), **row} for n, row in enumerate(rows)]
    single = [encode(tiny_tokenizer, r["id"], prompt_of(r), r["response"], max_length=max_length) for r in rows]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(chat, "BATCH", batch)
        together = encode_pairs(tiny_tokenizer, rows, max_length)
    assert together.examples == [example for example in single if example]
    assert list(together.dropped) == [row["id"] for row, example in zip(rows, single, strict=True) if not example]


def test_a_row_with_messages_is_prompted_with_all_of_them(tiny_tokenizer):
    turns = [{"role": "system", "content": "Be brief."}, *user("Hello."), {"role": "assistant", "content": "Good day."}]
    turns += user("Name a colour.")
    row = {"id": "a", "instruction": "Name a colour.", "response": "Red.", "messages": turns}
    (example,) = encode_pairs(tiny_tokenizer, [row], 256).examples
    assert example == encode(tiny_tokenizer, "a", turns, "Red.", max_length=256)
    (plain,) = encode_pairs(tiny_tokenizer, [{**row, "messages": None}], 256).examples
    assert plain == encode(tiny_tokenizer, "a", user("Name a colour."), "Red.", max_length=256)


NO_SYSTEM = "{% for m in messages %}{% if m['role'] == 'system' %}{{ raise_exception('no system turns') }}{% endif %}"


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        (NO_SYSTEM + "{{ m['content'] }}{% endfor %}", "no system turns"),
        (
            "{% set third = messages[2]['content'] %}{% for m in messages %}{{ m['content'] }}{% endfor %}",
            "has no element 2",
        ),
        ("{% if messages %}", "Unexpected end of template"),
    ],
)
def test_a_template_that_fails_on_a_point_is_wrong_input(with_template, template, reason):
    tokenizer = with_template(template)
    rows = [{"id": "good", "messages": [*user("Hello."), *user("x")], "response": "x"}]
    rows.append({"id": "bad", "messages": [{"role": "system", "content": "Be brief."}], "response": "x"})
    failing = "good" if "Unexpected" in reason else "bad"
    with pytest.raises(InputError, match=f"the chat template of the tokenizer fails on point {failing}: .*{reason}"):
        encode_pairs(tokenizer, rows, 64)
    with pytest.raises(InputError, match=f"the chat template of the tokenizer fails on the prompt 'Be .*{reason}"):
        prompt_ids(tokenizer, [rows[1]["messages"]])


def test_a_text_beyond_the_context_is_cut_without_a_warning(tiny_tokenizer, caplog):
    tokenizer = copy.deepcopy(tiny_tokenizer)
    tokenizer.model_max_length = 16
    logger = logging.getLogger("transformers")  # which does not propagate to the root, where caplog listens
    logger.addHandler(caplog.handler)
    try:
        (example,) = encode_pairs(
            tokenizer, [{"id": "a", "instruction": "Name a colour.", "response": "Red. " * 50}], 64
        ).examples
        assert example.truncated
        assert caplog.records == []
        tokenizer("Red. " * 50)
        assert "longer than the specified maximum" in caplog.text  # what would have been said
    finally:
        logger.removeHandler(caplog.handler)
