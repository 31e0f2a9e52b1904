"""Find the prompt, the answer and the tools in a row of any common form.

    {"instruction": "Sort the words.", "input": "pear apple", "output": "apple pear", "system": …, "history": …}
    {"prompt": "Name a colour.", "completion": "Red."}           texts, or lists of turns
    {"question": "2 + 2?", "answer": "4"}
    {"messages": [{"role": "user", "content": "Name a colour."}, {"role": "assistant", "content": "Red."}], "tools": …}

`montessori.data.columns` has all names, and the columns of a source give others. A row is read as it stands or refused.
No text is stripped, and nothing that belongs to the prompt or the answer is left out.
"""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from montessori.data.columns import Reader, check_meaningful, mapping, unknown_form
from montessori.data.turns import Turn, parsed, read_turns, shown
from montessori.errors import InputError


@dataclass(frozen=True)
class Found:
    """Hold the parts of one row."""

    prompt: list[Turn]  # the turns before the answer
    answer: Turn | None  # the assistant's turn
    tools: list[Any] | None
    id: object
    reader: Reader

    @property
    def is_blank(self) -> bool:
        """Return whether the row has a place for an answer, with a blank text in it."""
        return self.answer is not None or any(name in self.reader.row for name in self.reader.names("response"))


def find(where: str, row: Mapping[str, Any], role: str, columns: Mapping[str, str]) -> Found:
    """Return the parts of a row. Raises InputError with the row's place, the column, and the setting that helps."""
    reader = Reader(where, row, role, columns)
    if not columns:
        check_meaningful(reader)
    prompt = _prompt(reader)
    name, conversation = reader.single("messages")
    last = None
    if conversation is not None:
        chat = read_turns(where, name, conversation, answered=True)
        if chat[-1]["role"] == "assistant":
            *chat, last = chat
        _check_same_prompt(reader, name, chat, prompt)
        prompt = chat
    elif not prompt:
        raise InputError(unknown_form(reader))
    prompt, answer = _answer(reader, prompt)
    if last and answer and last["content"].strip() != answer["content"].strip():
        raise InputError(
            f"{where}: the conversation in {name} and the field {next(iter(reader.given('response')))} have different "
            f"answers; choose one with {mapping(role, {'messages': name})}"
        )
    return Found(
        prompt=_with_system(reader, prompt),
        answer=_with_reasoning(reader, last or answer),
        tools=_tools(reader),
        id=reader.single("id")[1],
        reader=reader,
    )


def _prompt(reader: Reader) -> list[Turn]:
    """Return the turns of an instruction with its input and history. Empty without an instruction."""
    where = reader.where
    name, prompt = reader.single("instruction")
    extra = reader.text("input")
    if prompt is None and extra is not None and not any(name in reader.row for name in reader.names("instruction")):
        name, prompt, extra = reader.names("input")[0], extra, None
    if prompt is None:
        return []
    if isinstance(prompt, list) or (name == "prompt" and _is_json_turns(prompt)):
        if extra is not None:
            raise InputError(f"{where}: the field {name} is a conversation with a field input beside it; leave one out")
        return [*_history(reader), *read_turns(where, name, prompt)]
    if not isinstance(prompt, str):
        raise InputError(f"{where}: the field {name} is no text but {shown(prompt)}")
    if extra is not None and name != "instruction" and not reader.columns:
        joint = mapping(reader.role, {"instruction": name, "input": "input"})
        raise InputError(f"{where}: the field input beside {name} is not read; join the two with {joint}")
    return [*_history(reader), {"role": "user", "content": prompt if extra is None else _joined(prompt, extra)}]


def _joined(instruction: str, extra: str) -> str:
    """Join as the paper does, by a space. Lines of an input stay lines, so that code keeps its indentation."""
    return f"{instruction}\n{extra}" if "\n" in extra or "\r" in extra else f"{instruction} {extra}"


def _history(reader: Reader) -> list[Turn]:
    """Return the turns of a history, which has pairs of a question and an answer, or turns."""
    name, history = reader.single("history")
    history = parsed(reader.where, name, history)
    if not history:
        return []
    if isinstance(history, list) and isinstance(history[0], dict):
        return read_turns(reader.where, name, history)
    turns: list[Turn] = []
    for number, pair in enumerate(history if isinstance(history, list) else [history], 1):
        if not isinstance(pair, list) or len(pair) != 2 or not all(isinstance(text, str) for text in pair):
            raise InputError(
                f"{reader.where}: element {number} of {name} is {shown(pair)}; expected [question, answer], two texts"
            )
        turns += [{"role": "user", "content": pair[0]}, {"role": "assistant", "content": pair[1]}]
    return turns


def _answer(reader: Reader, prompt: list[Turn]) -> tuple[list[Turn], Turn | None]:
    """Return the prompt with the turns that an answer of several turns adds to it, and the answer."""
    where = reader.where
    name, answer = reader.single("response")
    if answer is None and (instance := _instance(reader)):
        name, answer, extra = "instances", instance.get("output"), instance.get("input")
        if isinstance(extra, str) and extra.strip():
            prompt = [*prompt[:-1], {**prompt[-1], "content": _joined(prompt[-1]["content"], extra)}]
    if answer is None:
        return prompt, None
    if isinstance(answer, int | float) and not isinstance(answer, bool) and math.isfinite(answer):
        answer = json.dumps(answer)
    if isinstance(answer, str) and not (name == "completion" and _is_json_turns(answer)):
        return prompt, {"role": "assistant", "content": answer}
    if not isinstance(answer, str | dict) and not (isinstance(answer, list) and isinstance(answer[0], dict)):
        raise InputError(f"{where}: lacks an answer: the field {name} is no text but {shown(answer)}")
    turns = read_turns(where, name, answer, answered=True)
    if turns[: len(prompt)] == prompt:  # the whole conversation once more
        turns = turns[len(prompt) :]
    if not turns or turns[-1]["role"] != "assistant" or any(turn["role"] in ("system", "user") for turn in turns):
        raise InputError(f"{where}: the turns in {name} do not follow the prompt; expected those of the answer alone")
    return [*prompt, *turns[:-1]], turns[-1]


def _instance(reader: Reader) -> dict[str, Any] | None:
    """Return the one instance of a row in the form of Self-Instruct's seed tasks."""
    instances = None if reader.columns else reader.row.get("instances")
    if not instances:
        return None
    if not isinstance(instances, list) or len(instances) != 1 or not isinstance(instances[0], dict):
        raise InputError(f"{reader.where}: the field instances is no list of one input and output; write one row each")
    return instances[0]


def _with_system(reader: Reader, prompt: list[Turn]) -> list[Turn]:
    system = reader.text("system")
    if system is None:
        return prompt
    if prompt[0]["role"] != "system":
        return [{"role": "system", "content": system}, *prompt]
    if prompt[0]["content"] != system:
        raise InputError(f"{reader.where}: the field system and the conversation's system turn differ; leave one out")
    return prompt


def _with_reasoning(reader: Reader, answer: Turn | None) -> Turn | None:
    reasoning = reader.text("reasoning_content")
    if reasoning is None:
        return answer
    if answer is None or answer.get("reasoning_content", reasoning) != reasoning:
        raise InputError(f"{reader.where}: the field reasoning_content does not belong to the answer; leave one out")
    return {**answer, "reasoning_content": reasoning}


def _tools(reader: Reader) -> list[Any] | None:
    name, value = reader.single("tools")
    tools = parsed(reader.where, name, value)
    if not tools:
        return None
    read = [parsed(reader.where, name, tool) for tool in tools] if isinstance(tools, list) else [None]
    if not all(isinstance(tool, dict) for tool in read):
        raise InputError(f"{reader.where}: the field {name} is no list of objects but {shown(value)}")
    return read


def _check_same_prompt(reader: Reader, name: str, chat: list[Turn], prompt: list[Turn]) -> None:
    """Raise InputError where a conversation and the row's other columns have different prompts."""
    if reader.given("history"):
        raise InputError(f"{reader.where}: has both {name} and history, which are conversations; leave one out")
    given = {text.strip() for text in reader.given("instruction").values() if isinstance(text, str)}
    given |= {turn["content"].strip() for turn in prompt[-1:]}
    asked = [turn["content"].strip() for turn in chat if turn["role"] == "user"]
    if given and asked and not given & {asked[0], asked[-1]}:
        other = next(iter(reader.given("instruction") or reader.given("input")))
        raise InputError(
            f"{reader.where}: the conversation in {name} and the field {other} differ; choose one with "
            f"{mapping(reader.role, {'messages': name})}"
        )


def _is_json_turns(value: object) -> bool:
    """Return whether a text is a list of turns in JSON, as a column of text holds it."""
    return isinstance(value, str) and bool(re.match(r'\s*\[\s*\{\s*"(role|from|content|value)"\s*:', value))
