"""From a raw teacher output to an instruction worth keeping, or the reason why not.

Filters as in Self-Instruct (arXiv 2212.10560, section 2.2); the word list and the limits are settings.
"""

import re
from functools import cache

from montessori.settings.schema import Instructions

TAGGED = re.compile(r"<instruction>((?:(?!</?instruction>).)*)</instruction>", re.DOTALL)


def instruction_of(raw: str) -> str | None:
    """The last tagged instruction in `raw` with its white space collapsed; None when nothing is tagged."""
    tagged = TAGGED.findall(raw)
    return " ".join(tagged[-1].split()) if tagged else None


def reason_to_reject(instruction: str, settings: Instructions) -> str | None:
    """Why `instruction` is not kept, by the filters alone; None when it passes."""
    if len(instruction) < settings.min_characters:
        return "too short"
    if len(instruction) > settings.max_characters:
        return "too long"
    if not instruction[0].isascii() or not instruction[0].isalnum():
        return "begins with punctuation or a non-ASCII character"
    if settings.forbidden_words and _any_of(settings.forbidden_words).search(instruction):
        return "needs more than text"
    return None


@cache
def _any_of(words: tuple[str, ...]) -> re.Pattern[str]:
    return re.compile(rf"\b(?:{'|'.join(map(re.escape, words))})\b", re.IGNORECASE)
