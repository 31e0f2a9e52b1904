"""How much of a benchmark is in the training data: items whose text is a training instruction, and shared words.

In: the texts of a benchmark's items, the points that a student learned from.  Out: an `Overlap` a benchmark.
Texts are compared by their words, in lower case and without punctuation, so `2 + 2` and `2 - 2` are the same here: it
counts rather too much than too little. A paraphrase is not found.
"""

import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice

from montessori.evaluation.card import Overlap

N = 13  # words in a row: as GPT-3's authors counted (Brown et al. 2020, appendix C)
EXAMPLES = 5
WORD = re.compile(r"\w+")  # letters and digits of any script

Item = Sequence[str]  # an item's texts: the turns of a question, or its one text
Point = tuple[str, str]  # a training point: its instruction; all that it says


def overlaps(benchmarks: Mapping[str, Sequence[Item]], training: Iterable[Point], n: int = N) -> list[Overlap]:
    """What the items of each benchmark share with the training points, which are read once.

    An item counts as exact when all words of one of its texts are those of a training instruction, and by n-gram when
    `n` words in a row of one text are in a training point. A text shorter than `n` words can only be exact.
    """
    # Hashes find what might be shared, and take an eighth of the memory; below the words themselves are compared.
    hashes = {hash(gram) for items in benchmarks.values() for item in items for text in item for gram in grams(text, n)}
    instructions: set[str] = set()
    shared: set[str] = set()
    for instruction, whole in training:
        instructions.add(normalised(instruction))
        shared.update(gram for gram in grams(whole, n) if hash(gram) in hashes)
    instructions.discard("")
    return [_overlap(name, items, instructions, shared, n) for name, items in benchmarks.items()]


def normalised(text: str) -> str:
    """The words of a text, in lower case, with a space between them."""
    return " ".join(_words(text))


def grams(text: str, n: int) -> Iterator[str]:
    """Every `n` words in a row of a text, normalised."""
    words = _words(text)
    for start in range(len(words) - n + 1):
        yield " ".join(words[start : start + n])


def _overlap(name: str, items: Sequence[Item], instructions: set[str], shared: set[str], n: int) -> Overlap:
    exact = [text for item in items if (text := next((t for t in item if normalised(t) in instructions), None))]
    ngram = [found for item in items if (found := next((g for t in item for g in grams(t, n) if g in shared), None))]
    # What is shared, not the whole item: some benchmarks ask not to be printed where crawlers read.
    examples = dict.fromkeys(" ".join(islice(_words(text), n)) for text in exact) | dict.fromkeys(ngram)
    return Overlap(name, len(items), len(exact), len(ngram), list(examples)[:EXAMPLES], words=n)


def _words(text: str) -> list[str]:
    return WORD.findall(unicodedata.normalize("NFKC", text).lower())
