"""From chat messages to token ids, with the loss on the assistant's tokens only.

One definition for fine-tuning, influence and evaluation: the prompt is rendered with the generation prompt at its
end, the answer is what the template adds to it, and the two are tokenized apart, as they are when a model generates.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from montessori.errors import InputError

if TYPE_CHECKING:  # only named here: a plan needs the prompts, and must not wait for the library
    from transformers import PreTrainedTokenizerBase

Message = dict[str, str]

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


def render_prompt(tokenizer: PreTrainedTokenizerBase, prompt: Sequence[Message]) -> str:
    """The text after which the assistant's answer begins."""
    return str(tokenizer.apply_chat_template(list(prompt), tokenize=False, add_generation_prompt=True))


def encode(
    tokenizer: PreTrainedTokenizerBase, id: str, prompt: Sequence[Message], answer: str, max_length: int
) -> Example | None:
    """`prompt` and `answer` as an Example of at most `max_length` tokens, cut at the end.

    None when no token of the answer is left to learn from: an empty answer, or a prompt that fills `max_length`.
    """
    if not answer.strip():
        return None
    head = render_prompt(tokenizer, prompt)
    whole = str(tokenizer.apply_chat_template([*prompt, {"role": "assistant", "content": answer}], tokenize=False))
    if not whole.startswith(head):
        raise InputError(
            "the chat template does not keep the prompt when the answer is added: which tokens are the answer's?"
        )
    prompt_ids = tokenizer(head, add_special_tokens=False)["input_ids"]
    answer_ids = tokenizer(whole[len(head) :], add_special_tokens=False)["input_ids"]
    ids = [*prompt_ids, *answer_ids]
    if len(prompt_ids) >= max_length:
        return None
    return Example(id, ids[:max_length], len(prompt_ids), truncated=len(ids) > max_length)


@dataclass(frozen=True)
class Encoded:
    """Examples ready for a model, and what had to be done to get them."""

    examples: list[Example]
    dropped: list[str]  # ids whose answer is empty or whose prompt fills the maximum length
    truncated: int

    @property
    def counts(self) -> dict[str, int]:
        """For a stage's summary, so that nothing is dropped in silence."""
        return {"encoded": len(self.examples), "dropped": len(self.dropped), "truncated": self.truncated}


def encode_pairs(tokenizer: PreTrainedTokenizerBase, rows: Sequence[dict[str, str]], max_length: int) -> Encoded:
    """Rows with `id`, `instruction`, `response` as Examples, in order."""
    encoded = [
        (row["id"], encode(tokenizer, row["id"], user(row["instruction"]), row["response"], max_length)) for row in rows
    ]
    examples = [example for _, example in encoded if example is not None]
    dropped = [id for id, example in encoded if example is None]
    return Encoded(examples, dropped, sum(e.truncated for e in examples))
