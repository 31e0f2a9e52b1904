"""Real chat templates with real kinds of tokenizers: token ids, the answer's tokens, prompts and end marks."""

import datetime
from pathlib import Path

import pytest
import trl

from montessori.data import template as templates
from montessori.data.chat import encode, endings, prompt_ids, user
from montessori.data.template import pin_clock
from montessori.errors import InputError
from tests.data.trained_tokenizers import KINDS, tokenizer_of

DATE = datetime.date(2024, 7, 26)
FOLDER = Path(trl.__file__).parent / "chat_templates"
TEMPLATES = {file.stem: pin_clock(file.read_text(), DATE) for file in sorted(FOLDER.glob("*.jinja"))}
# Their text is a list of parts, as images are, and an answer that is a plain text is not shown.
OF_IMAGES = {name for name in TEMPLATES if name.startswith(("idefics3", "llava_next", "smolvlm"))}
NO_SYSTEM = ("gemma", "gemma_training")
LLAMA_2 = (
    "{% for m in messages %}{% if m['role'] == 'user' %}{{ bos_token + '[INST] ' + m['content'] + ' [/INST]' }}"
    "{% else %}{{ ' ' + m['content'] + ' ' + eos_token }}{% endif %}{% endfor %}"
)
ZEPHYR = (
    "{% for m in messages %}{{ '<|' + m['role'] + '|>\n' + m['content'] + eos_token + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
)
TEMPLATES |= {"llama_2": LLAMA_2, "zephyr": ZEPHYR, "default": templates.DEFAULT_TEMPLATE}
ASKED = user("Name a colour.")
TURNS = [*user("Hi."), {"role": "assistant", "content": "Hello."}, *ASKED]
ANSWERS = ["Red.", "1", "😀 Ünïcode", "مرحبا", "你好。", "def f(x):\n    return x < 1", "two\n\nparagraphs "]
SPACED = ["  indented\n    code", "\nnewline first", " \n "]


@pytest.mark.parametrize("name", [name for name in TEMPLATES if name not in OF_IMAGES])
def test_tokens_are_those_of_the_whole_conversation_and_the_loss_counts_the_answer(name: str) -> None:
    prompts = [ASKED, TURNS]
    if name not in NO_SYSTEM and name != "llama_2":
        prompts.append([{"role": "system", "content": "Be brief."}, *TURNS])
    for kind in KINDS:
        tokenizer = tokenizer_of(kind, TEMPLATES[name])
        for prompt in prompts:
            (asked,) = prompt_ids(tokenizer, [prompt])
            for answer in [*ANSWERS, *SPACED[:2]]:
                turns = [*prompt, {"role": "assistant", "content": answer}]
                whole = tokenizer.apply_chat_template(turns, tokenize=True, return_dict=False)
                example = encode(tokenizer, "a", prompt, answer, max_length=10_000)
                assert example.input_ids == whole
                learned = tokenizer.decode(example.input_ids[example.prompt_length :])
                if kind != "wordpiece":  # which loses white space
                    assert learned.lstrip().startswith(answer.strip())
                    mark = learned.lstrip().removeprefix(answer.strip()).strip()
                    ends = [tokenizer.decode([id]) for id in endings(tokenizer, prompt).ids]
                    assert mark.startswith(tuple(ends)) or (name, mark) == ("glm4moe", "")
                # The tokenizer may join line breaks at the end of the prompt with those of the answer.
                if answer not in SPACED:
                    assert whole[: example.prompt_length] == asked
                assert whole.count(tokenizer.bos_token_id) <= (2 if name == "llama_2" else 1)
            assert encode(tokenizer, "a", prompt, SPACED[2], max_length=10_000) is None


@pytest.mark.parametrize("name", sorted(OF_IMAGES))
def test_a_template_that_shows_no_plain_text_is_refused(name: str) -> None:
    with pytest.raises(InputError, match=r"the chat template .*((shows|fails).* point a)"):
        encode(tokenizer_of("byte-level", TEMPLATES[name]), "a", ASKED, "Red.", max_length=64)


@pytest.mark.parametrize(
    ("name", "mark"),
    [
        *[("qwen2_5", "<|im_end|>"), ("qwen3", "<|im_end|>"), ("llama3_2", "<|eot_id|>"), ("gemma3", "<end_of_turn>")],
        *[("gptoss", "<|return|>"), ("glm4moe", "<|user|>"), ("phi3", "<|end|>"), ("llama_2", "</s>")],
        ("cohere2", "<|END_RESPONSE|>"),
    ],
)
def test_what_a_template_puts_after_an_answer_ends_it(name: str, mark: str) -> None:
    tokenizer = tokenizer_of("byte-level", TEMPLATES[name])
    ends = endings(tokenizer, ASKED)
    assert ends.ids == {tokenizer.eos_token_id, tokenizer.convert_tokens_to_ids(mark)}
    assert ends.texts == ()


def test_an_end_mark_that_is_no_token_ends_an_answer_as_text() -> None:
    tokenizer = tokenizer_of(
        "byte-level", "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}###\n{% endfor %}"
    )
    ends = endings(tokenizer, ASKED)
    assert (ends.ids, ends.texts) == ({tokenizer.eos_token_id}, ("###",))


def test_a_model_is_asked_without_reasoning_unless_its_template_is_asked_for_it() -> None:
    tokenizer = tokenizer_of("byte-level", TEMPLATES["qwen3"])
    empty = "<think>\n\n</think>\n\n"
    assert tokenizer.decode(prompt_ids(tokenizer, [ASKED])[0]).endswith(f"assistant\n{empty}")
    example = encode(tokenizer, "a", ASKED, "Red.", max_length=99)
    assert tokenizer.decode(example.input_ids[example.prompt_length :]) == "Red.<|im_end|>\n"
    with pytest.raises(InputError, match=r"point a has reasoning .*enable_thinking: true"):
        encode(tokenizer, "a", ASKED, "<think>\nIt is warm.\n</think>\n\nRed.", max_length=99)

    tokenizer.init_kwargs[templates.VARIABLES] = {"enable_thinking": False}
    assert encode(tokenizer, "a", ASKED, "Red.", max_length=99) == example

    tokenizer.init_kwargs[templates.VARIABLES] = {"enable_thinking": True}
    assert tokenizer.decode(prompt_ids(tokenizer, [ASKED])[0]).endswith("assistant\n")
    example = encode(tokenizer, "a", ASKED, "<think>\nIt is warm.\n</think>\n\nRed.", max_length=99)
    learned = "<think>\nIt is warm.\n</think>\n\nRed.<|im_end|>\n"
    assert tokenizer.decode(example.input_ids[example.prompt_length :]) == learned
    answer = {"role": "assistant", "content": "Red.", "reasoning_content": "It is warm."}
    assert encode(tokenizer, "a", ASKED, answer, max_length=99) == example


def test_reasoning_that_a_template_would_drop_is_refused() -> None:
    tokenizer = tokenizer_of("byte-level", TEMPLATES["deepseek_r1_distill"])
    with pytest.raises(InputError, match=r"leaves out or changes 'It is warm.' in the answer of point a"):
        encode(tokenizer, "a", ASKED, "It is warm.</think>Red.", max_length=99)
    tokenizer = tokenizer_of("byte-level", TEMPLATES["qwen2_5"])
    answer = {"role": "assistant", "content": "Red.", "reasoning_content": "It is warm."}
    with pytest.raises(InputError, match="leaves out reasoning_content of point a"):
        encode(tokenizer, "a", ASKED, answer, max_length=99)


CALL = {"function": {"name": "weather", "arguments": '{"town": "Rome"}'}}
TOOL = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object", "properties": {}}}}


def test_tool_calls_are_learned_or_refused() -> None:
    tokenizer = tokenizer_of("byte-level", TEMPLATES["qwen2_5"])
    answer = {"role": "assistant", "content": None, "tool_calls": [CALL]}
    example = encode(tokenizer, "a", ASKED, answer, max_length=999, tools=[TOOL])
    learned = tokenizer.decode(example.input_ids[example.prompt_length :])
    assert '{"name": "weather", "arguments": {"town": "Rome"}}' in learned
    assert '"name": "weather"' in tokenizer.decode(example.input_ids[: example.prompt_length])
    plain = tokenizer_of("byte-level", TEMPLATES["zephyr"])
    with pytest.raises(InputError, match="leaves out the tools of point a"):
        encode(plain, "a", ASKED, "Red.", max_length=99, tools=[TOOL])
    turns = [*ASKED, {**answer, "content": "Wait."}, {"role": "tool", "content": "Sun."}]
    with pytest.raises(InputError, match="leaves out the tool_calls of turn 2 of point a"):
        encode(plain, "a", turns, "Red.", max_length=99)


def test_a_turn_that_a_template_drops_is_refused() -> None:
    tokenizer = tokenizer_of(
        "byte-level", "{% for m in messages[1:] %}<|{{ m['role'] }}|>{{ m['content'] }}</s>{% endfor %}"
    )
    with pytest.raises(InputError, match=r"leaves out turn 1 of point a, 'Hi.'"):
        encode(tokenizer, "a", TURNS, "Red.", max_length=99)
    with pytest.raises(InputError, match=r"leaves out turn 1 of the prompt"):
        prompt_ids(tokenizer, [TURNS])


def test_a_dropped_turn_is_refused_though_its_text_stands_elsewhere() -> None:
    last_two = "{% for m in messages[-3:] %}<|{{ m['role'] }}|>{{ m['content'] }}</s>{% endfor %}"
    tokenizer = tokenizer_of("byte-level", last_two)
    turns = [*ASKED, {"role": "assistant", "content": "t"}, *ASKED]
    assert encode(tokenizer, "a", turns[1:], "Red.", max_length=99)
    with pytest.raises(InputError, match=r"leaves out turn 1 of point a, 'Name a colour.'"):
        encode(tokenizer, "a", turns, "Red.", max_length=99)


def test_white_space_that_a_tokenizer_trims_from_offsets_is_learned_with_its_token() -> None:
    tokenizer = tokenizer_of("byte-level", TEMPLATES["zephyr"])
    joined = tokenizer.add_tokens(["\n  "])
    assert joined == 1
    example = encode(tokenizer, "a", ASKED, "  x = 1", max_length=99)
    assert tokenizer.decode(example.input_ids[example.prompt_length :]) == "\n  x = 1</s>\n"


def test_an_unknown_character_in_an_end_mark_ends_nothing() -> None:
    tokenizer = tokenizer_of(
        "wordpiece", "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }} ⟪fin⟫\n{% endfor %}"
    )
    ends = endings(tokenizer, ASKED)
    assert (ends.ids, ends.texts) == ({tokenizer.eos_token_id}, ("⟪fin⟫",))


def test_an_end_mark_of_several_words_is_whole() -> None:
    alpaca = (
        "{% for m in messages %}{{ '### Instruction:' if m['role'] == 'user' else '### Response:' }}\n"
        "{{ m['content'] }}\n\n{% endfor %}"
    )
    assert endings(tokenizer_of("byte-level", alpaca), ASKED).texts == ("### Instruction:",)


def test_the_clock_of_a_template_is_pinned() -> None:
    template = (FOLDER / "llama3_2.jinja").read_text()
    tokenizer = tokenizer_of("byte-level", pin_clock(template, datetime.date(2025, 2, 3)))
    assert "Today Date: 03 Feb 2025" in tokenizer.decode(prompt_ids(tokenizer, [ASKED])[0])
    with pytest.raises(InputError, match="without a literal format"):
        pin_clock("{{ strftime_now(format) }}", DATE)


def test_a_tokenizer_without_offsets_gives_the_same_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    for kind in KINDS:
        tokenizer = tokenizer_of(kind, TEMPLATES["zephyr"])
        examples = [encode(tokenizer, "a", TURNS, answer, max_length=999) for answer in ANSWERS]
        asked = prompt_ids(tokenizer, [ASKED, TURNS])
        monkeypatch.setattr(type(tokenizer), "is_fast", False)
        assert [encode(tokenizer, "a", TURNS, answer, max_length=999) for answer in ANSWERS] == examples
        assert prompt_ids(tokenizer, [ASKED, TURNS]) == asked
        monkeypatch.undo()


def test_the_space_before_an_answer_is_left_to_the_answer() -> None:
    """A prompt that ended in the space would ask for an answer of other tokens than the learned ones."""
    for kind in ("prepend", "metaspace", "byte-level"):
        tokenizer = tokenizer_of(kind, "{% for m in messages %}<|{{ m['role'] }}|> {{ m['content'] }}</s>{% endfor %}")
        (asked,) = prompt_ids(tokenizer, [ASKED])
        for answer in ("Red.", "car", "Zebra", "1"):
            whole = encode(tokenizer, "a", ASKED, answer, max_length=99).input_ids
            assert whole[: len(asked)] == asked
            assert tokenizer.decode(asked).rstrip().endswith("<|assistant|>")
