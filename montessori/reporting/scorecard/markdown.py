"""Tables as Markdown, as GitHub and the hub read it.

Whatever a name or a text holds is shown as it is: nothing of it is taken for markup.
"""

import html
import re
from collections.abc import Iterable

from montessori.reporting.scorecard.layout import Cell, Head, Table
from montessori.reporting.text import label

MARKS = {"best": "**{}**", "second": "<ins>{}</ins>", None: "{}"}


def document(title: str, warnings: Iterable[str], notes: Iterable[str], tables: Iterable[Table]) -> str:
    """A heading, the warnings as quotes, then the tables, each with its caption, and the notes."""
    parts = [f"# {plain(title)}", *(f"> {plain(warning)}" for warning in warnings)]
    for table in tables:
        parts += [f"## {plain(table.title)}", rows_of(table), plain(table.caption)]
    return "\n\n".join(part for part in (*parts, *map(plain, notes)) if part) + "\n"


def rows_of(table: Table) -> str:
    """The table alone."""
    align = ["---" if i in table.texts else "---:" for i in range(len(table.header))]
    lines = [_row(map(_head, table.header)), _row(align)]
    for group in table.groups:
        if group.title:
            lines.append(_row([f"*{plain(group.title)}*", *[""] * (len(table.header) - 1)]))
        lines += [_row(map(_cell, row)) for row in group.rows]
    return "\n".join(lines)


def plain(text: str) -> str:
    """`text` on one line, with nothing that Markdown or HTML would take for markup."""
    escaped = html.escape(label(text, max(1, len(text))), quote=False)
    return re.sub(r"([\\`*_\[\]|~$#])", r"\\\1", escaped)


def _row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _head(head: Head) -> str:
    return plain(head.title) + (f" ({', '.join(map(plain, head.about))})" if head.about else "")


def _cell(cell: Cell) -> str:
    return MARKS[cell.mark].format(plain(cell.text))
