"""What the tables of an evaluation are made of, and how its numbers are written.

A `Table` is written values and no markup: `markdown.py`, `latex.py` and `page.py` set it.
"""

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from montessori.evaluation import published
from montessori.evaluation.bootstrap import EVEN, Mark
from montessori.evaluation.card import Card, Column, Measure

MISSING = "–"


@dataclass(frozen=True)
class Cell:
    """One written value."""

    text: str
    mark: Mark | None = None


@dataclass(frozen=True)
class Head:
    """A column's title, and in smaller type what its numbers are: the unit, and how many items."""

    title: str
    about: Sequence[str] = ()


@dataclass(frozen=True)
class Group:
    """Rows under a title of their own, or under none. The first cell of a row names it."""

    rows: Sequence[Sequence[Cell]]
    title: str = ""
    published: bool = False  # by others, so not measured here


@dataclass(frozen=True)
class Table:
    """Groups of rows under one header."""

    name: str  # for links and labels: "results"
    title: str
    header: Sequence[Head]
    groups: Sequence[Group]
    caption: str = ""
    texts: frozenset[int] = field(default=frozenset({0}))  # the columns that hold words

    @property
    def rows(self) -> list[Sequence[Cell]]:
        """The rows of all groups."""
        return [row for group in self.groups for row in group.rows]


def ordered(card: Card) -> list[Column]:
    """The columns as the paper orders its own, parts behind the whole, then losses, then what else was measured."""
    return sorted(card.columns, key=_rank)


def value_of(card: Card, model: str, column: Column) -> Measure | None:
    """What `model` has in `column`; None where it was not measured, or came to nothing."""
    score = card.scores.get((model, column.key))
    return score.measure if score and math.isfinite(score.measure.mean) else None


def digits_of(column: Column, measures: Iterable[Measure | None]) -> int:
    """How many digits let the smallest standard error show two, at most four."""
    errors = [error_of(measure, column) for measure in measures if measure]
    positive = [error for error in errors if error]
    return min(max(1 - math.floor(math.log10(min(positive))), 1), 4) if positive else 2


def written(measure: Measure | None, column: Column, digits: int) -> str:
    """`mean ± standard error` in the column's unit, or the mean alone where one item has no error."""
    if measure is None or not math.isfinite(measure.mean):
        return MISSING
    mean = number(column.scale * measure.mean, digits)
    error = error_of(measure, column)
    return mean if error is None else f"{mean} ± {number(error, digits)}"


def error_of(measure: Measure, column: Column) -> float | None:
    """The standard error in the column's unit; None where it is not known, as of one item."""
    known = measure.n > 1 and math.isfinite(measure.standard_error)
    return column.scale * measure.standard_error if known else None


def number(value: float, digits: int, signed: bool = False) -> str:
    """A number with a minus as it is set; a signed one with its plus too."""
    text = f"{value:+.{digits}f}" if signed else f"{value:.{digits}f}"
    if float(text) == 0:
        text = text.lstrip("+-")
    return text.replace("-", "−")


def clean(text: str) -> str:
    """`text` on one line, without what is not seen and yet could turn the text around it right to left."""
    line = re.sub(r"[^\S\u00a0]+", " ", text)
    return "".join(c for c in line if c.isprintable() or c == "\u00a0")


def even(column: Column) -> str:
    """What a baseline has in its own column: an even preference."""
    return f"{column.scale * EVEN:g}"


def arrow(column: Column) -> str:
    """The column's name with the direction of the better, which never stands on a line alone."""
    return f"{column.name}\u00a0{'↓' if column.lower_is_better else '↑'}"


def span(numbers: Iterable[int]) -> str:
    """1,319, or 800–805 where they differ; nothing for none."""
    found = sorted(set(numbers))
    return "–".join(f"{n:,}" for n in dict.fromkeys((found[0], found[-1]))) if found else ""


def _rank(column: Column) -> tuple[int, int, bool]:
    known = published.column_of(column)
    if known:
        return 0, published.COLUMNS.index(known), False
    if column.key == "reference_loss" or column.unit == "bits/byte":
        return 1, int(column.unit == "bits/byte"), False
    # A part of a known one, such as alpaca_eval_others, stands behind it.
    whole = next((place for place, key in enumerate(published.COLUMNS) if column.key.startswith(f"{key}_")), None)
    return (2, 0, False) if whole is None else (0, whole, True)
