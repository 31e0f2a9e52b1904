"""The charts that several reports draw: dots with errors, bars of verdicts, histograms of influence."""

from collections.abc import Iterable, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from montessori.evaluation.card import Measure
from montessori.reporting.figures.canvas import (
    ACCENT,
    GRID,
    INK,
    MUTED,
    PAPER,
    SERIES,
    Drawing,
    aside,
    panels,
    power_of_ten,
    rows_of,
    scaled_unit,
)
from montessori.reporting.tables import error_of
from montessori.reporting.text import both_ends, count, percent, scientific

NARROW = 0.07  # share of a bar that has room for its number

Dot = tuple[Measure | None, str, bool]  # value, the same written out, whether it is a baseline's
Pair = tuple[str, str, tuple[int, int, int]]  # left, right, wins of the left, ties, losses


def dots(ax: Axes, rows: Iterable[Dot], scale: float = 1.0) -> None:
    """Draw a dot and its standard error a row, the value written beside it, baselines in grey."""
    for row, (measure, text, baseline) in enumerate(rows):
        ink = MUTED if baseline else ACCENT
        if measure and np.isfinite(measure.mean):
            ax.errorbar(
                scale * measure.mean, row, xerr=error_of(measure, scale), fmt="o", color=ink, markersize=5,
                elinewidth=1.5, capsize=2.5,
            )  # fmt: skip
        ax.text(1.03, row, text, transform=ax.get_yaxis_transform(), va="center", color=ink, fontsize=8)
    ax.margins(x=0.12)
    ax.locator_params(axis="x", nbins=4)


def verdicts(pairs: Sequence[Pair], noun: str) -> tuple[Figure, list[str]]:
    """Draw a bar a pair: wins of the `noun` on the left, ties, wins of the other one; return it also in words."""
    figure, ((ax,),) = panels(1, 1, 0.95 + 0.36 * len(pairs))
    rows_of(ax, [both_ends(left) for left, _, _ in pairs])
    texts = [_bar(ax, row, pair) for row, pair in enumerate(pairs)]
    right = ax.secondary_yaxis("right")
    right.set_yticks(range(len(pairs)), [both_ends(right) for _, right, _ in pairs])
    right.tick_params(axis="y", length=0)
    right.spines["right"].set_visible(False)
    ax.set_xlim(0, 100)
    ax.set_xlabel("Instructions (%)")
    inks = {f"the {noun} on the left wins": ACCENT, "tie": GRID, f"the {noun} on the right wins": SERIES[1]}
    figure.legend(
        handles=[Patch(color=ink) for ink in inks.values()], labels=list(inks), loc="outside upper center",
        ncols=len(inks), frameon=False, fontsize=8.5, handlelength=1,
    )  # fmt: skip
    return figure, texts


def _bar(ax: Axes, row: int, pair: Pair) -> str:
    """Draw one bar; return it in words."""
    left, right, (wins, ties, losses) = pair
    start = 0.0
    for number, ink, text in ((wins, ACCENT, PAPER), (ties, GRID, INK), (losses, SERIES[1], PAPER)):
        share = number / (wins + ties + losses)
        ax.barh(row, 100 * share, left=100 * start, height=0.62, color=ink)
        if share >= NARROW:
            ax.text(
                100 * (start + share / 2), row, percent(share), ha="center", va="center", color=text, fontsize=8.5
            )  # fmt: skip
        start += share
    return f"{both_ends(left)} against {both_ends(right)}: {wins} wins, {ties} ties, {losses} losses"


def histograms(
    rows: Sequence[Sequence[tuple[list[float], str]]], *, marks: Sequence[float] = (), line: float
) -> tuple[Figure, list[Axes], float, int]:
    """Draw influences on one scale: a panel of `line` inches a row, the share of points of each series in its ink.

    Return the figure, its axes, the unit of the x axis in nats per token, and how many points lie outside the axis.
    """
    everything = [value for row in rows for values, _ in row for value in values]
    edges, exponent = _bins(everything, marks, max(len(row[0][0]) for row in rows))
    unit, hidden, tallest = 10.0**exponent, 0, 0.0
    figure, grid = panels(len(rows), 1, 0.75 + line * len(rows), sharex=True, sharey=True)
    for (ax,), row in zip(grid, rows, strict=True):
        for values, ink in row:
            if not values:
                continue
            counts, _ = np.histogram(values, edges)
            inside = counts / len(values)
            ax.stairs(100 * inside, edges / unit, color=ink, fill=True, alpha=0.3)
            ax.stairs(100 * inside, edges / unit, color=ink, linewidth=1.2)
            hidden, tallest = hidden + len(values) - int(counts.sum()), max(tallest, float(inside.max()))
        ax.set_ylabel("Points (%)")
    axes = [ax for (ax,) in grid]
    axes[0].set_xlim(edges[0] / unit, edges[-1] / unit)
    axes[0].set_ylim(0, 125 * tallest)  # room for the name of a mark above the bars
    axes[-1].set_xlabel(f"Influence on the reference loss ({scaled_unit(exponent, 'nats/token')} saved by one step)")
    return figure, axes, unit, hidden


def mark(ax: Axes, momentum: float | None, unit: float) -> None:
    """Draw a line at zero, a dashed one at I(∅)."""
    ax.axvline(0, color=INK, linewidth=1)
    if momentum is not None and np.isfinite(momentum):
        ax.axvline(momentum / unit, color=INK, linewidth=1.2, linestyle=(0, (3, 2)))
        away = 1 if momentum > 0 else -1  # from the line at zero
        ax.annotate(
            "I(∅)", (momentum / unit, 1), xycoords=ax.get_xaxis_transform(), xytext=(4 * away, -2),
            textcoords="offset points", va="top", ha="left" if away > 0 else "right", fontsize=8.5,
        )  # fmt: skip


def scores(values: list[float], momentum: float) -> Drawing:
    """Draw the influences of points of one's own, finite, in nats; `momentum` is I(∅), 0 for a step without any."""
    figure, (ax,), unit, hidden = histograms([[(values, ACCENT)]], marks=[momentum] if momentum else [], line=1.95)
    mark(ax, momentum or None, unit)
    limits = {"zero": 0.0} | ({"I(∅)": momentum} if momentum else {})
    above = [f"{percent(float(np.mean(np.array(values) > limit)))} above {name}" for name, limit in limits.items()]
    about = ", ".join([f"median {scientific(float(np.median(values)))}", *above])
    if hidden:
        about += f", {hidden} beyond the axis"
    ax.set_title(count(len(values), "point"), color=ACCENT)
    aside(ax, about)
    caption = "Solid line: zero."
    if momentum:
        caption += " Dashed: I(∅), the part of the step that comes from momentum alone."
    alt = f"Histogram of {count(len(values), 'point')}: {about}."
    return Drawing("scores", "Influence of the points", alt, caption, figure)


def _bins(values: list[float], marks: Sequence[float], most: int) -> tuple["np.ndarray", int]:
    """Return edges of bins for `most` values that hold zero and the `marks`, and the power of ten to write them in."""
    inner = np.quantile(values, [0.005, 0.995])
    reach = 0.5 * float(inner[1] - inner[0])  # outliers further away than this would hide the rest
    low, high = max(min(values), float(inner[0]) - reach), min(max(values), float(inner[1]) + reach)
    low, high = min(low, 0.0, *marks), max(high, 0.0, *marks)
    margin = 0.03 * (high - low) or 1e-12
    low, high = low - margin, high + margin
    return np.linspace(low, high, min(max(round(most**0.5), 12), 48) + 1), power_of_ten([low, high])
