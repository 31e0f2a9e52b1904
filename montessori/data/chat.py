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

import datetime
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from jinja2 import TemplateError

from montessori.errors import InputError

if TYPE_CHECKING:  # a dry run needs the prompts, and must not wait for transformers
    from transformers import PreTrainedTokenizerBase

Message = dict[str, Any]  # role and content, and what else a template reads: tool_calls, reasoning_content, …
Reason = Literal["no-answer", "too-long"]  # no Example for an empty answer, or a prompt of the maximum length

BATCH = 1000  # texts tokenized at once: as fast as all together, with the memory of few
# They stand for an answer, and for the question after it, when a template is asked for the text around an answer.
ANSWER, QUESTION = "Answer0Place1", "Question0Place1"
TURN = "Turn0Place"  # begins the stand-in for a turn of the prompt
_SHOWN: set[tuple[object, ...]] = set()  # templates with their variables, and the turns that they are known to show
THINKING = ("enable_thinking", "thinking")  # the variables by which templates are asked for reasoning
THINK_TAG = re.compile(r"</?think>")
VARIABLES = "chat_template_kwargs"  # the tokenizer's own entry with the variables of its chat template
CLOCK_CALL = re.compile(r"strftime_now\(\s*(['\"])(.*?)\1\s*\)")

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
    places = [_prompt_place(tokenizer, prompt) for prompt in prompts]
    texts = [place.before if place.after is None else place.before + ANSWER for place in places]
    tokens = _tokenize_at(tokenizer, texts, [len(place.before) for place in places])
    return [ids[:boundary] for ids, boundary in tokens]


def endings(tokenizer: PreTrainedTokenizerBase, prompt: Sequence[Message]) -> Endings:
    """Return what the template puts right after an answer to `prompt`, and the tokenizer's own end token.

    An end mark that is a token of its own ends a generated text by its id, any other by its text. Where the template
    puts nothing after a last answer, the mark of the next turn ends it.
    """
    own = {tokenizer.eos_token_id} - {None}
    after = _prompt_place(tokenizer, prompt).after
    if after is None:
        return Endings(frozenset(own), ())
    if not after.strip():
        mark = _unused(prompt, None)
        turns = [*prompt, {"role": "assistant", "content": mark}, *user(QUESTION)]
        after = _render(tokenizer, turns, None, _name_of(prompt)).partition(mark)[2].partition(QUESTION)[0]
    mark = next((line.strip() for line in after.splitlines() if line.strip()), "")
    first = _tokenize(tokenizer, [mark])[0][:1] if mark else []
    marks = {*tokenizer.all_special_ids, *tokenizer.get_added_vocab().values()} - {tokenizer.unk_token_id}
    if {*first} & marks:
        return Endings(frozenset({*own, *first}), ())
    return Endings(frozenset(own), (mark,) if mark else ())


def pin_clock(template: str, date: datetime.date) -> str:
    """Return a chat template with `date` in place of each reading of the clock.

    Raises InputError where the template reads the clock in an unknown way.
    """
    pinned = CLOCK_CALL.sub(lambda call: json.dumps(date.strftime(call[2])), template)
    if "strftime_now(" in pinned.replace(" ", ""):
        raise InputError(
            "the chat template calls strftime_now without a literal format, so its date cannot be pinned; "
            "write the format into the call"
        )
    return pinned


@dataclass(frozen=True)
class _Place:
    """The place of an answer in the text of a conversation."""

    before: str  # the text that the model is asked to continue
    after: str | None  # the text that follows an answer; None: the template shows no answers
    reasoning: bool = False  # the answer begins with its reasoning


def _encode(
    tokenizer: PreTrainedTokenizerBase, conversations: Sequence[Conversation], max_length: int
) -> list[Example | None]:
    examples: list[Example | None] = []
    for start in range(0, len(conversations), BATCH):
        batch = conversations[start : start + BATCH]
        answered = [conversation for conversation in batch if not conversation.empty]
        places = [_place(tokenizer, c.prompt, c.tools, f"point {c.id}") for c in answered]
        texts = [_whole(tokenizer, c, place) for c, place in zip(answered, places, strict=True)]
        tokens = _tokenize_at(tokenizer, texts, [len(place.before) for place in places])
        encoded = iter(
            _example(c.id, ids, boundary, max_length) for c, (ids, boundary) in zip(answered, tokens, strict=True)
        )
        examples += [None if conversation.empty else next(encoded) for conversation in batch]
    return examples


def _place(tokenizer: PreTrainedTokenizerBase, prompt: Sequence[Message], tools: Any, named: str) -> _Place:
    """Return the text around an answer to `prompt`. Raises InputError when a turn of the prompt is not in it."""
    mark = _unused(prompt, tools)
    text = _render(tokenizer, [*prompt, {"role": "assistant", "content": mark}], tools, named)
    before, _, after = text.partition(mark)
    if text.count(mark) != 1:
        raise InputError(
            f"the chat template shows the answer to {named} {text.count(mark)} times instead of once; "
            "give another with chat_template"
        )
    reasoning = any((tokenizer.init_kwargs.get(VARIABLES) or {}).get(name) is True for name in THINKING)
    if reasoning:
        before = _render(tokenizer, prompt, tools, named, add_generation_prompt=True)
    _check_prompt(tokenizer, prompt, before, named, answered=True)
    if tools and not all(_function(tool).get("name", "") in before for tool in tools):
        raise InputError(f"the chat template leaves out the tools of {named}; give a template that shows them")
    # Tokenizers join a space with the word after it. With the space in the prompt, an answer would have other tokens
    # when it is generated than when it is learned. So the space belongs to the answer.
    return _Place(before.rstrip(" "), after, reasoning)


def _unused(prompt: Sequence[Message], tools: Any) -> str:
    """Return a stand-in for an answer that does not occur in the prompt."""
    text, mark = repr((prompt, tools)), ANSWER
    while mark in text:
        mark += "1"
    return mark


def _prompt_place(tokenizer: PreTrainedTokenizerBase, prompt: Sequence[Message]) -> _Place:
    """Return the place of a generated answer, also in a template that shows prompts alone."""
    named = _name_of(prompt)
    mark = _unused(prompt, None)
    if mark in _render(tokenizer, [*prompt, {"role": "assistant", "content": mark}], None, named):
        return _place(tokenizer, prompt, None, named)
    text = _render(tokenizer, prompt, None, named, add_generation_prompt=True)
    _check_prompt(tokenizer, prompt, text, named, answered=False)
    return _Place(text, None)


def _check_prompt(
    tokenizer: PreTrainedTokenizerBase, prompt: Sequence[Message], text: str, named: str, *, answered: bool
) -> None:
    """Raise InputError unless the template shows each turn of `prompt`, and `text` shows it unchanged."""
    shape = tuple((turn["role"], _has_text(turn), bool(turn.get("tool_calls"))) for turn in prompt)
    key = (str(tokenizer.chat_template), repr(tokenizer.init_kwargs.get(VARIABLES)), shape, answered)
    if key not in _SHOWN:
        marked = [{**t, "content": f"{TURN}{n}End"} if _has_text(t) else t for n, t in enumerate(prompt)]
        answer = [{"role": "assistant", "content": ANSWER}] if answered else []
        shown = _render(tokenizer, [*marked, *answer], None, named, add_generation_prompt=not answered)
        for number, turn in enumerate(marked):
            if _has_text(turn) and turn["content"] not in shown:
                raise InputError(
                    f"the chat template leaves out turn {number + 1} of {named}, "
                    f"{prompt[number]['content'].strip()[:60]!r}; give a template that shows it with chat_template"
                )
        _SHOWN.add(key)
    for number, turn in enumerate(prompt, 1):
        _check_turn(turn, text, f"turn {number} of {named}")


def _has_text(turn: Message) -> bool:
    return isinstance(turn.get("content"), str) and bool(turn["content"].strip())


def _whole(tokenizer: PreTrainedTokenizerBase, conversation: Conversation, place: _Place) -> str:
    """Return the text of the conversation. Raises InputError when the answer is not where `place` says."""
    named = f"point {conversation.id}"
    text = _render(tokenizer, [*conversation.prompt, conversation.answer], conversation.tools, named)
    reasoning = conversation.answer.get("reasoning_content") or ""
    if not text.startswith(place.before):
        if place.reasoning or not (reasoning or "</think>" in (conversation.answer.get("content") or "")):
            raise InputError(
                f"the chat template does not keep the prompt of {named} when the answer is added, so the "
                "answer's tokens cannot be told from the prompt's; give another template with chat_template"
            )
        raise InputError(
            f"{named} has reasoning before its answer, and the model is prompted to answer without; "
            "set chat_template_kwargs: {enable_thinking: true}, or remove the reasoning"
        )
    answer = text[len(place.before) :]
    _check_turn(conversation.answer, answer, f"the answer of {named}", whole=True)
    if reasoning.strip() not in answer:
        raise InputError(f"the chat template leaves out reasoning_content of {named}; give a template that shows it")
    return text


def _check_turn(turn: Message, text: str, named: str, *, whole: bool = False) -> None:
    """Raise InputError unless `text` shows the content and the tool calls of a turn.

    A template may show the result of a tool as JSON, and an earlier answer without its reasoning. With `whole` the
    reasoning counts too.
    """
    content = turn.get("content")
    parts = THINK_TAG.split(content) if isinstance(content, str) and turn["role"] != "tool" else []
    for part in parts if whole else parts[-1:]:
        if part.strip() not in text:
            raise InputError(
                f"the chat template leaves out or changes {part.strip()[:60]!r} in {named}; "
                "give a template that shows it with chat_template"
            )
    for call in turn.get("tool_calls") or ():
        if str(_function(call).get("name", "")) not in text:
            raise InputError(f"the chat template leaves out the tool_calls of {named}; give a template that shows them")


def _function(tool: Any) -> Mapping[str, Any]:
    """Return the function of a tool or of a tool call, in OpenAI's form or without its envelope."""
    inner = tool.get("function") if isinstance(tool, Mapping) else None
    return inner if isinstance(inner, Mapping) else tool if isinstance(tool, Mapping) else {}


def _render(
    tokenizer: PreTrainedTokenizerBase,
    turns: Sequence[Message],
    tools: Any,
    named: str,
    *,
    add_generation_prompt: bool = False,
) -> str:
    variables = tokenizer.init_kwargs.get(VARIABLES) or {}
    reason: Exception | None = None
    for variant in _variants(turns):
        try:
            text = tokenizer.apply_chat_template(
                variant,
                tools=tools,
                tokenize=False,
                add_generation_prompt=add_generation_prompt,
                **variables,
            )
        except (TemplateError, TypeError, ValueError, LookupError, AttributeError) as error:
            reason = reason or error
        else:
            return str(text)
    raise InputError(f"the chat template of the tokenizer fails on {named}: {reason}") from None


def _variants(turns: Sequence[Message]) -> Iterator[list[Message]]:
    """Yield the forms of the turns that templates take, the most common first.

    They differ only where a turn has tool calls. The arguments of a call are an object or JSON text, and the content
    beside it is None or empty.
    """
    present = [{k: v for k, v in turn.items() if v is not None or k == "content"} for turn in turns]
    if not any(turn.get("tool_calls") for turn in present):
        yield present
        return
    for content in (None, ""):
        for arguments in (_as_object, _as_text):
            yield [
                {
                    **turn,
                    "content": content if turn.get("content") is None else turn["content"],
                    "tool_calls": [_with_arguments(call, arguments) for call in turn["tool_calls"]],
                }
                if turn.get("tool_calls")
                else turn
                for turn in present
            ]


def _with_arguments(call: Any, convert: Callable[[Any], Any]) -> Any:
    function = _function(call)
    if "arguments" not in function:
        return call
    function = {**function, "arguments": convert(function["arguments"])}
    return {"type": "function", **call, "function": function} if "function" in call else function


def _as_object(arguments: Any) -> Any:
    try:
        return json.loads(arguments) if isinstance(arguments, str) else arguments
    except ValueError:
        return arguments


def _as_text(arguments: Any) -> Any:
    return arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)


def _name_of(prompt: Sequence[Message]) -> str:
    return f"the prompt {str(prompt[-1].get('content'))[:80]!r}"


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
