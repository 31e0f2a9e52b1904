"""From chat messages to token ids, with the loss on the assistant's tokens only.

One definition for fine-tuning, influence and evaluation: the prompt is rendered with the generation prompt at its
end, the answer is what the template adds to it, and the two are tokenized apart, as they are when a model generates.
Which conversations are allowed is the chat template's to say: where it fails, an InputError names the point.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from jinja2 import TemplateError

from montessori.errors import InputError

if TYPE_CHECKING:  # only named here: a plan needs the prompts, and must not wait for the library
    from transformers import PreTrainedTokenizerBase

Message = dict[str, str]
Reason = Literal["no-answer", "too-long"]  # for no Example: an empty answer; a prompt that fills the maximum length

BATCH = 1000  # texts tokenized at once: as fast as all together, and the tokenizer's records of few are held

# For models that come without a template (base models). Plain text around the tokenizer's own end token.
DEFAULT_TEMPLATE = (
    "{% if bos_token %}{{ bos_token }}{% endif %}"
    "{% for message in messages %}"
    "{{ '<|' + message['role'] + '|>\n' + message['content'] }}"
    "{% if message['role'] == 'assistant' %}{{ eos_token }}{% else %}{{ '\n' }}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
)


@dataclass(frozen=True)
class Example:
    """One conversation as tokens. The loss counts `input_ids[prompt_length:]`."""

    id: str
    input_ids: list[int]
    prompt_length: int
    truncated: bool = False

    @property
    def completion_mask(self) -> list[int]:
        """1 where a token belongs to the answer, `[seq]`."""
        return [0] * self.prompt_length + [1] * (len(self.input_ids) - self.prompt_length)


def user(content: str) -> list[Message]:
    """A conversation that begins with `content`."""
    return [{"role": "user", "content": content}]


def prompt_of(row: Mapping[str, Any]) -> list[Message]:
    """The conversation that a row's response answers: its `messages`, or where it has none its instruction."""
    return row.get("messages") or user(row["instruction"])


def render_prompt(tokenizer: PreTrainedTokenizerBase, prompt: Sequence[Message]) -> str:
    """The text after which the assistant's answer begins."""
    return _render(tokenizer, prompt, f"the prompt {prompt[-1]['content'][:80]!r}", add_generation_prompt=True)


def encode(
    tokenizer: PreTrainedTokenizerBase, id: str, prompt: Sequence[Message], answer: str, max_length: int
) -> Example | None:
    """`prompt` and `answer` as an Example of at most `max_length` tokens, cut at the end.

    None when no token of the answer is left to learn from: an empty answer, or a prompt that fills `max_length`.
    """
    if not answer.strip():
        return None
    prompt_ids, answer_ids = _tokenize(tokenizer, _render_pair(tokenizer, id, prompt, answer))
    return _example(id, prompt_ids, answer_ids, max_length)


@dataclass(frozen=True)
class Encoded:
    """Examples ready for a model, and what had to be done to get them."""

    examples: list[Example]
    dropped: dict[str, Reason]  # by id, in the rows' order
    truncated: int

    @property
    def counts(self) -> dict[str, int]:
        """For a stage's summary, so that nothing is dropped in silence."""
        return {"encoded": len(self.examples), "dropped": len(self.dropped), "truncated": self.truncated}


def encode_pairs(tokenizer: PreTrainedTokenizerBase, rows: Sequence[Mapping[str, Any]], max_length: int) -> Encoded:
    """Rows with `id`, `response`, and `instruction` or `messages` as Examples, in order; as `encode` makes each."""
    answered = [row for row in rows if row["response"].strip()]
    texts = [_render_pair(tokenizer, row["id"], prompt_of(row), row["response"]) for row in answered]
    prompts = _tokenize(tokenizer, [prompt for prompt, _ in texts])
    answers = _tokenize(tokenizer, [answer for _, answer in texts])
    fitted = [
        _example(row["id"], prompt_ids, answer_ids, max_length)
        for row, prompt_ids, answer_ids in zip(answered, prompts, answers, strict=True)
    ]
    examples = [example for example in fitted if example]
    encoded = {example.id for example in examples}
    dropped: dict[str, Reason] = {
        row["id"]: "too-long" if row["response"].strip() else "no-answer" for row in rows if row["id"] not in encoded
    }
    return Encoded(examples, dropped, sum(e.truncated for e in examples))


def _render_pair(
    tokenizer: PreTrainedTokenizerBase, id: str, prompt: Sequence[Message], answer: str
) -> tuple[str, str]:
    """The text of the prompt, and what the answer adds to it."""
    head = _render(tokenizer, prompt, f"point {id}", add_generation_prompt=True)
    turns = [*prompt, {"role": "assistant", "content": answer}]
    whole = _render(tokenizer, turns, f"point {id}", add_generation_prompt=False)
    if not whole.startswith(head):
        raise InputError(
            f"point {id}: the chat template does not keep the prompt when the answer is added: "
            "which tokens are the answer's?"
        )
    return head, whole[len(head) :]


def _render(
    tokenizer: PreTrainedTokenizerBase, turns: Sequence[Message], named: str, *, add_generation_prompt: bool
) -> str:
    try:
        text = tokenizer.apply_chat_template(list(turns), tokenize=False, add_generation_prompt=add_generation_prompt)
    except TemplateError as error:
        raise InputError(f"the chat template of the tokenizer fails on {named}: {error}") from None
    return str(text)


def _tokenize(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> list[list[int]]:
    """The token ids of each text. No special tokens: the template has written them."""
    ids: list[list[int]] = []
    for start in range(0, len(texts), BATCH):
        # verbose: or it warns of a text longer than the model's context, which is cut to max_length right after
        batch = tokenizer(list(texts[start : start + BATCH]), add_special_tokens=False, verbose=False)
        ids += batch["input_ids"]
    return ids


def _example(id: str, prompt_ids: list[int], answer_ids: list[int], max_length: int) -> Example | None:
    if len(prompt_ids) >= max_length:
        return None
    ids = [*prompt_ids, *answer_ids]
    return Example(id, ids[:max_length], len(prompt_ids), truncated=len(ids) > max_length)
