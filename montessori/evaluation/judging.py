"""Ask a judge, read its replies, and ask again when a reply cannot be read.

Each question gets a preference from 0 to 1 or a grade from 1 to 10. It gets None when no try gives a readable reply.
"""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from montessori.data.chat import Message
from montessori.errors import StageError
from montessori.evaluation import judge_prompts
from montessori.evaluation.judge_prompts import GRADING, PAIRWISE, RATING, Template
from montessori.settings.generation import Sampling
from montessori.synthesis.engines import Generation
from montessori.synthesis.instructions import stable_seed
from montessori.synthesis.journaled_engine import JournaledEngine

FIRST_CHUNK, CHUNK = 32, 256  # prompts between two checks of the share of unreadable verdicts
LETTER_TOKENS = 16  # most tokens of a reply that should be a letter
TOP_LOGPROBS = 5  # as in AlpacaEval 2. Some endpoints give no more.
# Least probability of both letters as the first token. Below it the reply starts with something else.
LEAST_SHARE = 0.1
AGAIN = 0.7  # temperature of later tries. At 0 the reply would be the same.
FINAL = ("too_long", "content_filter", "failed")  # finish reasons after which another try cannot help

OTHER_WORDING = (
    "wording: the judge's prompts are others here than where this was planned; run both with the same Montessori"
)

# A line with only the letter and punctuation: "A", " b.", "[[B]]", "Answer: **A**"
_LETTER = re.compile(r"^[\W_]*(?:answer[\W_]+)?([ab])[\W_]*$", re.IGNORECASE | re.MULTILINE)
_NUMBER = re.compile(r"\[\[\s*(\d+(?:\.\d+)?)\s*(?:/\s*(?:5|10)\s*)?\]\]")
_OURS = {"verdicts": {"pairwise": PAIRWISE}, "grades": GRADING, "ratings": {"rating": RATING}}


@dataclass(frozen=True)
class Question:
    """A question to the judge."""

    id: str  # unique: the seeds derive from it
    chat: list[Message]
    read: Callable[[Generation], float | None]  # the value of a reply, or None


@dataclass(frozen=True)
class Verdict:
    """The judge's verdict on a question."""

    value: float | None
    reply: Generation  # the last one
    tries: int
    cut: bool  # the start of the prompt was cut to fit the judge's context


def wording(stage: str) -> str:
    """Return the version of our own prompts for `verdicts`, `grades` or `ratings`, a setting of these tasks."""
    return judge_prompts.version(_OURS[stage])


def check(path: str) -> None:
    """Raise InputError when a file of grading prompts is not in MT-Bench's form."""
    judge_prompts.load(path)


def comparison(question: str, left: str, right: str, swapped: bool) -> list[Message]:
    """Return the prompt that compares two answers. `swapped` shows `right` first, as A."""
    first, second = (right, left) if swapped else (left, right)
    return PAIRWISE.chat(question=question, first=first, second=second)


def letters(reply: Generation) -> dict[str, float]:
    """Return the probabilities that the first token is A or B, both 0 where they are unknown."""
    shares = {"a": 0.0, "b": 0.0}
    for token, logprob in (reply.first or {}).items():
        if (letter := token.strip().lower()) in shares:
            shares[letter] += math.exp(logprob)
    return shares


def preference(reply: Generation, swapped: bool) -> float | None:
    """Return how much the judge prefers `right`, from 0 to 1.

    It is the share of the letter's probability. Where the two letters are unknown or nearly impossible, it is 0 or 1 by
    the letter in the text.
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
    *,
    references: Sequence[str] | None,
    turn: int,
) -> list[Message]:
    """Return the prompt that grades the answer to `turn` (0 or 1), with its reference if there is one."""
    given = list(references or [""] * len(turns))
    name = ("single-math-v1" if given[turn] else "single-v1") + ("-multi-turn" if turn else "")
    values = {"question": turns[0], "answer": answers[0]}
    for number, (question, answer, reference) in enumerate(zip(turns, answers, given, strict=True), 1):
        values |= {f"question_{number}": question, f"answer_{number}": answer}
        values[f"ref_answer_{number}"] = reference or "(none)"
    return prompts[name].chat(**values)


def grade(reply: Generation) -> float | None:
    """Return the only grade from 1 to 10 in double brackets, or None."""
    return _bracketed(reply, 10)


def rating(reply: Generation) -> float | None:
    """Return the only rating from 1 to 5 in double brackets, or None."""
    return _bracketed(reply, 5)


def _bracketed(reply: Generation, highest: int) -> float | None:
    numbers = {float(number) for number in _NUMBER.findall(reply.text)}
    return next((number for number in numbers if 1 <= number <= highest), None) if len(numbers) == 1 else None


def judge(
    asker: JournaledEngine,
    questions: Sequence[Question],
    sampling: Sampling,
    *,
    max_tokens: int,
    seed: int,
    tries: int,
    max_unreadable: int,
) -> list[Verdict]:
    """Return a verdict on each question, in order.

    The first try uses `sampling`, later ones a higher temperature and `max_tokens`. Raises StageError when more than
    `max_unreadable` verdicts, and more than half of those so far, stay unreadable.
    """
    given: list[Verdict] = []
    again = sampling.model_copy(update={"temperature": AGAIN, "max_tokens": max_tokens})
    size = FIRST_CHUNK
    while (start := len(given)) < len(questions):
        verdicts: dict[int, Verdict] = {}
        asked = list(range(start, min(start + size, len(questions))))
        for number in range(1, tries + 1):
            chats = [questions[i].chat for i in asked]
            seeds = [stable_seed(f"{seed}-{questions[i].id}-{number}") for i in asked]
            before = start + len(verdicts) - len(asked) if verdicts else start
            answers = asker.generate(
                chats, sampling if number == 1 else again, 1, seeds, before=before, total=len(questions)
            )
            for i, answer in zip(asked, answers, strict=True):
                (reply,) = answer.generations
                verdicts[i] = Verdict(questions[i].read(reply), reply, number, answer.cut)
            asked = [i for i in asked if verdicts[i].value is None and verdicts[i].reply.finish_reason not in FINAL]
            if not asked:
                break
        given += [verdicts[i] for i in sorted(verdicts)]
        _check_sense(given, max_unreadable)
        size = min(2 * size, CHUNK)
    return given


def _check_sense(verdicts: Sequence[Verdict], max_unreadable: int) -> None:
    unreadable = [verdict for verdict in verdicts if verdict.value is None]
    if len(unreadable) > max_unreadable and 2 * len(unreadable) > len(verdicts):
        said = " ".join(unreadable[-1].reply.text.split())[:200]
        raise StageError(
            f"the judge does not judge: {len(unreadable)} of its first {len(verdicts)} verdicts cannot be read, for "
            f"example {said!r}; use one that follows instructions, or raise judge.max_unreadable ({max_unreadable})"
        )


def summary(verdicts: Sequence[Verdict]) -> dict[str, int]:
    """Return the counts for a task's summary."""
    return {
        "unreadable": sum(verdict.value is None for verdict in verdicts),
        "asked_again": sum(verdict.tries > 1 for verdict in verdicts),
        "prompts_cut": sum(verdict.cut for verdict in verdicts),
    }
