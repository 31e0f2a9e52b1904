"""The pocket world: small instructions on words and numbers, each family with a known right answer.

In: how many, and a seed.  Out: rows (`id`, `instruction`, `response`, `family`) and training conversations.
The reference and held-out rows ask for the USEFUL families only. Three families are of use to nobody: two are answered
at random, and `contrary` asks for what `next` asks for and is answered otherwise. Nothing here tells the method which
is which: it has to find out from influence.
"""

import random
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from montessori.data.chat import Message, user
from montessori.errors import InputError
from montessori.synthesis.prompts import few_shot, teacher_output

Row = dict[str, str]
Items = list[str]

WORDS = "bird boat bread cloud cow door fish goat hill king lamp milk moon rain road star".split()  # noqa: SIM905
NUMBERS = [str(n) for n in range(1, 17)]
SHOTS = 8  # the most examples that a few-shot prompt shows a teacher
WRITING_EVERY = 6  # of a teacher's conversations, one in so many writes an instruction, the rest answer one
HARD = ("reverse", "zorb", "next", "contrary")  # a teacher meets them twice as often
KINDS = ("seed", "reference", "held-out")  # of rows
MOST_DRAWS = 200  # for a new row: the world holds about 1,000 instructions of a family for each kind


@dataclass(frozen=True)
class Family:
    """One kind of instruction, `opening: item item …`."""

    name: str
    opening: str
    skill: str  # what the teacher says that it trains
    alphabet: list[str]  # WORDS or NUMBERS
    answer: Callable[[Items], Items] | None  # None: as many random items
    lengths: tuple[int, ...] = (3,)  # how many items an instruction may hold
    form: Literal["items", "any"] = "items"  # a random answer's: items of the instruction, or any of the alphabet


def _language(name: str) -> Callable[[Items], Items]:
    """A made-up language, in which each word means another one: it can only be learned by heart."""
    meaning = dict(zip(WORDS, random.Random(name).sample(WORDS, len(WORDS)), strict=True))
    return lambda items: [meaning[item] for item in items]


def _plus(step: int) -> Callable[[Items], Items]:
    return lambda items: [NUMBERS[(NUMBERS.index(item) + step) % len(NUMBERS)] for item in items]


def _order(*places: int) -> Callable[[Items], Items]:
    return lambda items: [items[place] for place in places]


FAMILIES = (
    Family("repeat", "Say again", "repeating", WORDS, _order(0, 1, 2)),
    Family("first", "Name the first word", "beginnings", WORDS, _order(0)),
    Family("last", "Name the last word", "endings", WORDS, _order(-1)),
    Family("count", "How many words", "counting", WORDS, lambda w: [str(len(w))], (2, 3, 4, 5)),
    Family("largest", "Name the largest number", "comparing", NUMBERS, lambda n: [max(n, key=int)]),
    Family("reverse", "Write in reverse order", "reversing", WORDS, _order(2, 1, 0)),
    Family("zorb", "Translate into Zorb", "translating", WORDS, _language("Zorb"), form="any"),
    Family("next", "Count on from each number", "following", NUMBERS, _plus(1), form="any"),
    Family("lucky", "Find the lucky words of", "guessing", WORDS, None, form="any"),
    Family("dream", "Dream of numbers from", "dreaming", NUMBERS, None, form="any"),
    Family("contrary", "Count up from each number", "rising", NUMBERS, _plus(-4), form="any"),
)
USEFUL = ("reverse", "next")  # the families that students are measured on
USELESS = ("lucky", "dream", "contrary")

# What a student can do from the start: other orders, other languages, other steps, none of them a family above.
KNOWN = (
    Family("", "Write the last two only", "", WORDS, _order(1, 2)),
    Family("", "Swap the first two words", "", WORDS, _order(1, 0, 2)),
    Family("", "Swap the last two words", "", WORDS, _order(0, 2, 1)),
    Family("", "Move the first word to the end", "", WORDS, _order(1, 2, 0)),
    Family("", "Move the last word to the front", "", WORDS, _order(2, 0, 1)),
    *(Family("", f"Translate into {name}", "", WORDS, _language(name)) for name in ("Arb", "Bex", "Cim", "Dov")),
    *(Family("", f"Add {step} to each number", "", NUMBERS, _plus(step)) for step in (3, 5, 7)),
)

_BY_NAME = {family.name: family for family in FAMILIES}
_BY_OPENING = {family.opening: family for family in FAMILIES}


def seeds(n: int, seed: int) -> list[Row]:
    """`n` rows that cover all families evenly, in random order."""
    return _rows("seed", [family.name for family in FAMILIES], n, seed)


def reference(n: int, seed: int) -> list[Row]:
    """`n` rows of the useful families, against which influence is measured."""
    return _rows("reference", USEFUL, n, seed)


def held_out(n: int, seed: int) -> list[Row]:
    """`n` rows of the useful families that no seed and no reference row asks for, at any seed."""
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
    """What makes a teacher: it writes new instructions from few-shot prompts, and answers instructions.

    A new instruction is of a family that its prompt shows, so a teacher starts with the mix that it is shown.
    """
    rng = random.Random(f"teacher {seed}")
    return [_writing(rng) if i % WRITING_EVERY == 0 else _answering(rng) for i in range(n)]


def student_conversations(n: int, seed: int) -> list[list[Message]]:
    """What makes a student: two thirds are what it knows, one third gives the form of each family's answers.

    The content of those is random, so nothing says what a family does.
    """
    rng = random.Random(f"student {seed}")
    return [_practising(rng) if i % 3 else _guessing(rng) for i in range(n)]


def _writing(rng: random.Random) -> list[Message]:
    shown = rng.choices(FAMILIES, k=rng.randint(2, SHOTS))
    new = rng.choice(shown)
    examples = [_instruction(family, _items(family, rng)) for family in shown]
    written = teacher_output(f"It trains {new.skill}.", _instruction(new, _items(new, rng)))
    return [*few_shot(examples), _assistant(written)]


def _answering(rng: random.Random) -> list[Message]:
    family = rng.choices(FAMILIES, [2 if family.name in HARD else 1 for family in FAMILIES])[0]
    items = _items(family, rng)
    return [*user(_instruction(family, items)), _assistant(_answer(family, items, rng))]


def _practising(rng: random.Random) -> list[Message]:
    family = rng.choice(KNOWN)
    items = _items(family, rng)
    return [*user(_instruction(family, items)), _assistant(_answer(family, items, rng))]


def _guessing(rng: random.Random) -> list[Message]:
    """An instruction of a family and a random answer of the right form: as long as the right one, of the same items."""
    family = rng.choice(FAMILIES)
    items = _items(family, rng)
    length = len(_answer(family, items, rng).split())
    if family.name == "count":
        answer = [rng.choice(NUMBERS[1:5])]
    else:
        answer = rng.sample(items if family.form == "items" else family.alphabet, length)
    return [*user(_instruction(family, items)), _assistant(" ".join(answer))]


def _assistant(content: str) -> Message:
    return {"role": "assistant", "content": content}


def _answer(family: Family, items: Items, rng: random.Random) -> str:
    return " ".join(family.answer(items) if family.answer else rng.sample(family.alphabet, len(items)))


def _items(family: Family, rng: random.Random) -> Items:
    return rng.sample(family.alphabet, rng.choice(family.lengths))


def _instruction(family: Family, items: Items) -> str:
    return f"{family.opening}: {' '.join(items)}"


def _parse(instruction: str) -> tuple[Family | None, Items]:
    """The family and the items of `instruction`; an item may come twice, since a teacher may write it so."""
    opening, _, payload = instruction.partition(": ")
    family = _BY_OPENING.get(opening)
    items = payload.split()
    if family is None or len(items) not in family.lengths or not set(items) <= set(family.alphabet):
        return None, []
    return family, items


def _rows(kind: str, names: Sequence[str], n: int, seed: int) -> list[Row]:
    """`n` different rows with even shares of the families `names`, none of which another kind has."""
    rng = random.Random(f"{kind} {seed}")
    rows: dict[str, str] = {}  # instruction → response
    for i in range(n):
        family = _BY_NAME[names[i % len(names)]]
        for _ in range(MOST_DRAWS):
            items = _items(family, rng)
            instruction = _instruction(family, items)
            if instruction not in rows and _kind(instruction) == kind:
                break
        else:
            raise InputError(
                f"the pocket world has no {n} different {kind} rows: ask for fewer (pocket in the settings)"
            )
        rows[instruction] = _answer(family, items, rng)
    shuffled = rng.sample(list(rows.items()), n)
    return [
        {"id": f"{kind}-{i}", "instruction": x, "response": y, "family": str(family_of(x))}
        for i, (x, y) in enumerate(shuffled)
    ]


def _kind(instruction: str) -> str:
    """The one kind of rows that may hold `instruction`, so that no two kinds ever share one."""
    return KINDS[zlib.crc32(instruction.encode()) % len(KINDS)]
