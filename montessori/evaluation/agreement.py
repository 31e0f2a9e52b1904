"""Does the judge agree with people? Measured on pairs of answers that three people compared.

In: a file in PandaLM's form (arXiv 2306.05087), and the judge's verdicts on its pairs in both orders.
Out: a `card.JudgeAbility`. A verdict is right where it is the majority's: the first answer, the second, or a tie.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from montessori.data.rows import Row
from montessori.errors import InputError, StageError
from montessori.evaluation.card import JudgeAbility, Measure
from montessori.evaluation.duels import Outcome, outcomes
from montessori.evaluation.local import table_rows
from montessori.evaluation.metrics import measure

PEOPLE = ("annotator1", "annotator2", "annotator3")
COLUMNS = ("instruction", "input", "response1", "response2", *PEOPLE)
SAID: dict[str, Outcome] = {"0": "tie", "1": "left", "2": "right"}


@dataclass(frozen=True)
class Pair:
    """Two answers to one instruction, and what three people said of them."""

    id: str
    question: str  # the instruction, and its input where it has one
    left: str
    right: str
    people: tuple[Outcome, ...]

    @property
    def majority(self) -> Outcome | None:
        """What at least two of them said."""
        return _majority(self.people)


def people(file: str | Path) -> list[Pair]:
    """The pairs of a JSONL, JSON, CSV or Parquet file, gzip or not. Raises InputError that names what is wrong."""
    rows = list(table_rows(Path(file).expanduser(), "people"))
    if not rows:
        raise InputError(f"people.source = {file}: no rows")
    return [_pair(where, str(index), row) for index, (where, row) in enumerate(rows)]


def as_answers(pairs: Sequence[Pair]) -> tuple[list[Row], list[Row]]:
    """The first and the second answers as rows of `answers.parquet`, for a `verdicts` stage to compare."""
    left = [_answer(index, pair, pair.left) for index, pair in enumerate(pairs)]
    right = [_answer(index, pair, pair.right) for index, pair in enumerate(pairs)]
    return left, right


def ability(judge: str, pairs: Iterable[Pair], verdicts: Iterable[Row]) -> JudgeAbility:
    """How often `judge` is with the majority, on the pairs that it judged readably and that have a majority.

    Beside it, on the same pairs, how often one person is with the other two, where those agree: the mean of the three.
    Raises StageError when no pair is left.
    """
    judged = outcomes(verdicts)
    said = [(judged[pair.id], pair) for pair in pairs if pair.id in judged]
    counted = [(verdict, pair) for verdict, pair in said if verdict != "unreadable" and pair.majority]
    if not counted:
        raise StageError(f"people: none of the judge's {len(said)} verdicts on pairs with a majority could be read")
    share = measure([float(verdict == pair.majority) for verdict, pair in counted])
    return JudgeAbility(
        judge=judge,
        accuracy=Measure(share["mean"], share["standard_error"], len(counted)),
        agreement_of_people=_agreement([pair for _, pair in counted]),
        ties=sum(verdict == "tie" for verdict, _ in counted),
        unreadable=sum(verdict == "unreadable" for verdict, _ in said),
    )


def _majority(said: Sequence[Outcome]) -> Outcome | None:
    verdict, times = Counter(said).most_common(1)[0]
    return verdict if times > 1 else None


def _agreement(pairs: Sequence[Pair]) -> float | None:
    shares = []
    for who in range(len(PEOPLE)):
        others = [(pair.people[who], _majority(pair.people[:who] + pair.people[who + 1 :])) for pair in pairs]
        with_them = [float(own == majority) for own, majority in others if majority]
        if with_them:
            shares.append(sum(with_them) / len(with_them))
    return sum(shares) / len(shares) if shares else None


def _answer(index: int, pair: Pair, text: str) -> Row:
    return {
        "id": pair.id,
        "index": index,
        "category": None,
        "turns": [pair.question],
        "answers": [text],
        "tokens": [0],  # the file does not say whose tokens they were
        "finish_reasons": ["stop"],
    }


def _pair(where: str, id: str, row: object) -> Pair:
    if not isinstance(row, dict):
        raise InputError(f"{where}: expected an object with the fields {', '.join(COLUMNS)}")
    if missing := [name for name in COLUMNS if name not in row]:
        raise InputError(f"{where}: lacks {', '.join(missing)}; expected the fields {', '.join(COLUMNS)}")
    for name in PEOPLE:
        if _number(row[name]) not in SAID:
            raise InputError(f"{where}: {name} is {row[name]!r}; expected 0 for a tie, 1 or 2 for the better response")
    instruction, extra, left, right = (_text(f"{where}: {name}", row[name]) for name in COLUMNS[:4])
    # joined as everywhere that an instruction has an input
    question = f"{instruction.strip()} {extra.strip()}".strip()
    return Pair(id, question, left, right, tuple(SAID[_number(row[name])] for name in PEOPLE))


def _number(value: object) -> str:
    return str(value).removesuffix(".0")


def _text(where: str, value: object) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, bool | int | float):  # an answer of "True" that some JSON writer took for the value
        return str(value)
    raise InputError(f"{where} is {value!r}; expected text")
