"""Read a chat completion of an endpoint: its usable texts, and the tokens that it bills.

Endpoints differ in what they leave out. A missing count is zero. A text is usable only when its choice ended in a known
way. The tokens of all other texts are billed too, so they are counted as discarded.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ValidationError

from montessori.synthesis.engines import Generation, merge_by_text

FINISHED = ("stop", "length", "tool_calls", "function_call", "content_filter")
EMPTY_FINISHES = ("length", "content_filter")  # a choice that ended so may have no message
# A text with more characters for each allowed token, or more reported tokens than the limit and a quarter, shows that
# the endpoint ignored the limit. The longest tokens in use are runs of blanks; a whole text has 2 to 6 for each token.
CHARACTERS_PER_TOKEN, FREE_CHARACTERS, FREE_TOKENS = 32, 256, 16
# A prompt has at most one token for each byte, besides what the endpoint adds. A text may follow hidden reasoning.
ADDED_TOKENS, REASONING_TOKENS = 65_536, 262_144
_LONE_SURROGATE = re.compile("[\ud800-\udfff]")


class NoReply(ValueError):
    """Report a body that is no chat completion, so another try may help."""


@dataclass(frozen=True)
class Reply:
    """Hold the usable texts of a reply and its billed tokens."""

    texts: list[Generation]
    prompt_tokens: int = 0
    discarded: int = 0  # generated tokens of unusable choices
    error: str = ""  # why a choice is not usable, in the provider's words where there are some
    has_usage: bool = True
    empty: bool = False  # the reply has no choice, or a choice without a message
    over_limit: bool = False  # the endpoint ignored the limit on tokens


def parse(content: bytes, *, limit: int, prompt_bytes: int, top_logprobs: int = 0) -> Reply:
    """Return the reply in a body. `limit` is the most tokens of a text. Raises NoReply for a body of another kind."""
    try:
        tree = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise NoReply(f"the body is not JSON: {type(error).__name__}") from None
    if not isinstance(tree, dict):
        raise NoReply(f"the body is no chat completion: {type(tree).__name__}")
    choices, usage = tree.get("choices") or [], tree.get("usage")
    whole_reply = isinstance(usage, dict) or tree.get("object") == "chat.completion"
    if not choices and (tree.get("error") or not whole_reply):
        raise NoReply(words(tree) or "the body has no choices")
    if not isinstance(choices, list):
        raise NoReply("the body is no chat completion: its choices are no list")
    try:
        read, written, visible = _tokens(usage if isinstance(usage, dict) else {})
    except ValueError as absurd:
        return Reply([], error=str(absurd))
    if read > prompt_bytes + ADDED_TOKENS or written > max(1, len(choices)) * (limit + REASONING_TOKENS):
        return Reply([], error=f"the usage is absurd: {read} tokens of the prompt, {written} generated tokens")
    if not choices:
        return Reply([], read, written, "the reply has no choices", empty=True)
    found = [_text(choice) for choice in choices]
    texts = [text if isinstance(text, str) else "" for text, _ in found]
    allowed = limit + max(FREE_TOKENS, limit // 4)
    if visible > len(choices) * allowed or max(map(len, texts)) > CHARACTERS_PER_TOKEN * limit + FREE_CHARACTERS:
        size = f"a text of {max(map(len, texts)):,} characters and {visible:,} tokens, where {limit:,} were allowed"
        return Reply([], read, written, size, over_limit=True)
    shares = shares_of(written, [len(text) for text in texts])
    whole = words({"error": tree.get("error")})
    usable, errors, lost = {}, [whole] if whole else [], 0
    for number, (choice, (text, why), tokens) in enumerate(zip(choices, found, shares, strict=True)):
        if whole or text is None:
            errors.append(why)
            lost += tokens
        else:
            index = choice.get("index")
            first = _likely_first(choice.get("logprobs")) if top_logprobs else None
            order = (index if isinstance(index, int) else number, number)
            usable[order] = Generation(text, _finish(choice), tokens, first)
    return Reply(
        [usable[order] for order in sorted(usable)],
        read,
        lost,
        "; ".join(dict.fromkeys(filter(None, errors))),
        has_usage=isinstance(usage, dict),
        empty=not usable and not whole and all(why == _NO_MESSAGE for _, why in found),
    )


_NO_MESSAGE = "the choice has no message"


def _text(choice: Any) -> tuple[str | None, str]:
    """Return the text of a choice, or None and the reason why it is not usable."""
    if not isinstance(choice, dict):
        return None, "a choice is no object"
    finish, message = choice.get("finish_reason"), choice.get("message")
    if finish not in FINISHED:
        said = words({"error": choice.get("error")})
        return None, f"finish_reason is {json.dumps(finish)[:60]}" + (f": {said}" if said else "")
    if message is None:
        return ("", "") if finish in EMPTY_FINISHES else (None, _NO_MESSAGE)
    if not isinstance(message, dict):
        return None, "the message is no object"
    content = message.get("content")
    if isinstance(content, list):
        content = "".join(_part(part) for part in content)
    if content is not None and not isinstance(content, str):
        return None, "the content is no text"
    return _LONE_SURROGATE.sub("\ufffd", content or _refused(message)), ""


def _part(part: Any) -> str:
    """Return the text of one part of a content. Parts with thoughts, sounds or images have none."""
    if isinstance(part, dict) and part.get("type", "text") in ("text", "output_text"):
        part = part.get("text")
    return part if isinstance(part, str) else ""


def _refused(message: dict[str, Any]) -> str:
    refusal = message.get("refusal")
    return refusal if isinstance(refusal, str) else ""


def _finish(choice: dict[str, Any]) -> str:
    return "content_filter" if _refused(choice.get("message") or {}) else str(choice["finish_reason"])


def _tokens(usage: dict[str, Any]) -> tuple[int, int, int]:
    """Return the tokens of the prompt, those generated, and those generated without reported reasoning.

    Some endpoints count the tokens of a hidden reasoning in the total alone. They are billed, so they count as
    generated. Raises ValueError for a count that is no whole number from 0.
    """
    read, completion = _count(usage, "prompt_tokens"), _count(usage, "completion_tokens")
    details = usage.get("completion_tokens_details")
    reasoning = _count(details, "reasoning_tokens") if isinstance(details, dict) else 0
    return read, max(completion, _count(usage, "total_tokens") - read), completion - reasoning


def _count(usage: dict[str, Any], name: str) -> int:
    value = usage.get(name)
    if value is None:
        return 0
    whole = isinstance(value, int) or (isinstance(value, float) and value.is_integer())
    if isinstance(value, bool) or not whole or value < 0:
        raise ValueError(f"the usage is absurd: {name} is {json.dumps(value)[:60]}")
    return int(value)


class _Token(BaseModel):
    token: str
    logprob: float


class _First(BaseModel):
    top_logprobs: list[_Token]


class _Logprobs(BaseModel):
    content: list[_First]  # one for each token


def _likely_first(logprobs: Any) -> dict[str, float] | None:
    """Return the likeliest first tokens, or None. Some servers have a format of their own, or an empty one."""
    try:
        content = _Logprobs.model_validate(logprobs).content
    except ValidationError:
        return None
    return merge_by_text((token.token, token.logprob) for token in content[0].top_logprobs) or None if content else None


def shares_of(total: int, weights: list[int]) -> list[int]:
    """Divide `total` in proportion to `weights`. An endpoint reports the tokens of all texts of an answer together."""
    weights = [weight + 1 for weight in weights]
    whole = sum(weights)
    ends = [round(total * sum(weights[: i + 1]) / whole) for i in range(len(weights))]
    return [end - start for start, end in zip([0, *ends], ends, strict=False)]


def words(tree: Any) -> str:
    """Return the provider's own words in the JSON of an error, or ""."""
    return "; ".join(dict.fromkeys(filter(None, _words(tree))))


def _words(tree: Any) -> Iterator[str]:
    if isinstance(tree, str):
        yield " ".join(tree.split())
    elif isinstance(tree, list):
        for each in tree:
            yield from _words(each)
    elif isinstance(tree, dict):
        place, said = tree.get("loc"), tree.get("msg")
        if isinstance(said, str):  # as FastAPI words a wrong field
            yield f"{'.'.join(map(str, place))}: {said}" if isinstance(place, list) else said
        for name in ("message", "detail", "error", "errors", "metadata", "raw"):
            yield from _words(tree.get(name))
