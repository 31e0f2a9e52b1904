"""Markdown in a terminal, whose tables keep every word: of one that is too wide the parts, each with its first column.

`FittedMarkdown(text)` in place of rich's `Markdown(text)`, which cuts the words of such a table.
"""

from collections.abc import Iterator, Sequence
from typing import ClassVar

from rich import box
from rich.console import Console, ConsoleOptions, RenderResult
from rich.markdown import Markdown, MarkdownElement, TableElement
from rich.table import Table
from rich.text import Text

NAMES = 24  # characters that a first column gets at least, if it wants them; beyond a third of the width it wraps
Column = list[Text]  # its head, then its cells


class _Parts(TableElement):
    """A table in as many parts as it takes."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        assert self.header and self.header.row, "Markdown has no table without a head"
        rows = [self.header.row, *(self.body.rows if self.body else [])]
        cells = [[cell.content for cell in row.cells] for row in rows]
        first, *others = (list(column) for column in zip(*cells, strict=True))
        yield from _parts(first, others, console, options)


class FittedMarkdown(Markdown):
    """Markdown with such tables."""

    elements: ClassVar[dict[str, type[MarkdownElement]]] = {**Markdown.elements, "table_open": _Parts}


def fits(table: Table, console: Console, options: ConsoleOptions) -> bool:
    """Whether the table has room as it is, with nothing wrapped."""
    return console.measure(table, options=options.update(width=10_000)).maximum <= options.max_width


def _parts(first: Column, others: Sequence[Column], console: Console, options: ConsoleOptions) -> Iterator[Table]:
    whole = _table(first, others, None)
    if fits(whole, console, options):
        yield whole
        return
    names = min(_width(first), max(NAMES, options.max_width // 3))
    shown: list[Column] = []
    for column in others:
        if shown and not fits(_table(first, [*shown, column], names), console, options):
            yield _table(first, shown, names)
            shown = []
        shown.append(column)
    yield _table(first, shown, names)


def _table(first: Column, others: Sequence[Column], names: int | None) -> Table:
    """A table whose first column is `names` wide, its heads wrapping to their cells; None: nothing wraps."""
    table = Table(box=box.SIMPLE, pad_edge=False, collapse_padding=True, style="markdown.table.border")
    for column in (first, *others):
        head = column[0].copy()
        head.stylize("markdown.table.header")
        width = None if names is None else names if column is first else _width(column)
        table.add_column(head, width=width, overflow="fold")
    for row in zip(*(column[1:] for column in (first, *others)), strict=True):
        table.add_row(*row)
    return table


def _width(column: Column) -> int:
    """That of the longest cell and of the longest word of the head, which may wrap."""
    head, *cells = column
    words = (len(word) for word in head.plain.split())
    return max([*words, *(cell.cell_len for cell in cells)], default=0)
