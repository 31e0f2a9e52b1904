"""Near-duplicate filter for generated instructions: ROUGE-L F1 against everything accepted so far.

In: instructions, in order.  Out: whether each is new.
The longest common subsequence comes from rapidfuzz as an integer, and F1 is computed from it in rouge_score's own
order of operations, so that the decisions are the same where rounding decides. Unlike rouge_score, any script counts:
a run of letters or digits is a token, and so is each character of a script written without spaces.
"""

import re
from collections.abc import Sequence

import numpy as np
from rapidfuzz import process
from rapidfuzz.distance import LCSseq

# Kana, CJK ideographs, Thai, Lao, Khmer and Myanmar are written without spaces between words.
_SPACELESS = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff"
# Vowel signs and accents that stand as characters of their own; to `re` they are not letters.
_MARKS = "\u0300-\u036f\u064b-\u065f\u0900-\u0963\u0966-\u0dff"
_TOKEN = re.compile(rf"[{_SPACELESS}]|(?:[^\W_{_SPACELESS}]|[{_MARKS}])+")


class NearDuplicates:
    """The instructions accepted so far, ready to be compared with the next one."""

    def __init__(self, max_rouge_l: float = 0.7):  # Self-Instruct, section 2.2
        self.max_rouge_l = max_rouge_l
        self._accepted: list[str] = []  # each token mapped to one character, so that LCS runs on strings
        self._characters: dict[str, str] = {}

    def admit(self, instruction: str, also_against: Sequence[str] = ()) -> bool:
        """Accept `instruction` unless its ROUGE-L F1 with an accepted one or one of `also_against` is too high."""
        new = self._encode(instruction)
        others = self._accepted + [self._encode(other) for other in also_against]
        if others and self._closest(new, others) > self.max_rouge_l:
            return False
        self._accepted.append(new)
        return True

    def _encode(self, text: str) -> str:
        known, lower = self._characters, text.lower()
        tokens = _TOKEN.findall(lower) or "".join(lower.split())  # symbols alone: each is a token
        return "".join(known.setdefault(token, chr(len(known) + 1)) for token in tokens)

    @staticmethod
    def _closest(new: str, others: list[str]) -> float:
        common = process.cdist([new], others, scorer=LCSseq.similarity, dtype=np.int32)[0]
        return max(
            (rouge_l_f1(int(c), len(new), len(other)) for c, other in zip(common, others, strict=True) if c),
            default=0.0,
        )


def rouge_l_f1(common: int, candidate_tokens: int, other_tokens: int) -> float:
    """F1 from the length of the longest common subsequence, as rouge_score computes it."""
    if not common:
        return 0.0
    precision = common / candidate_tokens
    recall = common / other_tokens
    return 2 * precision * recall / (precision + recall)
