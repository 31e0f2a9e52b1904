"""Show Markdown in a terminal, with wide tables split into parts that each repeat the first column.

`FittedMarkdown(text)` replaces rich's `Markdown(text)`, which cuts the words of a wide table.
"""

from collections.abc import Iterator, Sequence
from typing import ClassVar

from rich import box
from rich.console import Console, ConsoleOptions, RenderResult
from rich.markdown import Markdown, MarkdownElement, TableElement
from rich.table import Table
from rich.text import Text

NAMES = 24  # least width of a long first column, in characters; it wraps beyond a third of the console
Column = list[Text]  # its head, then its cells


class _Parts(TableElement):
    """A table that splits into parts if it is too wide."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        assert self.header and self.header.row, "Markdown has no table without a head"
        rows = [self.header.row, *(self.body.rows if self.body else [])]
        cells = [[cell.content for cell in row.cells] for row in rows]
        first, *others = (list(column) for column in zip(*cells, strict=True))
        yield from _parts(first, others, console, options)


class FittedMarkdown(Markdown):
    """Markdown with tables that split if they are too wide."""

    elements: ClassVar[dict[str, type[MarkdownElement]]] = {**Markdown.elements, "table_open": _Parts}


def fits(table: Table, console: Console, options: ConsoleOptions) -> bool:
    """Tell whether the table fits without wrapping."""
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
    """Return a table with a first column of width `names` and wrapped heads, or with None a table without wrapping."""
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
    """Return the width of the longest cell or of the longest word of the head."""
    head, *cells = column
    words = (len(word) for word in head.plain.split())
    return max([*words, *(cell.cell_len for cell in cells)], default=0)
