"""Turn conversations into token ids, with the loss on the assistant's last answer only.

Fine-tuning, preference optimization, influence, evaluation and generation share this definition. The chat template
renders the whole conversation once, and the tokenizer reads the whole text once. So the token ids are those of
`apply_chat_template(messages, tokenize=True)`. The answer's tokens are found by their offsets in the text.

A generation prompt is the same text up to the place of the answer. So a student is asked to continue exactly the text
that it was trained to continue, whatever the template's own generation prompt adds. Only when the template is asked
for reasoning (`chat_template_kwargs: {enable_thinking: true}`), a prompt ends as the template's own generation prompt
does, and the reasoning is a part of the answer.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from montessori.data.template import ANSWER, place_of, prompt_place, text_after, whole_text
from montessori.data.template import Message as Message

if TYPE_CHECKING:  # a dry run needs the prompts, and must not wait for transformers
    from transformers import PreTrainedTokenizerBase

Reason = Literal["no-answer", "too-long"]  # no Example for an empty answer, or a prompt of the maximum length

BATCH = 1000  # texts tokenized at once: as fast as all together, with the memory of few


@dataclass(frozen=True)
class Conversation:
    """Hold one conversation: the turns before the answer, the answer, and the tools that the prompt offers."""

    id: str
    prompt: Sequence[Message]
    answer: Message
    tools: Sequence[Any] | None = None

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> Conversation:
        """Return the conversation of a row, see `montessori.data.rows`."""
        answer = row.get("answer") or {"role": "assistant", "content": row["response"]}
        return cls(row["id"], prompt_of(row), answer, row.get("tools"))

    @property
    def empty(self) -> bool:
        """Return whether the answer holds nothing to learn."""
        return not (self.answer.get("content") or "").strip() and not self.answer.get("tool_calls")


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


@dataclass(frozen=True)
class Endings:
    """Hold the tokens and the texts that end an answer in a chat template."""

    ids: frozenset[int]
    texts: tuple[str, ...]  # where the end mark is no token of its own


def user(content: str) -> list[Message]:
    """Return a conversation that begins with `content`."""
    return [{"role": "user", "content": content}]


def prompt_of(row: Mapping[str, Any]) -> list[Message]:
    """Return the conversation before a row's response: its `messages`, or without any its instruction."""
    return row.get("messages") or user(row["instruction"])


def encode(
    tokenizer: PreTrainedTokenizerBase,
    id: str,
    prompt: Sequence[Message],
    answer: str | Message,
    *,
    max_length: int,
    tools: Sequence[Any] | None = None,
) -> Example | None:
    """Return `prompt` and `answer` as an Example of at most `max_length` tokens, cut at the end.

    None when no token of the answer is left to learn from: an empty answer, or a prompt that fills `max_length`. Raises
    InputError, naming `id`, when the chat template fails on the conversation or leaves out a part of it.
    """
    message = {"role": "assistant", "content": answer} if isinstance(answer, str) else answer
    return _encode(tokenizer, [Conversation(id, prompt, message, tools)], max_length)[0]


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
    """Return rows as Examples, in order. See `encode`, and `montessori.data.rows` for the form of a row."""
    conversations = [Conversation.of(row) for row in rows]
    examples = _encode(tokenizer, conversations, max_length)
    dropped: dict[str, Reason] = {
        conversation.id: "no-answer" if conversation.empty else "too-long"
        for conversation, example in zip(conversations, examples, strict=True)
        if example is None
    }
    kept = [example for example in examples if example]
    return EncodedPairs(kept, dropped, sum(example.truncated for example in kept))


def prompt_ids(tokenizer: PreTrainedTokenizerBase, prompts: Sequence[Sequence[Message]]) -> list[list[int]]:
    """Return the token ids that the model is asked to continue for each prompt."""
    places = [prompt_place(tokenizer, prompt) for prompt in prompts]
    texts = [place.before if place.after is None else place.before + ANSWER for place in places]
    tokens = _tokenize_at(tokenizer, texts, [len(place.before) for place in places])
    return [ids[:boundary] for ids, boundary in tokens]


def endings(tokenizer: PreTrainedTokenizerBase, prompt: Sequence[Message]) -> Endings:
    """Return what the template puts right after an answer to `prompt`, and the tokenizer's own end token.

    An end mark that is a token of its own ends a generated text by its id, any other by its text. Where the template
    puts nothing after a last answer, the mark of the next turn ends it.
    """
    own = {tokenizer.eos_token_id} - {None}
    after = text_after(tokenizer, prompt)
    mark = next((line.strip() for line in after.splitlines() if line.strip()), "")
    first = _tokenize(tokenizer, [mark])[0][:1] if mark else []
    marks = {*tokenizer.all_special_ids, *tokenizer.get_added_vocab().values()} - {tokenizer.unk_token_id}
    if {*first} & marks:
        return Endings(frozenset({*own, *first}), ())
    return Endings(frozenset(own), (mark,) if mark else ())


def _encode(
    tokenizer: PreTrainedTokenizerBase, conversations: Sequence[Conversation], max_length: int
) -> list[Example | None]:
    examples: list[Example | None] = []
    for start in range(0, len(conversations), BATCH):
        batch = conversations[start : start + BATCH]
        answered = [conversation for conversation in batch if not conversation.empty]
        places = [place_of(tokenizer, c.prompt, c.tools, f"point {c.id}") for c in answered]
        texts = [
            whole_text(tokenizer, c.prompt, c.answer, c.tools, f"point {c.id}", place)
            for c, place in zip(answered, places, strict=True)
        ]
        tokens = _tokenize_at(tokenizer, texts, [len(place.before) for place in places])
        encoded = iter(
            _example(c.id, ids, boundary, max_length) for c, (ids, boundary) in zip(answered, tokens, strict=True)
        )
        examples += [None if conversation.empty else next(encoded) for conversation in batch]
    return examples


def _tokenize(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> list[list[int]]:
    """Return the token ids of each text. No special tokens are added, because the template has written them."""
    # verbose=False: no warning about a text longer than the model's context, since it is cut to max_length later
    ids: list[list[int]] = tokenizer(list(texts), add_special_tokens=False, verbose=False)["input_ids"] if texts else []
    return ids


def _tokenize_at(
    tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], starts: Sequence[int]
) -> list[tuple[list[int], int]]:
    """Return the token ids of each text, and the number of the first token that reaches beyond its character `start`.

    A tokenizer may join the end of the prompt with the start of the answer, as SentencePiece joins a space with the
    word after it. Such a token belongs to the answer.
    """
    if not texts:
        return []
    if not tokenizer.is_fast:  # no offsets: the tokens differ from where another answer begins
        others = [
            text[:start] + ("2" if text[start:].startswith("1") else "1")
            for text, start in zip(texts, starts, strict=True)
        ]
        pairs = zip(_tokenize(tokenizer, texts), _tokenize(tokenizer, others), strict=True)
        return [(ids, common_start(ids, other)) for ids, other in pairs]
    with _whole_offsets(tokenizer):
        batch = tokenizer(list(texts), add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    return [
        (ids, next((n for n, (_, end) in enumerate(offsets) if end > start), len(ids)))
        for ids, offsets, start in zip(batch["input_ids"], batch["offset_mapping"], starts, strict=True)
    ]


@contextmanager
def _whole_offsets(tokenizer: PreTrainedTokenizerBase) -> Iterator[None]:
    """Take away the tokenizer's post-processor inside the block.

    It would add special tokens, which the template has written, and trim the white space from the offsets of a token.
    """
    backend: Any = tokenizer.backend_tokenizer
    processor = backend.post_processor
    backend.post_processor = None
    try:
        yield
    finally:
        backend.post_processor = processor


def common_start(one: list[int], other: list[int]) -> int:
    """Return the length of the common start of two lists."""
    return next((n for n, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


def _example(id: str, ids: list[int], prompt_length: int, max_length: int) -> Example | None:
    if prompt_length >= max_length:
        return None
    return Example(id, ids[:max_length], prompt_length, truncated=len(ids) > max_length)
