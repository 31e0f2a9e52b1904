"""The figures of a run's report.

In: a `Report`.  Out: pictures, byte-identical for the same report. What has no data has no picture.
"""

from functools import partial

from montessori.reporting.figures import Picture, render
from montessori.reporting.run.data import Report
from montessori.reporting.run.figures import iterations, systems, work

DRAWERS = (
    systems.results,
    iterations.distribution,
    iterations.positive_share,
    iterations.mix,
    systems.token_lengths,
    work.curves,
    work.time_by_stage,
    work.lineage,
)


def draw(report: Report) -> list[Picture]:
    """Draw every figure that the report has data for."""
    return render(partial(drawer, report) for drawer in DRAWERS)
