"""The systems of a run side by side: their results, and the lengths of their training points."""

import numpy as np

from montessori.reporting.figures.canvas import ACCENT, MUTED, Drawing, panels, rows_of, title, unit_of
from montessori.reporting.figures.charts import dots
from montessori.reporting.run.data import Report
from montessori.reporting.run.tables import decimals, findings, measures, metrics
from montessori.reporting.tables import written
from montessori.reporting.text import label

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


def results(report: Report) -> Drawing | None:
    """Draw every system on every metric that the run measured."""
    shown = metrics(report)
    if not shown:
        return None
    names = [label(system.name) for system in report.systems]
    figure, ((*axes,),) = panels(1, len(shown), 0.95 + 0.34 * len(names))
    for position, (ax, metric) in enumerate(zip(axes, shown, strict=True)):
        rows_of(ax, names, show=position == 0)
        pairs = zip(report.systems, measures(report, metric), strict=True)
        digits = decimals(report, metric)
        dots(ax, [(m, written(m, digits, metric.scale), system.baseline) for system, m in pairs], metric.scale)
        ax.set_title(title(metric))
        ax.set_xlabel(unit_of(metric))
    return Drawing(
        "results",
        "Results by system",
        f"Dot plot of {len(names)} systems: {', '.join(names)}. {' '.join(findings(report))}",
        "Bars: one standard error. Arrows point to the better side: ↓ lower, ↑ higher.",
        figure,
    )


def token_lengths(report: Report) -> Drawing | None:
    """Draw quartile boxes of instructions and responses, a row a system."""
    systems = [s for s in report.systems if s.instruction_tokens or s.response_tokens]
    if not systems:
        return None
    names = [label(system.name) for system in systems]
    figure, ((*axes,),) = panels(1, 2, 0.95 + 0.36 * len(names))
    texts = []
    for position, (ax, kind) in enumerate(zip(axes, ("instruction", "response"), strict=True)):
        rows_of(ax, names, show=position == 0)
        for row, system in enumerate(systems):
            lengths = system.instruction_tokens if kind == "instruction" else system.response_tokens
            if not lengths:
                continue
            q05, q25, q50, q75, q95 = (float(q) for q in np.quantile(lengths, QUANTILES))
            ink = MUTED if system.baseline else ACCENT
            ax.plot([q05, q95], [row, row], color=ink, linewidth=1)
            ax.barh(row, q75 - q25, left=q25, height=0.5, color=ink, alpha=0.35)
            ax.plot([q50, q50], [row - 0.25, row + 0.25], color=ink, linewidth=2.2)
            text = f"median {q50:.0f}"
            ax.text(1.02, row, text, transform=ax.get_yaxis_transform(), va="center", color=ink, fontsize=8)
            texts.append(f"{label(system.name)}, {kind}s: median {q50:.0f}")
        ax.set_xlim(left=0)
        ax.set_title(f"{kind.capitalize()}s")
        ax.set_xlabel(f"Length of {'an' if kind == 'instruction' else 'a'} {kind} (tokens)")
    return Drawing(
        "token-lengths",
        "Token lengths",
        "Lengths of training points in tokens. " + "; ".join(texts) + ".",
        "Line: 5th to 95th percentile. Box: middle half. Thick mark and number: median.",
        figure,
    )
