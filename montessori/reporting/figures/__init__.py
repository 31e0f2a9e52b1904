"""Figures as SVG and PNG, byte-identical for the same drawing. The only place that knows matplotlib."""

import html
import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO

import matplotlib.style

from montessori.reporting.figures import charts
from montessori.reporting.figures.canvas import ACCENT, GRID, INK, MUTED, PAPER, RC, SERIES, SHADE, WIDTH, Drawing

POINTS = 72  # of an inch, the unit of an SVG
NARROW = 0.9  # of the usual width
LEAST_REM = 38  # the least width of a figure of the usual width

VARIABLES = {INK: "ink", MUTED: "muted", GRID: "grid", PAPER: "paper", SHADE: "shade", ACCENT: "series-0"} | {
    ink: f"series-{i}" for i, ink in enumerate(SERIES)
}


@dataclass(frozen=True)
class Picture:
    """A drawn figure."""

    name: str
    title: str
    alt: str  # the figure in words, for those who do not see it
    caption: str
    svg: str
    png: bytes

    def inline(self) -> str:
        """Return the SVG as a part of a page: ids of its own, colours as variables that follow the scheme."""
        svg = self.svg[self.svg.index("<svg") :]
        svg = re.sub(r"<metadata>.*?</metadata>|<title>.*?</title>|<style.*?</style>|<!--.*?-->", "", svg, flags=re.S)
        box = re.search(r'viewBox="([^"]*)"', svg)
        name, drawn = self.name, box[1] if box else ""
        share = float(drawn.split()[2]) / (POINTS * WIDTH) if drawn else 1.0
        # One narrower than the others is not blown up to their width.
        narrow = f' style="max-width: {share:.0%}; min-width: {LEAST_REM * share:.0f}rem"' if share < NARROW else ""
        start = f'<svg viewBox="{drawn}" role="img" aria-label="{html.escape(self.alt)}"{narrow}>'
        svg = re.sub(r"<svg[^>]*>", lambda _: start, svg, count=1, flags=re.S)  # a name in it may hold a backslash
        svg = re.sub(r'\b(id=")', rf"\g<1>{name}.", svg)
        svg = re.sub(r'(?:xlink:)?href="#', f'href="#{name}.', svg)
        svg = svg.replace("url(#", f"url(#{name}.")
        for ink, variable in VARIABLES.items():
            svg = svg.replace(ink, f"var(--{variable})")
        return svg.strip()


def render(drawers: Iterable[Callable[[], Drawing | None]]) -> list[Picture]:
    """Return the figures that `drawers` make in the reports' style, without those that have no data."""
    with _style():
        return [_render(drawing) for drawer in drawers if (drawing := drawer())]


def draw_scores(influences: Sequence[float], momentum_influence: float) -> Picture:
    """Draw the distribution of the influences of points of one's own, nats; `influences` holds at least one."""
    (picture,) = render([lambda: charts.scores(list(influences), momentum_influence)])
    return picture


@contextmanager
def _style() -> Iterator[None]:
    with matplotlib.style.context(["default", RC]), warnings.catch_warnings():
        # A family named in a script that the font lacks is drawn as boxes in the PNG; the SVG keeps its text.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        yield


def _render(drawing: Drawing) -> Picture:
    svg, png = BytesIO(), BytesIO()
    drawing.figure.savefig(svg, format="svg", metadata={"Date": None, "Title": drawing.title})
    drawing.figure.set_layout_engine("none")  # laid out once, the same in both
    drawing.figure.savefig(png, format="png", dpi=200, metadata={"Software": None, "Title": drawing.title})
    return Picture(drawing.name, drawing.title, drawing.alt, drawing.caption, svg.getvalue().decode(), png.getvalue())
