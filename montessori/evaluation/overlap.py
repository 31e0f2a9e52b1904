"""Count the items of a benchmark that are in the training data.

Texts are compared by their words, in lower case and without punctuation. So `2 + 2` and `2 - 2` are the same here, and
the count is rather too high than too low. Paraphrases are missed.
"""

import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice

from montessori.evaluation.card import Overlap

N = 13  # consecutive words, as in GPT-3's analysis (Brown et al. 2020, appendix C)
EXAMPLES = 5
WORD = re.compile(r"\w+")  # letters and digits of any script

Item = Sequence[str]  # texts of an item: the turns of a question, or one text
Point = tuple[str, str]  # a training point: its instruction, and its whole text


def overlaps(benchmarks: Mapping[str, Sequence[Item]], training: Iterable[Point], n: int = N) -> list[Overlap]:
    """Return the overlap of each benchmark with the training points, which are read once.

    An item is exact when all words of one of its texts are those of a training instruction. It overlaps by n-gram when
    `n` consecutive words of one text are in a training point. A text shorter than `n` words can only be exact.
    """
    # Hashes take an eighth of the memory and find candidates, whose words are compared below.
    hashes = {hash(gram) for items in benchmarks.values() for item in items for text in item for gram in grams(text, n)}
    instructions: set[str] = set()
    shared: set[str] = set()
    for instruction, whole in training:
        instructions.add(normalise(instruction))
        shared.update(gram for gram in grams(whole, n) if hash(gram) in hashes)
    instructions.discard("")
    return [_overlap(name, items, n, instructions=instructions, shared=shared) for name, items in benchmarks.items()]


def normalise(text: str) -> str:
    """Return the words of a text, in lower case, separated by spaces."""
    return " ".join(_words(text))


def grams(text: str, n: int) -> Iterator[str]:
    """Yield every `n` consecutive words of a text, normalised."""
    words = _words(text)
    for start in range(len(words) - n + 1):
        yield " ".join(words[start : start + n])


def _overlap(name: str, items: Sequence[Item], n: int, *, instructions: set[str], shared: set[str]) -> Overlap:
    exact = [text for item in items if (text := next((t for t in item if normalise(t) in instructions), None))]
    ngram = [gram for item in items if (gram := next((g for t in item for g in grams(t, n) if g in shared), None))]
    # The shared words, not the whole item, since some benchmarks ask not to be published.
    examples = dict.fromkeys(" ".join(islice(_words(text), n)) for text in exact) | dict.fromkeys(ngram)
    return Overlap(name, len(items), len(exact), len(ngram), list(examples)[:EXAMPLES], words=n)


def _words(text: str) -> list[str]:
    return WORD.findall(unicodedata.normalize("NFKC", text).lower())
