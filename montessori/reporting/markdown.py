"""Tables as Markdown, as GitHub and the hub read it, and as a terminal shows it.

Whatever a name or a text holds is shown as it is: nothing of it is taken for markup.
"""

import html
import re
from collections.abc import Iterable

from montessori.reporting.tables import Cell, Head, Table
from montessori.reporting.text import label

MARKS = {"best": "**{}**", "second": "<ins>{}</ins>", None: "{}"}


def document(
    title: str,
    tables: Iterable[Table],
    *,
    warnings: Iterable[str] = (),
    findings: Iterable[str] = (),
    notes: Iterable[str] = (),
) -> str:
    """Write a heading, warnings as quotes, findings as a list, the titled tables with their captions, and notes."""
    parts = [f"# {plain(title)}", *(f"> {plain(warning)}" for warning in warnings)]
    parts.append("\n".join(f"- {plain(sentence)}" for sentence in findings))
    for table in tables:
        parts += [f"## {plain(table.title)}" if table.title else "", rows_of(table), plain(table.caption)]
    return "\n\n".join(part for part in (*parts, *map(plain, notes)) if part) + "\n"


def rows_of(table: Table) -> str:
    """Write the table alone."""
    lines = [_row(map(_head, table.header)), _row("---" if words else "---:" for words in table.words)]
    for group in table.groups:
        if group.title:
            lines.append(_row([f"*{plain(group.title)}*", *[""] * (len(table.header) - 1)]))
        lines += [_row(map(_cell, row)) for row in group.rows]
    return "\n".join(lines)


def plain(text: str) -> str:
    """Return `text` on one line, with nothing that Markdown or HTML would take for markup."""
    escaped = html.escape(label(text, None), quote=False)
    return re.sub(r"([\\`*_\[\]|~$#])", r"\\\1", escaped)


def _row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _head(head: Head) -> str:
    return plain(head.title) + (f" ({', '.join(map(plain, head.about))})" if head.about else "")


def _cell(cell: Cell) -> str:
    return MARKS[cell.mark].format(plain(cell.text))
