"""The one table of all reports, and how its numbers are written.

A `Table` holds written values and no markup. For people, `markdown.py`, `latex.py` and the templates of
`html.py` set it. For programs, `to_csv` writes it. A terminal shows the Markdown.
"""

import csv
import io
import math
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from montessori.evaluation.card import Column, Mark, Measure

MISSING = "–"


@dataclass(frozen=True)
class Cell:
    """One written value, such as 2.292* ± 0.022 (n = 4)."""

    value: str
    error: str = ""  # the standard error
    note: str = ""  # in small type behind both
    mark: Mark | None = None

    @property
    def text(self) -> str:
        """Return the value, its error and its note on one line."""
        return self.value + (f" ± {self.error}" if self.error else "") + (f" {self.note}" if self.note else "")


@dataclass(frozen=True)
class Head:
    """A column's title, and in smaller type the unit and the number of items."""

    title: str
    about: Sequence[str] = ()
    words: bool = False  # set to the left, as the first column always is


@dataclass(frozen=True)
class Group:
    """Rows under a title of their own, or under none. The first cell of a row names it."""

    rows: Sequence[Sequence[Cell]]
    title: str = ""
    published: bool = False  # by others, so not measured here


@dataclass(frozen=True)
class Table:
    """Groups of rows under one header."""

    name: str  # for links, labels and files: "results"
    title: str
    header: Sequence[Head]
    groups: Sequence[Group]
    caption: str = ""

    @property
    def rows(self) -> list[Sequence[Cell]]:
        """Return the rows of all groups."""
        return [row for group in self.groups for row in group.rows]

    @property
    def words(self) -> list[bool]:
        """Return for each column whether it holds words rather than numbers."""
        return [position == 0 or head.words for position, head in enumerate(self.header)]


def heads(*titles: str, words: Collection[str] = ()) -> list[Head]:
    """Return the heads of columns without units; `words` names those that hold words."""
    return [Head(title, words=title in words) for title in titles]


def cells(*values: object) -> list[Cell]:
    """Return a row of plain values: numbers with ten digits, so that a scale of 100 leaves no dust behind.

    None, NaN and infinities are empty.
    """
    return [Cell(_plain(value)) for value in values]


def to_csv(table: Table) -> str:
    """Write the titles of the columns and the whole text of each cell as CSV."""
    out = io.StringIO()
    lines = csv.writer(out, lineterminator="\n")
    lines.writerow(head.title for head in table.header)
    lines.writerows([cell.text for cell in row] for row in table.rows)
    return out.getvalue()


def measured(measure: Measure | None, digits: int, *, scale: float = 1.0, mark: Mark | None = None) -> Cell:
    """Write a mean, times `scale`, with its standard error; the mean alone where one item has no error."""
    if measure is None or not math.isfinite(measure.mean):
        return Cell(MISSING, mark=mark)
    error = error_of(measure, scale)
    return Cell(number(scale * measure.mean, digits), "" if error is None else number(error, digits), mark=mark)


def written(measure: Measure | None, digits: int, scale: float = 1.0) -> str:
    """Write `mean ± standard error` as text."""
    return measured(measure, digits, scale=scale).text


def digits_of(
    measures: Iterable[Measure | None], scale: float = 1.0, *, fewest: int = 1, without_errors: int = 2
) -> int:
    """Return how many digits let the smallest standard error show two, at most four."""
    errors = [error_of(measure, scale) for measure in measures if measure]
    positive = [error for error in errors if error]
    return min(max(1 - math.floor(math.log10(min(positive))), fewest), 4) if positive else without_errors


def error_of(measure: Measure, scale: float = 1.0) -> float | None:
    """Return the standard error times `scale`; None where it is not known, as of one item."""
    return scale * measure.standard_error if measure.n > 1 and math.isfinite(measure.standard_error) else None


def number(value: float, digits: int, signed: bool = False) -> str:
    """Write a number with a minus as it is set; a signed one with its plus too."""
    text = f"{value:+.{digits}f}" if signed else f"{value:.{digits}f}"
    if float(text) == 0:
        text = text.lstrip("+-")
    return text.replace("-", "−")


def p_value(p: float) -> str:
    """Write 0.043, or < 0.001."""
    return MISSING if math.isnan(p) else "< 0.001" if p < 0.001 else f"{p:.3f}"


def arrow(column: Column) -> str:
    """Return a column's name with the direction of the better, which never stands on a line alone."""
    return f"{column.name}\u00a0{'↓' if column.lower_is_better else '↑'}"


def span(numbers: Iterable[int]) -> str:
    """Write 1,319, or 800–805 where the numbers differ; nothing for none."""
    ordered = sorted(set(numbers))
    return "–".join(f"{n:,}" for n in dict.fromkeys((ordered[0], ordered[-1]))) if ordered else ""


def _plain(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return str(float(f"{value:.10g}")) if math.isfinite(value) else ""
    return str(value)
