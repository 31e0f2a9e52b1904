"""The figures of a report, as SVG and PNG. The only place that knows matplotlib.

In: a `Report`, or the scores of points.  Out: pictures, byte-identical for the same input.  What has no data has no
picture.
"""

import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from io import BytesIO

import matplotlib.style

from montessori.reporting.data import Report
from montessori.reporting.figures import families, influence, lengths, results, scores, stages, training
from montessori.reporting.figures.canvas import RC, Drawing

DRAWERS = (
    results.results,
    influence.distribution,
    influence.positive_share,
    families.mix,
    lengths.token_lengths,
    training.curves,
    stages.time_by_stage,
    stages.lineage,
)


@dataclass(frozen=True)
class Picture:
    """A drawn figure."""

    name: str
    title: str
    alt: str  # what it shows, for those who do not see it
    caption: str
    svg: str
    png: bytes


def draw(report: Report) -> list[Picture]:
    """Every figure that the report has data for."""
    return render(partial(drawer, report) for drawer in DRAWERS)


def render(drawers: Iterable[Callable[[], Drawing | None]]) -> list[Picture]:
    """The figures that `drawers` make in the report's style; what has no data has no picture."""
    with _style():
        return [_render(drawing) for drawer in drawers if (drawing := drawer())]


def draw_scores(influences: Sequence[float], momentum_influence: float) -> Picture:
    """The distribution of the influences of points of one's own, nats; `influences` holds at least one."""
    with _style():
        return _render(scores.distribution(list(influences), momentum_influence))


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
