"""Read the turns of a conversation, in the spellings of the common chat formats.

    {"role": "user", "content": "Name a colour."}       also human, prompter; assistant, gpt, chatgpt, model, …
    {"from": "human", "value": "Name a colour."}        ShareGPT
    {"role": "assistant", "content": null, "tool_calls": [{"function": {"name": "f", "arguments": "{\"x\": 1}"}}]}

A turn becomes a dict of role (system, user, assistant, tool), content, and where given tool_calls, tool_call_id, name
and reasoning_content. The arguments of a tool call become an object, as chat templates expect. The loss counts the last
answer alone, so a weight that says otherwise is refused. Nothing is stripped from a text.
"""

import json
from typing import Any

from montessori.errors import InputError

Turn = dict[str, Any]

ROLE_KEYS = ("role", "from", "speaker")
CONTENT_KEYS = ("content", "value", "text")
KEPT = ("tool_calls", "tool_call_id", "name", "reasoning_content")
WEIGHTS = ("weight", "train")
REFUSED = {  # keys of a turn with a meaning that would be lost
    "function_call": "write the call as tool_calls",
    "reasoning": "name it reasoning_content",
    "thinking": "name it reasoning_content",
    "image": "only text is read",
    "images": "only text is read",
    "audio": "only text is read",
}
SPELLINGS = {
    "system": ("system", "developer"),
    "user": ("user", "human", "prompter"),
    "assistant": ("assistant", "gpt", "chatgpt", "bing", "bard", "model", "bot", "chatbot", "ai", "claude"),
    "tool": ("tool", "function", "observation", "function_response"),
}
ROLES = {spelling: role for role, spellings in SPELLINGS.items() for spelling in spellings}


def shown(value: object) -> str:
    """Return a value as short JSON, for an error message."""
    text = json.dumps(value, default=str, ensure_ascii=False)
    return text if len(text) <= 40 else text[:40] + "…"


def parsed(where: str, field: str, value: object) -> object:
    """Return a list or object that a column of text holds as JSON, and any other value unchanged."""
    if not isinstance(value, str) or not value.lstrip().startswith(("[", "{")):
        return value
    try:
        return json.loads(value)
    except json.JSONDecodeError as error:
        raise InputError(
            f"{where}: the field {field} is text that is not JSON ({error.msg}); write it as a list or with json.dumps"
        ) from None


def read_turns(where: str, field: str, value: object, *, answered: bool = False) -> list[Turn]:
    """Return the turns of a conversation. `answered`: an assistant's turn at its end is the answer.

    Raises InputError with the place of the row, the field and the number of the turn.
    """
    value = parsed(where, field, value)
    if isinstance(value, dict):
        value = [value]
    if not isinstance(value, list) or not value:
        raise InputError(f"{where}: the field {field} is no list of turns; expected objects with role and content")
    turns = [_turn(f"{where}: turn {number} of {field}", turn) for number, turn in enumerate(value, 1)]
    last = len(turns) if answered and turns[-1]["role"] == "assistant" else 0
    for number, turn in enumerate(value, 1):
        for key in WEIGHTS:
            if turn.get(key) is not None and turn[key] != (number == last):
                role = turns[number - 1]["role"]
                raise InputError(
                    f"{where}: turn {number} of {field} ({role}) has the {key} {shown(turn[key])}, but the loss counts "
                    "the last answer alone; cut the conversation after the answer to learn, one row an answer"
                )
    return turns


def _turn(where: str, turn: object) -> Turn:
    role_key = next((key for key in ROLE_KEYS if key in turn), None) if isinstance(turn, dict) else None
    if not isinstance(turn, dict) or role_key is None:
        raise InputError(f"{where} is not an object with role and content (or from and value)")
    spelling = turn[role_key]
    role = ROLES.get(spelling.lower()) if isinstance(spelling, str) else None
    if role is None:
        raise InputError(f"{where} has the role {spelling!r}; expected {', '.join(ROLES)}")
    for key, remedy in REFUSED.items():
        if turn.get(key):
            raise InputError(f"{where} has the field {key}, which is not read; {remedy}")
    calls = _tool_calls(where, turn.get("tool_calls"))
    content_key = next((key for key in CONTENT_KEYS if turn.get(key) is not None), None)
    if content_key is None and not calls:
        raise InputError(f"{where} has no content (one of the fields {', '.join(CONTENT_KEYS)})")
    result: Turn = {"role": role, "content": _content(where, turn[content_key]) if content_key else ""}
    if calls:
        result["tool_calls"] = calls
    for key in KEPT[1:]:
        if turn.get(key) not in (None, ""):
            if not isinstance(turn[key], str):
                raise InputError(f"{where} has a {key} that is no text but {shown(turn[key])}")
            result[key] = turn[key]
    return result


def _content(where: str, content: object) -> str:
    """Return a turn's text, which may come in parts."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise InputError(f"{where} has a content that is no text but {shown(content)}")
    texts = []
    for part in content:
        text = part.get("text") if isinstance(part, dict) else part
        if not isinstance(text, str):
            kind = part.get("type") if isinstance(part, dict) else None
            raise InputError(f"{where} has a part that is no text but {kind or shown(part)}; only text is read")
        texts.append(text)
    return "".join(texts)


def _tool_calls(where: str, calls: object) -> list[dict[str, Any]]:
    calls = parsed(where, "tool_calls", calls)
    if calls in (None, "", []):
        return []
    if not isinstance(calls, list):
        raise InputError(f"{where} has tool_calls that are no list but {shown(calls)}")
    return [_tool_call(where, call) for call in calls]


def _tool_call(where: str, call: object) -> dict[str, Any]:
    call = parsed(where, "tool_calls", call)
    function = call.get("function", call) if isinstance(call, dict) else None
    if not isinstance(call, dict) or not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise InputError(f"{where} has the tool call {shown(call)}; expected function.name and arguments")
    arguments = parsed(where, "arguments", function.get("arguments")) or {}
    if not isinstance(arguments, dict):
        raise InputError(f"{where} has a tool call with arguments that are no object but {shown(arguments)}")
    id = {"id": call["id"]} if call.get("id") is not None else {}
    return {**id, "type": "function", "function": {"name": function["name"], "arguments": arguments}}
