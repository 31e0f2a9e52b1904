"""Results by system: a dot and its standard error, a panel a metric."""

import math

from montessori.reporting.data import Report
from montessori.reporting.figures.canvas import ACCENT, MUTED, Drawing, panels, rows_of
from montessori.reporting.tables import decimals, findings, metrics, written
from montessori.reporting.text import label


def results(report: Report) -> Drawing | None:
    """Every system on every metric that the run measured."""
    shown = metrics(report)
    if not shown:
        return None
    names = [label(system.name) for system in report.systems]
    figure, ((*axes,),) = panels(1, len(shown), 0.95 + 0.34 * len(names))
    for position, (ax, metric) in enumerate(zip(axes, shown, strict=True)):
        rows_of(ax, names, show=position == 0)
        digits = decimals(metric, report.systems)
        for row, system in enumerate(report.systems):
            measure = metric.read(system)
            ink = MUTED if system.baseline else ACCENT
            if measure and math.isfinite(measure.mean):
                error = metric.scale * measure.standard_error if math.isfinite(measure.standard_error) else 0
                ax.errorbar(
                    metric.scale * measure.mean, row, xerr=error, fmt="o", color=ink, markersize=5.5,
                    elinewidth=1.5, capsize=2.5,
                )  # fmt: skip
            ax.text(
                1.03, row, written(measure, metric, digits), transform=ax.get_yaxis_transform(),
                va="center", color=ink, fontsize=8,
            )  # fmt: skip
        ax.margins(x=0.12)
        ax.locator_params(axis="x", nbins=4)
        ax.set_title(f"{metric.name} {'↓' if metric.lower_is_better else '↑'}")
        ax.set_xlabel(label(metric.unit))
    return Drawing(
        "results",
        "Results by system",
        f"Dot plot of {len(names)} systems: {', '.join(names)}. {' '.join(findings(report))}",
        "Bars: one standard error. Arrows point to the better side: ↓ lower, ↑ higher.",
        figure,
    )
