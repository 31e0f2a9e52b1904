"""MT-Bench scores: grades of 1 to 10 for both turns of every question, as one number and by category and turn.

In: rows of `grades.parquet`.  Out: a `card.Score`. The score is the mean over all graded turns, as MT-Bench has it; the
two turns of a question are not independent, so its standard error is over questions.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence

from montessori.data.rows import Row
from montessori.errors import StageError
from montessori.evaluation.card import Measure, Score
from montessori.evaluation.metrics import ratio

TURNS = ("first turn", "second turn")


def score(grades: Sequence[Row]) -> Score:
    """The score, with a question's mean grade as its item, and the categories and turns by themselves. n: questions.

    Grades that could not be read count nowhere. Raises StageError when there is none that could.
    """
    readable = [row for row in grades if row["grade"] is not None]
    if not readable:
        raise StageError(f"MT-Bench: none of {len(grades)} grades could be read")
    categories = dict.fromkeys(row["category"] for row in readable if row["category"] is not None)
    return Score(
        measure=_measure(readable),
        items={id: sum(given) / len(given) for id, given in _by_question(readable).items()},
        groups={name: _measure(row for row in readable if row["category"] == name) for name in categories},
        turns={name: _measure(given) for turn, name in enumerate(TURNS) if (given := _of_turn(readable, turn))},
        unreadable=len(grades) - len(readable),
    )


def _of_turn(readable: Iterable[Row], turn: int) -> list[Row]:
    return [row for row in readable if row["turn"] == turn]


def _measure(readable: Iterable[Row]) -> Measure:
    """The mean grade, its standard error over questions, and how many there are."""
    questions = _by_question(readable).values()
    found = ratio([sum(given) for given in questions], [len(given) for given in questions])
    return Measure(found["mean"], found["standard_error"], len(questions))


def _by_question(readable: Iterable[Row]) -> dict[str, list[float]]:
    grades: dict[str, list[float]] = defaultdict(list)
    for row in readable:
        grades[row["id"]].append(row["grade"])
    return grades
