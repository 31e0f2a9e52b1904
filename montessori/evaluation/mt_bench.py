"""Compute MT-Bench scores from grades of 1 to 10 for both turns of each question.

The rows are those of `grades.parquet`. As in MT-Bench the score is the mean over all graded turns. Its standard error
is over questions, since the two turns of a question are not independent.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence

from montessori.data.rows import Row
from montessori.errors import StageError
from montessori.evaluation.card import Measure, Score
from montessori.evaluation.metrics import ratio

TURNS = ("first turn", "second turn")


def score(grades: Sequence[Row]) -> Score:
    """Return the score, with a question's mean grade as its item, and the measures by category and by turn.

    `n` is the number of questions. Unreadable grades are left out. Raises StageError when no grade can be read.
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
    """Return the mean grade, its standard error over questions, and the number of questions."""
    questions = _by_question(readable).values()
    mean = ratio([sum(given) for given in questions], [len(given) for given in questions])
    return Measure(mean["mean"], mean["standard_error"], len(questions))


def _by_question(readable: Iterable[Row]) -> dict[str, list[float]]:
    grades: dict[str, list[float]] = defaultdict(list)
    for row in readable:
        grades[row["id"]].append(row["grade"])
    return grades
