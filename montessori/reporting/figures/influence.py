"""The influence of the teacher's data: its distribution by iteration, and how much of it is positive."""

import numpy as np
from matplotlib.axes import Axes

from montessori.reporting.data import Iteration, Report, finite, positive_means
from montessori.reporting.figures.canvas import (
    ACCENT,
    GRID,
    INK,
    MUTED,
    PAPER,
    Drawing,
    colour,
    panels,
    power_of_ten,
    rows_of,
    scaled_unit,
)
from montessori.reporting.text import count, percent, scientific


def distribution(report: Report) -> Drawing | None:
    """Histograms on one scale, a panel an iteration: before the teacher's update in grey, after it in colour."""
    scored = [(i, finite(i.influences), finite(i.influences_after)) for i in report.iterations]
    scored = [(iteration, before, after) for iteration, before, after in scored if before]
    if not scored:
        return None
    everything = [value for _, before, after in scored for value in before + after]
    marks = finite([i.momentum_influence for i, _, _ in scored if i.momentum_influence is not None])
    edges, exponent = bins(everything, marks, max(len(values) for _, values, _ in scored))
    unit = 10.0**exponent
    figure, grid = panels(len(scored), 1, 0.75 + 1.35 * len(scored), sharex=True, sharey=True)
    tallest = max(shares(values, edges).max() for _, *both in scored for values in both if values)
    texts, hidden = [], 0
    for position, (iteration, before, after) in enumerate(scored):
        ax = grid[position][0]
        ink = colour(position)
        for values, shade in ((before, MUTED), (after, ink)):
            if values:
                hidden += histogram(ax, values, edges, unit, shade)
        mark(ax, iteration.momentum_influence, unit)
        title = f"Iteration {iteration.number}"
        ax.set_title(title, color=ink)
        about = f"median {scientific(float(np.median(before)))}"
        if after:
            about += f" → {scientific(float(np.median(after)))}"
        about += f", {_positive(iteration)} positive"
        ax.set_title(about, loc="right", fontsize=8.5, fontweight="normal", color=MUTED)
        ax.set_ylabel("Points (%)")
        ax.set_ylim(0, 125 * tallest)  # room for the marker's name above the bars
        texts.append(f"{title}: {count(len(before), 'point')}, {about}")
    grid[-1][0].set_xlabel(f"Influence on the reference loss ({scaled_unit(exponent, 'nats/token')} saved by one step)")
    notes = [
        "Grey: what the teacher wrote before its update; in colour: after it, scored with the same student.",
        "Solid line: zero. Dashed: I(∅), the part of the step that comes from momentum alone.",
    ]
    if hidden:
        notes.append(f"{count(hidden, 'point')} outside the axis not drawn.")
    if excluded := sum(_excluded(iteration) for iteration in report.iterations):
        notes.append(f"{count(excluded, 'point')} without a finite influence excluded, before and after together.")
    return Drawing(
        "influence",
        "Influence before and after",
        "Histograms. " + "; ".join(texts) + ".",
        " ".join(notes),
        figure,
    )


def positive_share(report: Report) -> Drawing | None:
    """Share of points with positive influence, before and after each update of the teacher."""
    shown = [i for i in report.iterations if np.isfinite(i.positive_share)]
    if not shown:
        return None
    figure, ((ax,),) = panels(1, 1, 0.95 + 0.36 * len(shown))
    rows_of(ax, [f"Iteration {i.number}" for i in shown])
    # Outside 5 to 95% there are hardly any pairs of a positive and a negative output to learn from.
    for edge in (0, 95):
        ax.axvspan(edge, edge + 5, color=GRID, alpha=0.7, linewidth=0)
    texts = []
    for row, iteration in enumerate(shown):
        before, after = 100 * iteration.positive_share, iteration.positive_share_after
        text = f"{before:.0f}%"
        if after is not None and np.isfinite(after):
            ax.plot([before, 100 * after], [row, row], color=ACCENT, linewidth=1.5, alpha=0.5)
            ax.plot(100 * after, row, "o", color=ACCENT, markersize=6.5)
            text += f" → {percent(after)}"
        ax.plot(before, row, "o", markeredgecolor=ACCENT, markerfacecolor=PAPER, markersize=6.5)
        ax.text(1.01, row, text, transform=ax.get_yaxis_transform(), va="center", fontsize=8.5)
        texts.append(f"iteration {iteration.number}: {text}")
    ax.set_xlim(0, 100)
    ax.set_xlabel("Points with positive influence (%)")
    return Drawing(
        "positive-share",
        "Share of positive influence",
        "Share of points with positive influence, " + "; ".join(texts) + ".",
        f"Positive: {positive_means(report.iterations)}. "
        "Hollow: what the teacher wrote before its update. Filled: after it, scored with the same student. "
        "Shaded: under 5% or over 95%, where hardly any preference pairs can be made.",
        figure,
    )


def _positive(iteration: Iteration) -> str:
    after = iteration.positive_share_after
    return percent(iteration.positive_share) + ("" if after is None else f" → {percent(after)}")


def bins(values: list[float], marks: list[float], most: int) -> tuple["np.ndarray", int]:
    """Edges of bins for `most` values that hold zero and the `marks`, and the power of ten to write them in."""
    inner = np.quantile(values, [0.005, 0.995])
    reach = 0.5 * float(inner[1] - inner[0])  # outliers further away than this would hide the rest
    low, high = max(min(values), float(inner[0]) - reach), min(max(values), float(inner[1]) + reach)
    low, high = min(low, 0.0, *marks), max(high, 0.0, *marks)
    margin = 0.03 * (high - low) or 1e-12
    low, high = low - margin, high + margin
    return np.linspace(low, high, min(max(round(most**0.5), 12), 48) + 1), power_of_ten([low, high])


def shares(values: list[float], edges: "np.ndarray") -> "np.ndarray":
    """The share of `values` in each bin."""
    counts, _ = np.histogram(values, edges)
    return counts / len(values)


def histogram(ax: Axes, values: list[float], edges: "np.ndarray", unit: float, shade: str) -> int:
    """Draw the percentage of `values` in each bin; how many lie outside."""
    inside = shares(values, edges)
    ax.stairs(100 * inside, edges / unit, color=shade, fill=True, alpha=0.3)
    ax.stairs(100 * inside, edges / unit, color=shade, linewidth=1.2)
    ax.set_xlim(edges[0] / unit, edges[-1] / unit)
    return len(values) - round(float(inside.sum()) * len(values))


def mark(ax: Axes, momentum: float | None, unit: float) -> None:
    """A line at zero, a dashed one at I(∅)."""
    ax.axvline(0, color=INK, linewidth=1)
    if momentum is not None and np.isfinite(momentum):
        ax.axvline(momentum / unit, color=INK, linewidth=1.2, linestyle=(0, (3, 2)))
        away = 1 if momentum > 0 else -1  # from the line at zero
        ax.annotate(
            "I(∅)", (momentum / unit, 1), xycoords=ax.get_xaxis_transform(), xytext=(4 * away, -2),
            textcoords="offset points", va="top", ha="left" if away > 0 else "right", fontsize=8.5,
        )  # fmt: skip


def _excluded(iteration: Iteration) -> int:
    values = iteration.influences + iteration.influences_after
    return len(values) - len(finite(values))
