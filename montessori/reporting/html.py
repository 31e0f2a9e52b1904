"""Pieces of the page. Everything that comes from outside is escaped here.

Model text may hold anything: it is shown as text, long texts folded, and never reaches a tag raw.
"""

import html
import re
from collections.abc import Iterable

from montessori.reporting.figures import Picture
from montessori.reporting.figures.canvas import ACCENT, GRID, INK, MUTED, PAPER, SERIES, SHADE, WIDTH
from montessori.reporting.tables import Table

FOLD_FROM = 240  # characters
POINTS = 72  # of an inch, the unit of an SVG
NARROW = 0.9  # of the usual width
LEAST_REM = 38  # the least width of a figure of the usual width
LONGEST = 6000  # of one text; a page of whole books opens slowly

VARIABLES = {INK: "ink", MUTED: "muted", GRID: "grid", PAPER: "paper", SHADE: "shade", ACCENT: "series-0"} | {
    ink: f"series-{i}" for i, ink in enumerate(SERIES)
}


def escape(text: str) -> str:
    """`text` as it is to be read."""
    return html.escape(text, quote=True)


def model_text(text: str) -> str:
    """A model's text as a block; a long one folded behind its beginning."""
    if len(text) > LONGEST:
        text = f"{text[:LONGEST]}… ({len(text) - LONGEST:,} more characters)"
    if len(text) <= FOLD_FROM:
        return f'<div class="text" dir="auto">{escape(text)}</div>'
    return (
        f'<details class="text" dir="auto"><summary>{escape(text[:FOLD_FROM].rstrip())}…</summary>'
        f"<div>{escape(text)}</div></details>"
    )


def table(content: Table) -> str:
    """`content` with its caption; best values strong."""
    head = "".join(f'<th scope="col">{escape(title)}</th>' for title in content.header)
    body = []
    for name, *values in content.rows:
        cells = (
            f"<td><strong>{escape(v.text)}</strong></td>" if v.best else f"<td>{escape(v.text)}</td>" for v in values
        )
        body.append(f'<tr><th scope="row">{escape(name.text)}</th>{"".join(cells)}</tr>')
    return raw_table(head, body, content.caption)


def raw_table(head: str, body: Iterable[str], caption: str = "", kind: str = "numbers") -> str:
    """A table from escaped header cells and rows."""
    foot = f"<caption>{escape(caption)}</caption>" if caption else ""
    return (
        f'<div class="scroll"><table class="{kind}">{foot}<thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(body)}</tbody></table></div>"
    )


def figure(picture: Picture) -> str:
    """`picture` drawn into the page, in the page's type and colours."""
    return (
        f'<figure id="{picture.name}"><h3>{escape(picture.title)}</h3>'
        f'<div class="scroll">{_inline(picture)}</div>'
        f"<figcaption>{escape(picture.caption)}</figcaption></figure>"
    )


def section(anchor: str, title: str, parts: Iterable[str]) -> str:
    """A chapter of the page; nothing when it has no parts."""
    body = "\n".join(part for part in parts if part)
    return f'<section id="{anchor}"><h2>{escape(title)}</h2>\n{body}\n</section>' if body else ""


def _inline(picture: Picture) -> str:
    """The SVG as a part of the page: ids of its own, colours as variables that follow the scheme."""
    svg = picture.svg[picture.svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>|<title>.*?</title>|<style.*?</style>|<!--.*?-->", "", svg, flags=re.S)
    box = re.search(r'viewBox="([^"]*)"', svg)
    name, drawn = picture.name, box[1] if box else ""
    share = float(drawn.split()[2]) / (POINTS * WIDTH) if drawn else 1.0
    # One narrower than the others is not blown up to their width.
    narrow = f' style="max-width: {share:.0%}; min-width: {LEAST_REM * share:.0f}rem"' if share < NARROW else ""
    start = f'<svg viewBox="{drawn}" role="img" aria-label="{escape(picture.alt)}"{narrow}>'
    svg = re.sub(r"<svg[^>]*>", lambda _: start, svg, count=1, flags=re.S)  # a name in it may hold a backslash
    svg = re.sub(r'\b(id=")', rf"\g<1>{name}.", svg)
    svg = re.sub(r'(?:xlink:)?href="#', f'href="#{name}.', svg)
    svg = svg.replace("url(#", f"url(#{name}.")
    for ink, variable in VARIABLES.items():
        svg = svg.replace(ink, f"var(--{variable})")
    return svg.strip()
