"""Measure how often the judge agrees with people, on pairs of answers that three people compared.

The pairs come from a file in PandaLM's form (arXiv 2306.05087). The judge compares them in both orders. Its verdict is
right where it is the people's majority: the first answer, the second, or a tie.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from montessori.data.rows import Row, file_rows
from montessori.errors import InputError, StageError
from montessori.evaluation.card import JudgeAbility, Measure
from montessori.evaluation.metrics import measure
from montessori.evaluation.verdicts import Outcome, outcomes

PEOPLE = ("annotator1", "annotator2", "annotator3")
COLUMNS = ("instruction", "input", "response1", "response2", *PEOPLE)
SAID: dict[str, Outcome] = {"0": "tie", "1": "left", "2": "right"}


@dataclass(frozen=True)
class Pair:
    """Two answers to one instruction, with the verdicts of three people."""

    id: str
    question: str  # the instruction, with its input if it has one
    left: str
    right: str
    people: tuple[Outcome, ...]

    @property
    def majority(self) -> Outcome | None:
        """Return the verdict of at least two people, or None."""
        return _majority(self.people)


def read_pairs(file: str | Path) -> list[Pair]:
    """Return the pairs of a file (see `montessori.data.files`). Raises InputError for a wrong row."""
    rows = list(file_rows(Path(file).expanduser(), "people"))
    if not rows:
        raise InputError(f"people.source = {file}: no rows")
    return [_pair(where, str(index), row) for index, (where, row) in enumerate(rows)]


def answer_rows(pairs: Sequence[Pair]) -> tuple[list[Row], list[Row]]:
    """Return the first and the second answers as rows of `answers.parquet`, for a `verdicts` task to compare."""
    left = [_answer(index, pair, pair.left) for index, pair in enumerate(pairs)]
    right = [_answer(index, pair, pair.right) for index, pair in enumerate(pairs)]
    return left, right


def measure_judge(judge: str, pairs: Iterable[Pair], verdicts: Iterable[Row]) -> JudgeAbility:
    """Return how often `judge` agrees with the majority, over the pairs with a readable verdict and a majority.

    The agreement of people, on the same pairs, is how often one person agrees with the other two where those agree. It
    is the mean over the three. Raises StageError when no pair is left.
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
        "tokens": [0],  # unknown: the file does not name the tokenizer
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
    # joined as wherever an instruction has an input
    question = f"{instruction.strip()} {extra.strip()}".strip()
    return Pair(id, question, left, right, tuple(SAID[_number(row[name])] for name in PEOPLE))


def _number(value: object) -> str:
    return str(value).removesuffix(".0")


def _text(where: str, value: object) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, bool | int | float):  # a JSON writer may turn the answer "True" into the value
        return str(value)
    raise InputError(f"{where} is {value!r}; expected text")
