"""Filter near-duplicate instructions by their ROUGE-L F1 against all accepted ones.

In: instructions, in order.  Out: whether each is new. rapidfuzz computes the longest common subsequence as an integer.
F1 follows from it in rouge_score's own order of operations, so that decisions are equal even where rounding decides.
Unlike rouge_score, this filter counts every script. A run of letters or digits is a token, and so is each character of
a script written without spaces.

Few pairs reach that computation. The lengths and a sketch of the tokens of two texts bound their common subsequence
from above, and exclude most pairs at a tenth of the cost. The bound never excludes a near-duplicate.
benchmarks/dedup.py measures the speed.
"""

import re
from collections.abc import Sequence
from functools import cache

import numpy as np
from numpy.typing import NDArray
from rapidfuzz import process
from rapidfuzz.distance import LCSseq

# Kana, CJK ideographs, Thai, Lao, Khmer and Myanmar are written without spaces between words.
_SPACELESS = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff"
# Vowel signs and accents that stand as characters of their own; to `re` they are not letters.
_MARKS = "\u0300-\u036f\u064b-\u065f\u0900-\u0963\u0966-\u0dff"
_TOKEN = re.compile(rf"[{_SPACELESS}]|(?:[^\W_{_SPACELESS}]|[{_MARKS}])+")

_BITS = 512  # of a sketch: half as many let 36% of pairs of 60 tokens through at a threshold of 0.5, these 2%
_TINY = np.finfo(np.float64).tiny
_ROUNDING = 1e-9  # far more than the relative error of F1, so that the bound passes every pair that rounding decides


class NearDuplicates:
    """Compare each new instruction with the instructions accepted so far."""

    def __init__(self, max_rouge_l: float = 0.7):  # Self-Instruct, section 2.2
        self.max_rouge_l = max_rouge_l
        self._characters: dict[str, str] = {}
        self._encode_seed = cache(self._encode)  # a seed stands in many prompts
        self._accepted = 0
        self._texts = np.empty(64, object)  # [room]: strings, a character for each token, so that LCS runs on them
        self._lengths = np.zeros(64, np.int32)  # [room]
        self._sketches = np.zeros((_BITS // 64, 64), np.uint64)  # [word, room]

    def admit(self, instruction: str, also_against: Sequence[str] = ()) -> bool:
        """Accept `instruction` and return True, unless its ROUGE-L F1 with another one is above the limit.

        The others are the accepted instructions and those of `also_against`.
        """
        if not (new := self._encode(instruction)):
            return True  # white space repeats nothing, and nothing repeats it
        sketch = _sketch(new)
        near = self._may_be_near(len(new), sketch)
        also = [encoded for other in also_against if (encoded := self._encode_seed(other))]
        others = self._texts[near].tolist() + also
        common = process.cdist([new], others, scorer=LCSseq.similarity, dtype=np.int32)[0]
        lengths = np.append(self._lengths[near], [len(other) for other in also])
        if (rouge_l_f1(common, len(new), lengths) > self.max_rouge_l).any():
            return False
        self._remember(new, sketch)
        return True

    def _encode(self, text: str) -> str:
        known, lower = self._characters, text.lower()
        tokens = _TOKEN.findall(lower) or "".join(lower.split())  # symbols alone: each is a token
        return "".join(known.setdefault(token, chr(len(known) + 1)) for token in tokens)

    def _may_be_near(self, tokens: int, sketch: NDArray[np.uint64]) -> NDArray[np.intp]:
        """Return the indices of accepted instructions whose F1 may exceed the threshold, `[near]`.

        F1 is 2 LCS / (m + n). 2 LCS is m + n minus the tokens outside the subsequence. At least as many tokens are
        outside as the lengths differ by, and at least as many as the sketches differ in bits.
        """
        lengths, sketches = self._lengths[: self._accepted], self._sketches[:, : self._accepted]
        both = lengths + tokens
        outside = np.bitwise_count(sketches ^ sketch[:, None]).sum(axis=0, dtype=np.int32)
        outside = np.maximum(outside, np.abs(lengths - tokens))
        return np.flatnonzero(both - outside > self.max_rouge_l * (1 - _ROUNDING) * both)

    def _remember(self, new: str, sketch: NDArray[np.uint64]) -> None:
        if (used := self._accepted) == len(self._texts):
            self._texts, self._lengths = np.tile(self._texts, 2), np.tile(self._lengths, 2)
            self._sketches = np.tile(self._sketches, 2)
        self._texts[used], self._lengths[used], self._sketches[:, used] = new, len(new), sketch
        self._accepted += 1


def rouge_l_f1(
    common: int | NDArray[np.int32], candidate_tokens: int, other_tokens: int | NDArray[np.int32]
) -> NDArray[np.float64]:
    """Return F1 from the length of the longest common subsequence, as rouge_score computes it, for one pair or many."""
    precision = np.divide(common, candidate_tokens)
    recall = np.divide(common, other_tokens)
    # Where nothing is common the tiny number makes 0 of 0 / 0; any other sum it leaves as it is.
    f1: NDArray[np.float64] = 2 * precision * recall / np.maximum(precision + recall, _TINY)
    return f1


def _sketch(encoded: str) -> NDArray[np.uint64]:
    """Return the sketch of a text, `[word]`.

    Tokens are hashed to bits, and a bit is 1 when its tokens occur an odd number of times. Adding or removing a token
    flips one bit, so two texts differ in at least as many tokens as bits.
    """
    codes = np.frombuffer(encoded.encode("utf-32-le", "surrogatepass"), "<u4")
    counts = np.bincount(codes % _BITS, minlength=_BITS)
    return np.packbits(counts & 1).view(np.uint64)
