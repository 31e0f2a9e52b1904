"""Generate the pocket world, small instructions on words and numbers with a known right answer for each family.

In: a number of rows and a seed.  Out: rows (`id`, `instruction`, `response`, `family`) and training conversations. The
reference and held-out rows use the USEFUL families only. Three families are useless. Two of them have random answers,
and `contrary` asks the question of `next` with a different answer. The method is not told which families are useful. It
has to find out from influence.
"""

import random
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from montessori.data.chat import Message, user
from montessori.errors import InputError
from montessori.synthesis.prompts import few_shot, teacher_output

Items = list[str]

WORDS = "bird boat bread cloud cow door fish goat hill king lamp milk moon rain road star".split()  # noqa: SIM905
NUMBERS = [str(n) for n in range(1, 17)]
SHOTS = 8  # the most examples in a few-shot prompt
GENERATION_EVERY = 6  # one in six of a teacher's conversations generates an instruction, the others answer one
HARD = ("reverse", "zorb", "next", "contrary")  # families twice as frequent in a teacher's training
KINDS = ("seed", "reference", "held-out")  # kinds of rows
MAX_TRIES = 200  # for a new row: the world has about 1,000 instructions of a family for each kind


@dataclass(frozen=True)
class Family:
    """Hold one kind of instruction, `opening: item item …`."""

    name: str
    opening: str
    skill: str  # for the teacher's rationale
    alphabet: list[str]  # WORDS or NUMBERS
    answer: Callable[[Items], Items] | None  # None: random items, as many as in the instruction
    lengths: tuple[int, ...] = (3,)  # allowed numbers of items in an instruction
    form: Literal["items", "any"] = "items"  # a random answer has items of the instruction, or any of the alphabet


def _language(name: str) -> Callable[[Items], Items]:
    """Return a made-up language that maps each word to another one, so that it can only be memorized."""
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

# A student's skills from the start: other orders, other languages, other steps, none of them a family above.
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


def seeds(n: int, seed: int) -> list[dict[str, str]]:
    """Return `n` rows that cover all families evenly, in random order."""
    return _rows("seed", [family.name for family in FAMILIES], n, seed)


def reference(n: int, seed: int) -> list[dict[str, str]]:
    """Return `n` rows of the useful families, against which influence is measured."""
    return _rows("reference", USEFUL, n, seed)


def held_out(n: int, seed: int) -> list[dict[str, str]]:
    """Return `n` rows of the useful families that no seed and no reference row contains, at any seed."""
    return _rows("held-out", USEFUL, n, seed)


def family_of(instruction: str) -> str | None:
    """Return the family of `instruction`, or None if it is not well-formed."""
    family, _ = _parse(instruction)
    return family.name if family else None


def answer_of(instruction: str) -> str | None:
    """Return the right answer, or None for other text and for the useless families."""
    family, items = _parse(instruction)
    if family is None or family.answer is None or family.name in USELESS:
        return None
    return " ".join(family.answer(items))


def teacher_conversations(n: int, seed: int) -> list[list[Message]]:
    """Return training conversations for a teacher.

    They generate new instructions from few-shot prompts, and answer others. A new instruction belongs to a family in
    its prompt, so a teacher starts with the mix of its prompts.
    """
    rng = random.Random(f"teacher {seed}")
    return [_generation_conversation(rng) if i % GENERATION_EVERY == 0 else _answer_conversation(rng) for i in range(n)]


def student_conversations(n: int, seed: int) -> list[list[Message]]:
    """Return training conversations for a student.

    Two thirds train its skills, and one third the form of each family's answers. The answers of that third are random,
    so they teach nothing about a family's rule.
    """
    rng = random.Random(f"student {seed}")
    return [_skill_conversation(rng) if i % 3 else _random_answer_conversation(rng) for i in range(n)]


def _generation_conversation(rng: random.Random) -> list[Message]:
    shown = rng.choices(FAMILIES, k=rng.randint(2, SHOTS))
    new = rng.choice(shown)
    examples = [_instruction(family, _items(family, rng)) for family in shown]
    output = teacher_output(f"It trains {new.skill}.", _instruction(new, _items(new, rng)))
    return [*few_shot(examples), _assistant(output)]


def _answer_conversation(rng: random.Random) -> list[Message]:
    family = rng.choices(FAMILIES, [2 if family.name in HARD else 1 for family in FAMILIES])[0]
    items = _items(family, rng)
    return [*user(_instruction(family, items)), _assistant(_answer(family, items, rng))]


def _skill_conversation(rng: random.Random) -> list[Message]:
    family = rng.choice(KNOWN)
    items = _items(family, rng)
    return [*user(_instruction(family, items)), _assistant(_answer(family, items, rng))]


def _random_answer_conversation(rng: random.Random) -> list[Message]:
    """Return an instruction of a family and a random answer of the right form: the right length, and the same items."""
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
    """Return the family and the items of `instruction`. A teacher may generate the same item twice."""
    opening, _, payload = instruction.partition(": ")
    family = _BY_OPENING.get(opening)
    items = payload.split()
    if family is None or len(items) not in family.lengths or not set(items) <= set(family.alphabet):
        return None, []
    return family, items


def _rows(kind: str, names: Sequence[str], n: int, seed: int) -> list[dict[str, str]]:
    """Return `n` different rows with even shares of the families `names`. No other kind contains them."""
    rng = random.Random(f"{kind} {seed}")
    rows: dict[str, str] = {}  # instruction → response
    for i in range(n):
        family = _BY_NAME[names[i % len(names)]]
        for _ in range(MAX_TRIES):
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
    """Return the one kind of rows that may hold `instruction`, so that no two kinds share one."""
    return KINDS[zlib.crc32(instruction.encode()) % len(KINDS)]
