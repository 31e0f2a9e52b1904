"""A judge at work: which prompts it gets, what its replies mean, and how often it is asked when they mean nothing.

In: questions with their answers, and an `Asker`.  Out: for each a preference from 0 to 1 or a grade from 1 to 10, or
None where the judge said neither after all tries: nothing is guessed.
"""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from montessori.data.chat import Message
from montessori.errors import StageError
from montessori.evaluation import judge_prompts
from montessori.evaluation.judge_prompts import GRADING, PAIRWISE, RATING, Template
from montessori.settings.schema import Sampling
from montessori.synthesis.asking import Asker
from montessori.synthesis.engines import Generation
from montessori.synthesis.instructions import number_from

FIRST_CHUNK, CHUNK = 32, 256  # prompts between two looks at whether the judge makes sense
LETTER_TOKENS = 16  # of a reply that should be a letter
TOP_LOGPROBS = 5  # as AlpacaEval 2 asks for; some endpoints give no more
# Of the first token's probability, on both letters: below it the judge is about to say something else.
LEAST_SHARE = 0.1
AGAIN = 0.7  # temperature of the second and later tries: at 0 the judge would say the same
FINAL = ("too_long", "content_filter")  # finish reasons of prompts that no other try helps

OTHER_WORDING = (
    "wording: the judge's prompts are others here than where this was planned; run both with the same Montessori"
)

# A line with nothing but the letter, whatever the marks around it: "A", " b.", "[[B]]", "Answer: **A**"
_LETTER = re.compile(r"^[\W_]*(?:answer[\W_]+)?([ab])[\W_]*$", re.IGNORECASE | re.MULTILINE)
_NUMBER = re.compile(r"\[\[\s*(\d+(?:\.\d+)?)\s*(?:/\s*(?:5|10)\s*)?\]\]")
_OURS = {"verdicts": {"pairwise": PAIRWISE}, "grades": GRADING, "ratings": {"rating": RATING}}


@dataclass(frozen=True)
class Question:
    """One thing to judge."""

    id: str  # its own: it makes the seeds
    chat: list[Message]
    read: Callable[[Generation], float | None]  # what a reply to it means


@dataclass(frozen=True)
class Verdict:
    """What came of asking."""

    value: float | None
    reply: Generation  # the last one
    tries: int
    cut: bool  # the prompt lost its start, for want of room in the judge's context


def wording(stage: str) -> str:
    """The version of our own prompts for `verdicts`, `grades` or `ratings`: part of what these stages read."""
    return judge_prompts.version(_OURS[stage])


def check(path: str) -> None:
    """Raise InputError when the file of grading prompts is not in MT-Bench's form."""
    judge_prompts.load(path)


def comparison(question: str, left: str, right: str, swapped: bool) -> list[Message]:
    """The prompt that asks which answer is better; `swapped` shows `right` first, as A."""
    first, second = (right, left) if swapped else (left, right)
    return PAIRWISE.chat(question=question, first=first, second=second)


def letters(reply: Generation) -> dict[str, float]:
    """The probabilities that the first token is A or B; both 0 where none are known."""
    shares = {"a": 0.0, "b": 0.0}
    for token, logprob in (reply.first or {}).items():
        if (letter := token.strip().lower()) in shares:
            shares[letter] += math.exp(logprob)
    return shares


def preference(reply: Generation, swapped: bool) -> float | None:
    """How much the judge prefers `right`, from 0 to 1.

    By the probabilities of the two letters, the rest left out; where they are unknown or next to nothing, 0 or 1 by the
    letter it wrote.
    """
    right = "a" if swapped else "b"
    shares = letters(reply)
    if (total := sum(shares.values())) >= LEAST_SHARE:
        return shares[right] / total
    said = {letter.lower() for letter in _LETTER.findall(reply.text)}
    return float(said == {right}) if len(said) == 1 else None


def grading(
    prompts: Mapping[str, Template],
    turns: Sequence[str],
    answers: Sequence[str],
    references: Sequence[str] | None,
    turn: int,
) -> list[Message]:
    """The prompt that asks for a grade of the answer to `turn` (0 or 1), with its reference where there is one."""
    given = list(references or [""] * len(turns))
    name = ("single-math-v1" if given[turn] else "single-v1") + ("-multi-turn" if turn else "")
    values = {"question": turns[0], "answer": answers[0]}
    for number, (question, answer, reference) in enumerate(zip(turns, answers, given, strict=True), 1):
        values |= {f"question_{number}": question, f"answer_{number}": answer}
        values[f"ref_answer_{number}"] = reference or "(none)"
    return prompts[name].chat(**values)


def grade(reply: Generation) -> float | None:
    """The grade in double brackets, where there is one from 1 to 10, and no other."""
    return _bracketed(reply, 10)


def rating(reply: Generation) -> float | None:
    """The rating in double brackets, where there is one from 1 to 5, and no other."""
    return _bracketed(reply, 5)


def _bracketed(reply: Generation, highest: int) -> float | None:
    found = {float(number) for number in _NUMBER.findall(reply.text)}
    return next((number for number in found if 1 <= number <= highest), None) if len(found) == 1 else None


def judge(
    asker: Asker,
    questions: Sequence[Question],
    sampling: Sampling,
    max_tokens: int,
    seed: int,
    tries: int,
    max_unreadable: int,
) -> list[Verdict]:
    """A verdict on each question, in order.

    The first try is made with `sampling`, later ones warmer and with `max_tokens`. Raises StageError when more than
    `max_unreadable` verdicts, and more than half of those so far, stay unreadable.
    """
    found: list[Verdict] = []
    again = sampling.model_copy(update={"temperature": AGAIN, "max_tokens": max_tokens})
    size = FIRST_CHUNK
    while (start := len(found)) < len(questions):
        verdicts: dict[int, Verdict] = {}
        asked = list(range(start, min(start + size, len(questions))))
        for number in range(1, tries + 1):
            chats = [questions[i].chat for i in asked]
            seeds = [number_from(f"{seed}-{questions[i].id}-{number}") for i in asked]
            before = start + len(verdicts) - len(asked) if verdicts else start
            answers = asker.ask(chats, sampling if number == 1 else again, 1, seeds, before, len(questions))
            for i, answer in zip(asked, answers, strict=True):
                (reply,) = answer.generations
                verdicts[i] = Verdict(questions[i].read(reply), reply, number, answer.cut)
            asked = [i for i in asked if verdicts[i].value is None and verdicts[i].reply.finish_reason not in FINAL]
            if not asked:
                break
        found += [verdicts[i] for i in sorted(verdicts)]
        _check_sense(found, max_unreadable)
        size = min(2 * size, CHUNK)
    return found


def _check_sense(found: Sequence[Verdict], max_unreadable: int) -> None:
    unreadable = [verdict for verdict in found if verdict.value is None]
    if len(unreadable) > max_unreadable and 2 * len(unreadable) > len(found):
        said = " ".join(unreadable[-1].reply.text.split())[:200]
        raise StageError(
            f"the judge does not judge: {len(unreadable)} of its first {len(found)} verdicts cannot be read, for "
            f"example {said!r}; use one that follows instructions, or raise judge.max_unreadable ({max_unreadable})"
        )


def summary(verdicts: Sequence[Verdict]) -> dict[str, int]:
    """The counts of a stage's summary."""
    return {
        "unreadable": sum(verdict.value is None for verdict in verdicts),
        "asked_again": sum(verdict.tries > 1 for verdict in verdicts),
        "prompts_cut": sum(verdict.cut for verdict in verdicts),
    }
