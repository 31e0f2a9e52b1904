"""Filter instructions by their text alone. To add a filter, return its reason from `rejection_reason`.

The filters are those of Self-Instruct (arXiv 2212.10560, section 2.2). The word list and the limits are settings.
Near-duplicates are filtered in `dedup`.
"""

import re
from functools import cache

from montessori.settings.generation import Instructions


def rejection_reason(instruction: str, settings: Instructions) -> str | None:
    """Return the reason to reject `instruction`, or None when it passes every filter."""
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
