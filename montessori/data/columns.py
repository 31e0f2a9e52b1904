"""Look up the parts of a row by the names of its columns, and say which setting would read other names."""

import json
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from montessori.data.turns import shown
from montessori.errors import InputError

NAMES = {  # the columns that are read, by the setting that gives another name
    "instruction": ("instruction", "prompt", "question", "query"),
    "input": ("input",),
    "response": ("response", "output", "completion", "answer"),
    "system": ("system", "system_prompt"),
    "history": ("history",),
    "messages": ("messages", "conversations", "conversation", "dialog", "dialogue", "chat"),
    "tools": ("tools",),
    "reasoning_content": ("reasoning_content",),
    "id": ("id",),
}
RIVALS = {"instruction": ("messages",), "input": ("messages",), "messages": ("instruction", "input", "response")}
PROMPT_TEXTS = ("context", "contexts", "passage", "document", "documents", "background", "article")
MEANINGFUL: dict[str, str | None] = {  # columns that may belong to the prompt, and the setting that reads them
    **dict.fromkeys(PROMPT_TEXTS, "input"),
    **dict.fromkeys(("choices", "options", "endings", "A", "option_a", "choice_a")),
    **dict.fromkeys(("image", "images", "audio", "audios", "video", "videos")),
    "functions": "tools",
    "function_call": None,
}
ASKS = re.compile("instr|quest|prompt|query|task|problem|ask|user|human|frage|pregunta|source|input", re.IGNORECASE)
TELLS = re.compile(
    "answ|resp|output|compl|solut|target|label|reply|assist|antwort|chosen|summary|result", re.IGNORECASE
)
METADATA = re.compile(
    "(^|_)(id|idx|index|uuid|source|category|dataset|lang|language|type|split|score|model|name|date|time|state|url|role)$",
    re.IGNORECASE,
)
OPTIONS = {"--data": "--columns", "--reference": "--reference-columns"}


@dataclass(frozen=True)
class Reader:
    """Hold one row with its place, and look up its parts."""

    where: str
    row: Mapping[str, Any]
    role: str  # the source's settings field or option
    columns: Mapping[str, str]  # of the source's settings

    def names(self, part: str) -> tuple[str, ...]:
        """Return the columns in which the row's `part` is looked for."""
        return names_of(tuple(self.columns.items()))[part]

    def given(self, part: str) -> dict[str, Any]:
        """Return the values of `part` that are not empty, by column."""
        found = {}
        for name in self.names(part):
            value = value_at(self.row, name)
            if not is_empty(value):
                found[name] = value
                if name == "instruction":  # beside it a prompt is often the text that a model was given
                    break
        return found

    def single(self, part: str) -> tuple[str, Any]:
        """Return the column and the value of `part`, ("", None) without one. Raises InputError for two that differ."""
        given = self.given(part)
        if len(given) < 2:
            return next(iter(given.items()), ("", None))
        if len({_comparable(value) for value in given.values()}) > 1:
            raise InputError(
                f"{self.where}: the fields {' and '.join(given)} differ; choose one with "
                f"{mapping(self.role, {part: next(iter(given))})}"
            )
        return min(given.items(), key=lambda pair: isinstance(pair[1], str))  # a turn says more than its text

    def text(self, part: str) -> str | None:
        """Return the text of `part`, or None where it is missing or blank."""
        name, value = self.single(part)
        if value is not None and not isinstance(value, str):
            raise InputError(f"{self.where}: the field {name} is no text but {shown(value)}")
        return value


@cache
def names_of(columns: tuple[tuple[str, str], ...]) -> dict[str, tuple[str, ...]]:
    """Return the columns in which each part is looked for, with the names that a source's settings give."""
    given = dict(columns)
    rivals = {part for name in given for part in RIVALS.get(name, ())}
    return {part: (given[part],) if part in given else () if part in rivals else names for part, names in NAMES.items()}


def unused(columns: Mapping[str, str], seen: Collection[str]) -> list[str]:
    """Return the columns among `seen` in which no part is looked for."""
    names = {name for names in names_of(tuple(columns.items())).values() for name in names}
    used = {*names, *(name.partition(".")[0] for name in names), *(() if columns else ("instances",))}
    if "instruction" in seen:
        used -= set(NAMES["instruction"][1:]) - set(columns.values())
    return [name for name in seen if name not in used]


def value_at(row: Mapping[str, Any], name: str) -> Any:
    """Return the value of a column, or of a key inside it after a dot. None where there is none."""
    if name in row:
        return row[name]
    if "." not in name:
        return None
    value: Any = row
    for key in name.split("."):
        if isinstance(value, Mapping):
            value = value.get(key)
        elif isinstance(value, list) and key.isdecimal() and int(key) < len(value):
            value = value[int(key)]
        else:
            return None
    return value


def is_empty(value: object) -> bool:
    """Return whether a value says nothing: null, a blank text, an empty list or object."""
    if isinstance(value, str):
        return not value or value.isspace()
    return value is None or value == [] or value == {}


def mapping(role: str, columns: Mapping[str, str]) -> str:
    """Return the setting or the option that names the columns of a source, as the user would write it."""
    if role.startswith("--"):
        return f"{OPTIONS.get(role, '--columns')} {','.join(f'{part}={name}' for part, name in columns.items())}"
    quoted = {p: name if re.fullmatch(r"\w[\w. -]*", name) else json.dumps(name) for p, name in columns.items()}
    return f"columns: {{{', '.join(f'{part}: {name}' for part, name in quoted.items())}}}"


def check_meaningful(reader: Reader) -> None:
    """Raise InputError for a column that may belong to the prompt and is not read."""
    for name in sorted(MEANINGFUL.keys() & reader.row.keys()):
        if is_empty(reader.row[name]):
            continue
        part = MEANINGFUL[name]
        parts = ("messages",) if reader.given("messages") else ("instruction", "response")
        used = {part: next(iter(given)) for part in parts if (given := reader.given(part))}
        options = [f"leave it out with {mapping(reader.role, used or _guess(reader.row))}"]
        if part == "tools" or (part and "messages" not in used and not reader.given(part)):
            options.insert(0, f"read it with {mapping(reader.role, {**used, part: name})}")
        raise InputError(
            f"{reader.where}: the field {name} may belong to the prompt and is not read; {', or '.join(options)}"
        )


def unknown_form(reader: Reader) -> str:
    """Return the message for a row without an instruction and without a conversation."""
    for part in ("instruction", "messages"):
        if part in reader.columns:
            return (
                f"{reader.where}: the column {reader.columns[part]}, which columns.{part} names, is missing or empty; "
                f"the row has {', '.join(reader.row)}"
            )
    blank = next((name for name in reader.names("instruction") if reader.row.get(name) is not None), None)
    if blank:
        return f"{reader.where}: the field {blank} is empty"
    guess = _guess(reader.row)
    hint = f"; name yours with {mapping(reader.role, guess)}" if guess else ""
    prompts, answers, chats = (", ".join(NAMES[part]) for part in ("instruction", "response", "messages"))
    return (
        f"{reader.where}: no instruction and no conversation among the fields {', '.join(reader.row) or '(none)'} "
        f"(read are {prompts} with {answers}, or {chats}){hint}"
    )


def without_answer(reader: Reader) -> str:
    """Return the message for a row without an answer."""
    names = reader.names("response")
    wrong = next((name for name in names if value_at(reader.row, name) is not None), None)
    guess = _guess(reader.row).get("response")
    if not is_empty(reader.row.get("chosen")):  # pairs for preferences
        guess = "chosen"
    if wrong or reader.columns:
        guess = None
    hint = f"; name yours with {mapping(reader.role, {'response': guess})}" if guess else ""
    return (
        f"{reader.where}: lacks an answer{f': {wrong} is empty' if wrong else ''} (one of the fields "
        f"{', '.join(names)}, or the assistant's turn at the end of a conversation){hint}"
    )


def _guess(row: Mapping[str, Any]) -> dict[str, str]:
    """Return the columns that the user may mean, by part."""
    lists = [name for name, value in row.items() if isinstance(value, list) and value and isinstance(value[0], dict)]
    texts = [name for name, value in row.items() if isinstance(value, str) and not is_empty(value)]
    texts = [name for name in texts if not METADATA.search(name)]
    tells = next((name for name in texts if TELLS.search(name)), None)
    asks = next((name for name in texts if ASKS.search(name) and name != tells), None)
    asks = asks or next((name for name in texts if name != tells), None)
    tells = tells or next((name for name in texts if name not in (asks, *NAMES["instruction"], "input")), None)
    if lists and not (asks and tells):
        return {"messages": lists[0]}
    return {part: name for part, name in (("instruction", asks), ("response", tells)) if name}


def _comparable(value: object) -> str:
    """Return a value as text. A turn is its content, as a row of ours has it in `response` and in `answer`."""
    if isinstance(value, dict) and isinstance(value.get("content"), str):
        value = value["content"]
    return value.strip() if isinstance(value, str) else json.dumps(value, sort_keys=True, default=str)
