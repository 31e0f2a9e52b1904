"""Turn chat messages into token ids, with the loss on the assistant's tokens only.

Fine-tuning, influence and evaluation share this definition. The prompt is rendered with the generation prompt at its
end, and the answer is the text that the template adds to it. The two are tokenized separately, as in generation. The
chat template decides which conversations are allowed: where it fails, an InputError names the point.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from jinja2 import TemplateError

from montessori.errors import InputError

if TYPE_CHECKING:  # a dry run needs the prompts, and must not wait for transformers
    from transformers import PreTrainedTokenizerBase

Message = dict[str, str]
Reason = Literal["no-answer", "too-long"]  # no Example for an empty answer, or a prompt of the maximum length

BATCH = 1000  # texts tokenized at once: as fast as all together, with the memory of few

# For models without a template (base models): plain text around the tokenizer's own end token.
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
    """Hold one conversation as tokens. The loss counts `input_ids[prompt_length:]`."""

    id: str
    input_ids: list[int]
    prompt_length: int
    truncated: bool = False

    @property
    def completion_mask(self) -> list[int]:
        """Return 1 for each token of the answer and 0 for the prompt's, `[seq]`."""
        return [0] * self.prompt_length + [1] * (len(self.input_ids) - self.prompt_length)


def user(content: str) -> list[Message]:
    """Return a conversation that begins with `content`."""
    return [{"role": "user", "content": content}]


def prompt_of(row: Mapping[str, Any]) -> list[Message]:
    """Return the conversation before a row's response: its `messages`, or without any its instruction."""
    return row.get("messages") or user(row["instruction"])


def render_prompt(tokenizer: PreTrainedTokenizerBase, prompt: Sequence[Message]) -> str:
    """Return the text before the assistant's answer."""
    return _render(tokenizer, prompt, f"the prompt {prompt[-1]['content'][:80]!r}", add_generation_prompt=True)


def encode(
    tokenizer: PreTrainedTokenizerBase, id: str, prompt: Sequence[Message], answer: str, *, max_length: int
) -> Example | None:
    """Return `prompt` and `answer` as an Example of at most `max_length` tokens, cut at the end.

    None when no token of the answer is left to learn from: an empty answer, or a prompt that fills `max_length`.
    """
    if not answer.strip():
        return None
    prompt_ids, answer_ids = _tokenize(tokenizer, _render_pair(tokenizer, id, prompt, answer))
    return _example(id, prompt_ids, answer_ids, max_length)


@dataclass(frozen=True)
class EncodedPairs:
    """Hold examples for a model, and the rows that were dropped or cut."""

    examples: list[Example]
    dropped: dict[str, Reason]  # by row id, in the rows' order
    truncated: int

    @property
    def counts(self) -> dict[str, int]:
        """Return the numbers of encoded, dropped and cut rows, for a stage's summary."""
        return {"encoded": len(self.examples), "dropped": len(self.dropped), "truncated": self.truncated}


def encode_pairs(
    tokenizer: PreTrainedTokenizerBase, rows: Sequence[Mapping[str, Any]], max_length: int
) -> EncodedPairs:
    """Return rows with `id`, `response`, and `instruction` or `messages` as Examples, in order. See `encode`."""
    answered = [row for row in rows if row["response"].strip()]
    texts = [_render_pair(tokenizer, row["id"], prompt_of(row), row["response"]) for row in answered]
    prompts = _tokenize(tokenizer, [prompt for prompt, _ in texts])
    answers = _tokenize(tokenizer, [answer for _, answer in texts])
    encoded = [
        _example(row["id"], prompt_ids, answer_ids, max_length)
        for row, prompt_ids, answer_ids in zip(answered, prompts, answers, strict=True)
    ]
    examples = [example for example in encoded if example]
    encoded_ids = {example.id for example in examples}
    dropped: dict[str, Reason] = {
        row["id"]: "too-long" if row["response"].strip() else "no-answer"
        for row in rows
        if row["id"] not in encoded_ids
    }
    return EncodedPairs(examples, dropped, sum(e.truncated for e in examples))


def _render_pair(
    tokenizer: PreTrainedTokenizerBase, id: str, prompt: Sequence[Message], answer: str
) -> tuple[str, str]:
    """Return the text of the prompt, and the text that the answer adds to it."""
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
    """Return the token ids of each text. No special tokens are added, because the template has written them."""
    ids: list[list[int]] = []
    for start in range(0, len(texts), BATCH):
        # verbose=False: no warning about a text longer than the model's context, since it is cut to max_length later
        batch = tokenizer(list(texts[start : start + BATCH]), add_special_tokens=False, verbose=False)
        ids += batch["input_ids"]
    return ids


def _example(id: str, prompt_ids: list[int], answer_ids: list[int], max_length: int) -> Example | None:
    if len(prompt_ids) >= max_length:
        return None
    ids = [*prompt_ids, *answer_ids]
    return Example(id, ids[:max_length], len(prompt_ids), truncated=len(ids) > max_length)
