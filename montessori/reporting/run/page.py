"""The report of a run as one HTML page that needs nothing else, with its figures beside it as PNG and SVG.

In: a `Report`.  Out: `report.html` and `figures/` in a folder; the same bytes for the same report.
"""

from collections.abc import Sequence
from pathlib import Path

from montessori.reporting import html
from montessori.reporting.figures import Picture
from montessori.reporting.run.data import Report, finite
from montessori.reporting.run.figures import draw
from montessori.reporting.run.tables import everything, findings, warnings
from montessori.reporting.text import duration


def write(report: Report, folder: Path) -> Path:
    """Write `report.html` and `figures/*.svg, *.png` into `folder`; return the page's path."""
    pictures = draw(report)
    return html.write(folder, {"report.html": page(report, pictures)}, pictures)


def page(report: Report, pictures: Sequence[Picture]) -> str:
    """Return the whole page."""
    artifacts = {stage.address: stage for stage in report.stages}
    return html.render(
        "run.html",
        name=report.run.name,
        run=report.run,
        facts={
            "systems compared": f"{len(report.systems)}",
            "iterations": f"{len(report.iterations)}",
            "points scored": f"{sum(len(finite(i.influences)) for i in report.iterations):,}",
            "preference pairs": f"{sum(i.pairs for i in report.iterations):,}",
            "computing time": duration(sum(s.seconds for s in artifacts.values())) if artifacts else "",
        },
        findings=findings(report),
        warnings=warnings(report),
        pictures=pictures,
        tables={table.name: table for table in everything(report)},
        highest=report.highest,
        lowest=report.lowest,
        rejected=report.rejected if report.rejections else [],
        artifacts=artifacts,
        numbers={address: number for number, address in enumerate(artifacts, 1)},
    )
