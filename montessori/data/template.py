"""Render conversations with a chat template, find the place of the answer, and check that nothing is left out."""

from __future__ import annotations

import datetime
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from jinja2 import TemplateError

from montessori.errors import InputError

if TYPE_CHECKING:  # a dry run needs the prompts, and must not wait for transformers
    from transformers import PreTrainedTokenizerBase

Message = dict[str, Any]  # role and content, and what else a template reads: tool_calls, reasoning_content, …

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
class Place:
    """The place of an answer in the text of a conversation."""

    before: str  # the text that the model is asked to continue
    after: str | None  # the text that follows an answer; None: the template shows no answers
    reasoning: bool = False  # the answer begins with its reasoning


def place_of(
    tokenizer: PreTrainedTokenizerBase,
    prompt: Sequence[Message],
    tools: Any,
    named: str,
    *,
    prompts_alone: bool = False,
) -> Place:
    """Return the text around an answer to `prompt`. Raises InputError when a turn of the prompt is not in it.

    With `prompts_alone` the template may show no answer.
    """
    mark = _unused(prompt, tools)
    text = _render(tokenizer, [*prompt, {"role": "assistant", "content": mark}], tools, named)
    if prompts_alone and mark not in text:
        text = _render(tokenizer, prompt, tools, named, add_generation_prompt=True)
        _check_prompt(tokenizer, prompt, text, named, answered=False)
        return Place(text, None)
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
    return Place(before.rstrip(" "), after, reasoning)


def _unused(prompt: Sequence[Message], tools: Any) -> str:
    """Return a stand-in for an answer that does not occur in the prompt."""
    text, mark = repr((prompt, tools)), ANSWER
    while mark in text:
        mark += "1"
    return mark


def prompt_place(tokenizer: PreTrainedTokenizerBase, prompt: Sequence[Message]) -> Place:
    """Return the place of a generated answer, also in a template that shows prompts alone."""
    return place_of(tokenizer, prompt, None, _name_of(prompt), prompts_alone=True)


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


def text_after(tokenizer: PreTrainedTokenizerBase, prompt: Sequence[Message]) -> str:
    """Return what the template puts after an answer to `prompt`: the next turn's mark where it ends no last answer."""
    after = prompt_place(tokenizer, prompt).after
    if after is None or after.strip():
        return after or ""
    mark = _unused(prompt, None)
    turns = [*prompt, {"role": "assistant", "content": mark}, {"role": "user", "content": QUESTION}]
    return _render(tokenizer, turns, None, _name_of(prompt)).partition(mark)[2].partition(QUESTION)[0]


def whole_text(
    tokenizer: PreTrainedTokenizerBase, prompt: Sequence[Message], answer: Message, tools: Any, named: str, place: Place
) -> str:
    """Return the text of a conversation. Raises InputError when the answer is not where `place` says."""
    text = _render(tokenizer, [*prompt, answer], tools, named)
    reasoning = answer.get("reasoning_content") or ""
    if not text.startswith(place.before):
        if place.reasoning or not (reasoning or "</think>" in (answer.get("content") or "")):
            raise InputError(
                f"the chat template does not keep the prompt of {named} when the answer is added, so the "
                "answer's tokens cannot be told from the prompt's; give another template with chat_template"
            )
        raise InputError(
            f"{named} has reasoning before its answer, and the model is prompted to answer without; "
            "set chat_template_kwargs: {enable_thinking: true}, or remove the reasoning"
        )
    shown = text[len(place.before) :]
    _check_turn(answer, shown, f"the answer of {named}", whole=True)
    if reasoning.strip() not in shown:
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
