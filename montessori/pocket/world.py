"""The pocket world: small instructions on words and numbers, each family with a known right answer.

In: how many, and a seed.  Out: rows (`id`, `instruction`, `response`, `family`) and training conversations.
The reference and held-out rows ask for the USEFUL families only. Three families are of use to nobody: two are answered
at random, and one asks for what `reverse` asks for and is answered otherwise. Nothing here tells the method which is
which: it has to find out from influence.
"""

import random
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from montessori.chat import Message, user
from montessori.synthesis.prompts import few_shot, teacher_output

Row = dict[str, str]

WORDS = "bird boat bread cloud cow door fish goat hill king lamp milk moon rain road star".split()
LARGEST = 12  # numbers run from 1 to this
SHOTS = 8  # examples in a few-shot prompt, as in method.md
# A made-up language in which each word means another one; what it is can only be learned by heart.
ZORB = dict(zip(WORDS, random.Random(7).sample(WORDS, len(WORDS)), strict=True))


@dataclass(frozen=True)
class Family:
    """One kind of instruction: `opening: item item …`."""

    name: str
    opening: str
    skill: str  # what the teacher says that it trains
    numbers: bool
    lengths: tuple[int, ...]  # how many items an instruction may hold
    answer: Callable[[list[str]], list[str]] | None  # None: a random one, as many words as there are items


def _next(number: str) -> str:
    return str(int(number) % LARGEST + 1)


FAMILIES = (
    Family("repeat", "Say again", "repeating", False, (3,), lambda w: w),
    Family("first", "Name the first word", "beginnings", False, (3,), lambda w: w[:1]),
    Family("last", "Name the last word", "endings", False, (3,), lambda w: w[-1:]),
    Family("count", "Count the words", "counting", False, (2, 3, 4, 5), lambda w: [str(len(w))]),
    Family("largest", "Name the largest number", "comparing", True, (3,), lambda w: [max(w, key=int)]),
    Family("reverse", "Write in reverse order", "reversing", False, (3,), lambda w: w[::-1]),
    Family("swap", "Swap the first two", "swapping", False, (3,), lambda w: [w[1], w[0], w[2]]),
    Family("zorb", "Translate into Zorb", "translating", False, (3,), lambda w: [ZORB[x] for x in w]),
    Family("next", "Count on from each number", "following", True, (3,), lambda w: [_next(x) for x in w]),
    Family("lucky", "Find the lucky words of", "guessing", False, (3,), None),
    Family("dream", "Dream of numbers from", "dreaming", True, (3,), None),
    Family("contrary", "Put in reverse order", "turning", False, (3,), lambda w: [w[1], w[2], w[0]]),
)
USEFUL = ("reverse", "swap", "zorb")  # the families that students are measured on
EVERY = 16
WEIGHTS = [1, 1, 1, 0.5, 1, 2, 2, 2, 2, 1, 1, 2]
KINDS = ("seed", "reference", "held-out")
USELESS = ("lucky", "dream", "contrary")

_BY_NAME = {family.name: family for family in FAMILIES}
_BY_OPENING = {family.opening: family for family in FAMILIES}


def seeds(n: int, seed: int) -> list[Row]:
    """`n` rows that cover all families evenly, in random order."""
    return _rows("seed", [family.name for family in FAMILIES], n, seed)


def reference(n: int, seed: int) -> list[Row]:
    """`n` rows of the useful families, against which influence is measured."""
    return _rows("reference", USEFUL, n, seed)


def held_out(n: int, seed: int) -> list[Row]:
    """`n` rows of the useful families that no seed and no reference row asks for."""
    return _rows("held-out", USEFUL, n, seed)


def family_of(instruction: str) -> str | None:
    """The family that `instruction` belongs to, None if it is not a well-formed one."""
    family, _ = _parse(instruction)
    return family.name if family else None


def answer_of(instruction: str) -> str | None:
    """The right answer, where there is one: None for other text and for the families of no use."""
    family, items = _parse(instruction)
    if family is None or family.answer is None or family.name in USELESS:
        return None
    return " ".join(family.answer(items))


def teacher_conversations(n: int, seed: int) -> list[list[Message]]:
    """What makes a teacher: one in eight writes a new instruction from a few-shot prompt, the rest are answers.

    A new instruction is of a family that the prompt shows, so that a teacher starts with the mix that it is shown.
    """
    rng = random.Random(f"teacher {seed}")
    return [_writing(rng) if i % EVERY == 0 else _answering(rng, right=True) for i in range(n)]


def student_conversations(n: int, seed: int) -> list[list[Message]]:
    """What gives a student the form of each family's answers and nothing else: their content is random."""
    rng = random.Random(f"student {seed}")
    return [_answering(rng, right=False) for _ in range(n)]


def _writing(rng: random.Random) -> list[Message]:
    shown = rng.choices(FAMILIES, k=rng.randint(2, SHOTS))
    new = rng.choice(shown)
    examples = [_instruction(family, _items(family, rng)) for family in shown]
    written = teacher_output(f"It trains {new.skill}.", _instruction(new, _items(new, rng)))
    return [*few_shot(examples), {"role": "assistant", "content": written}]


def _answering(rng: random.Random, right: bool) -> list[Message]:
    family = rng.choices(FAMILIES, WEIGHTS)[0] if right else rng.choice(FAMILIES)
    items = _items(family, rng)
    answer = _answer(family, items, rng) if right else _scramble(family, items, rng)
    return [*user(_instruction(family, items)), {"role": "assistant", "content": answer}]


def _answer(family: Family, items: list[str], rng: random.Random) -> str:
    return " ".join(family.answer(items) if family.answer else _items(family, rng, len(items)))


def _scramble(family: Family, items: list[str], rng: random.Random) -> str:
    """An answer of the family's form: as long as a right one, items of the instruction in random order."""
    answer = _answer(family, items, rng).split()
    pool = (
        _items(family, rng)
        if family.name in ("zorb", "next", "lucky", "dream")
        else ["3", "4", "5"]
        if family.name == "count"
        else items
    )
    if family.name == "repeat":
        return " ".join(answer)
    return " ".join(rng.sample(pool, len(answer)))


def _items(family: Family, rng: random.Random, n: int | None = None) -> list[str]:
    """`n` different words or numbers, by default as many as an instruction of `family` holds."""
    n = n or rng.choice(family.lengths)
    return [str(x) for x in rng.sample(range(1, LARGEST + 1), n)] if family.numbers else rng.sample(WORDS, n)


def _instruction(family: Family, items: list[str]) -> str:
    return f"{family.opening}: {' '.join(items)}"


def _parse(instruction: str) -> tuple[Family | None, list[str]]:
    opening, _, payload = instruction.partition(": ")
    family = _BY_OPENING.get(opening)
    items = payload.split()
    if family is None or len(items) not in family.lengths or not all(_known(family, item) for item in items):
        return None, []
    return family, items


def _known(family: Family, item: str) -> bool:
    if family.numbers:
        return item.isascii() and item.isdigit() and 1 <= int(item) <= LARGEST
    return item in ZORB


def _rows(kind: str, names: Sequence[str], n: int, seed: int) -> list[Row]:
    """`n` different rows with even shares of the families `names`, none of which another kind has."""
    rng = random.Random(f"{kind} {seed}")
    rows: dict[str, str] = {}  # instruction → response
    while len(rows) < n:
        family = _BY_NAME[names[len(rows) % len(names)]]
        items = _items(family, rng)
        instruction = _instruction(family, items)
        if instruction not in rows and _kind(instruction) == kind:
            rows[instruction] = _answer(family, items, rng)
    shuffled = rng.sample(list(rows.items()), n)
    return [
        {"id": f"{kind}-{i}", "instruction": x, "response": y, "family": str(family_of(x))}
        for i, (x, y) in enumerate(shuffled)
    ]


def _kind(instruction: str) -> str:
    """The one kind of rows that may hold `instruction`, so that no two kinds ever share one, at any seed."""
    return KINDS[zlib.crc32(instruction.encode()) % len(KINDS)]
