"""Remove the thoughts that a reasoning model writes before its answer, between `<think>` and `</think>`."""

import re
from dataclasses import replace

from montessori.synthesis.engines import Answer, Generation

_OPEN, _CLOSE = (
    r"(?<!['\"`])<think>(?!['\"`])",
    r"(?<!['\"`])</think>(?!['\"`])",
)  # a tag in quotes is part of an answer
_BLANKS = r"(?:(?:[ \t]*\n)+|[ \t]+)?"  # not the indentation of the answer's first line
_BLOCK = re.compile(rf"(?:\A\s*)?{_OPEN}.*?{_CLOSE}{_BLANKS}", re.DOTALL)
_UNOPENED = re.compile(rf"\A.*{_CLOSE}{_BLANKS}", re.DOTALL)
_UNCLOSED = re.compile(rf"(?:\A\s*|\s*\n\s*){_OPEN}.*", re.DOTALL)


def without_thinking(generation: Generation) -> Generation:
    """Return a text without thoughts, the same object if it has none.

    Some chat templates open the thought themselves, so a text may hold its end alone. A text that was cut in a thought
    has the finish reason "length". The first token was part of the thought, so its log probabilities are dropped.
    """
    if "think>" not in generation.text:
        return generation
    text = _UNOPENED.sub("", _BLOCK.sub("", generation.text))
    whole = _UNCLOSED.sub("", text)
    if whole == generation.text:
        return generation
    finish = generation.finish_reason if whole == text else "length"
    return replace(generation, text=whole, finish_reason=finish, first=None)


def remove_thinking(answer: Answer) -> tuple[Answer, int]:
    """Return an answer without thoughts, and the number of its texts that had some."""
    texts = [without_thinking(generation) for generation in answer.generations]
    count = sum(new is not old for new, old in zip(texts, answer.generations, strict=True))
    return (replace(answer, generations=texts), count) if count else (answer, 0)
