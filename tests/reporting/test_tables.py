"""The one table: what each writer makes of it, and how its numbers are written."""

import csv
import io
import math
import re

import pytest

from montessori.evaluation.card import Measure
from montessori.reporting import html, latex, markdown
from montessori.reporting.tables import Cell, Group, Head, Table, cells, digits_of, heads, measured, to_csv, written

NAN = math.nan


@pytest.fixture
def table() -> Table:
    best = measured(Measure(0.5, 0.012, 9), 1, scale=100, mark="best")
    rows = [
        [Cell("a & b"), best, Cell("x ± y")],
        [Cell("±"), Cell("49.0", "1.5", "(n = 8)", "second"), Cell("")],
    ]
    theirs = Group([cells("theirs", 12.5, None)], "Published", published=True)
    header = [Head("Model"), Head("Wins", ["%", "n = 9"]), Head("Why", words=True)]
    return Table("wins", "Wins_1", header, [Group(rows), theirs], "Mean ± error.")


def test_markdown_marks_the_whole_cell_and_aligns_words_to_the_left(table: Table) -> None:
    assert markdown.rows_of(table).splitlines() == [
        "| Model | Wins (%, n = 9) | Why |",
        "| --- | ---: | --- |",
        "| a &amp; b | **50.0 ± 1.2** | x ± y |",
        "| ± | <ins>49.0 ± 1.5 (n = 8)</ins> |  |",
        "| *Published* |  |  |",
        "| theirs | 12.5 |  |",
    ]


def test_latex_sets_errors_small_and_units_on_lines_of_their_own(table: Table) -> None:
    rows = [line for line in latex.document([table]).splitlines() if line.endswith(r"\\")]
    assert rows == [
        r"{}Model & Wins & Why \\",
        r"{} & \% &  \\",
        r"{} & n = 9 &  \\",
        r"{}a \& b & \textbf{50.0}{\tiny\,$\pm$\,1.2} & x $\pm$ y \\",
        r"{}$\pm$ & \underline{49.0}{\tiny\,$\pm$\,1.5 (n = 8)} &  \\",
        r"\multicolumn{3}{@{}l@{}}{\emph{Published}} \\",
        r"{}theirs & 12.5 &  \\",
    ]


def test_the_page_marks_the_value_and_sets_its_error_small(table: Table) -> None:
    tables = {"table1": table}
    text = html.render(
        "study.html",
        name="s",
        study=_Bare(),
        compared="",
        facts={},
        findings=[],
        warnings=[],
        pictures=[],
        tables=tables,
    )
    assert '<th scope="row">a &amp; b</th><td><strong>50.0</strong> <span class="error">± 1.2</span></td>' in text
    assert '<td><u>49.0</u> <span class="error">± 1.5 (n = 8)</span></td><td class="words"></td>' in text
    assert '<td class="words">x ± y</td>' in text
    assert '<tr class="published"><th scope="row">theirs</th><td>12.5</td>' in text
    heads = re.findall(r"<th scope=\"col\"[^>]*>.*?</th>", text)
    assert heads == [
        '<th scope="col">Model</th>',
        '<th scope="col">Wins<span class="about">%</span><span class="about">n = 9</span></th>',
        '<th scope="col" class="words">Why</th>',
    ]


class _Bare:
    """A study with nothing but a table."""

    id = command = settings_yaml = ""
    versions: dict[str, str] = {}  # noqa: RUF012
    highest = lowest = ()


def test_csv_has_plain_numbers_and_nothing_for_what_is_unknown() -> None:
    rows = [cells("a,b", 100 * 0.07, 3, None), cells('"\n', NAN, math.inf, 1e-7)]
    text = to_csv(Table("t", "", heads("name", "x", "n", "y"), [Group(rows[:1]), Group(rows[1:], "left out")]))
    assert list(csv.reader(io.StringIO(text))) == [
        ["name", "x", "n", "y"],
        ["a,b", "7.0", "3", ""],
        ['"\n', "", "", "1e-07"],
    ]


def test_the_smallest_error_shows_two_digits_and_one_item_has_none() -> None:
    wide, narrow = Measure(0.5, 0.02, 9), Measure(0.5, 0.004, 9)
    assert digits_of([wide, None]) == 3 and digits_of([wide, narrow]) == 4 and digits_of([wide], scale=100) == 1
    assert digits_of([Measure(0.5, 25.0, 9)]) == 1 and digits_of([Measure(0.5, 25.0, 9)], fewest=0) == 0
    assert digits_of([Measure(0.5, 0.1, 1)]) == 2 and digits_of([], without_errors=3) == 3
    assert written(wide, 3) == "0.500 ± 0.020" and written(Measure(-0.5, 0.1, 1), 1) == "−0.5"
    assert written(None, 2) == written(Measure(NAN, 0.1, 9), 2) == "–"
