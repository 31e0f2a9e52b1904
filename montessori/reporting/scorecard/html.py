"""A `Table` on the page. Everything that comes from outside is escaped here, or by `reporting.html`."""

from montessori.reporting import html
from montessori.reporting.scorecard.layout import Cell, Head, Table, clean
from montessori.reporting.text import count

LONG = 12  # rows, beyond which a table is folded
WIDE = 7  # columns, beyond which errors stand below their means
WORD = 14  # characters, beyond which a word of such a table's header is broken
MARKS = {"best": "<strong>{}</strong>", "second": "<u>{}</u>", None: "{}"}
MORE = """
.group th { color: var(--muted); font-style: italic; font-weight: 500; padding-top: 1rem; }
.published td, .published th { color: var(--muted); }
.about { display: block; font-weight: 400; white-space: nowrap; }
.error { color: var(--muted); font-size: .85em; font-weight: 400; white-space: nowrap; }
.wide .error { display: block; }
.wide { font-size: .8rem; }
.wide thead th { font-size: .73rem; white-space: nowrap; }
.wide thead th.long { white-space: normal; overflow-wrap: anywhere; min-width: 6rem; }
.wide tbody th { min-width: 8rem; }
.wide td, .wide thead th:not(:first-child) { padding-left: .35rem; }
td.words { text-align: left; white-space: normal; }
.numbers thead th.words { text-align: left; }
"""


def escape(text: str) -> str:
    """A name or sentence on one line, as it is to be read."""
    return html.escape(clean(text))


def table(content: Table, titled: bool = True) -> str:
    """A table, with its title where nothing else says it; best values strong, second ones underlined."""
    kinds = [' class="words"' if i in content.texts and i else "" for i in range(len(content.header))]
    wide = len(content.header) > WIDE
    head = "".join(_head(column, kind, wide) for column, kind in zip(content.header, kinds, strict=True))
    body = []
    for group in content.groups:
        if group.title:
            title = f'<th scope="rowgroup" colspan="{len(content.header)}">{escape(group.title)}</th>'
            body.append(f'<tr class="group">{title}</tr>')
        kind = ' class="published"' if group.published else ""
        for name, *values in group.rows:
            cells = (f"<td{kind}>{_cell(value)}</td>" for value, kind in zip(values, kinds[1:], strict=True))
            body.append(f'<tr{kind}><th scope="row">{escape(name.text)}</th>{"".join(cells)}</tr>')
    shown = html.raw_table(head, body, clean(content.caption), "numbers wide" if wide else "numbers")
    return f"<h3>{escape(content.title)}</h3>{shown}" if titled else shown


def folded(content: Table) -> str:
    """A table, behind its title where it is long."""
    rows = len(content.rows)
    if rows <= LONG:
        return table(content)
    summary = f"{escape(content.title)}: {count(rows, 'row')}"
    return f'<details class="fold"><summary>{summary}</summary>{table(content)}</details>'


def _cell(cell: Cell) -> str:
    mean, sign, error = cell.text.partition(" ± ")
    small = f' <span class="error">± {escape(error)}</span>' if sign else ""
    return MARKS[cell.mark].format(escape(mean)) + small


def _head(head: Head, kind: str, wide: bool) -> str:
    title = escape(head.title).replace(" ", "<br>") if wide else escape(head.title)
    about = "".join(f'<span class="about">{escape(line)}</span>' for line in head.about)
    if wide and not kind and max(map(len, head.title.split()), default=0) > WORD:
        kind = ' class="long"'
    return f'<th scope="col"{kind}>{title}{about}</th>'
