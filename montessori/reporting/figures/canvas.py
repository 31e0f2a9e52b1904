"""The canvas of all figures: colours, type, axes without clutter.

Colours are Okabe and Ito's (2008), which stay apart under colour blindness. The page swaps each for a CSS
variable, so every colour in a figure is one of these.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from montessori.evaluation.card import Column
from montessori.reporting.text import both_ends, label, superscript

INK = "#1b1f24"
MUTED = "#68717b"
GRID = "#dde2e7"
PAPER = "#ffffff"
SHADE = "#eef4f9"
ACCENT = "#0072b2"
SERIES = (ACCENT, "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
DASHES = ("-", "--", ":", "-.")
DOTS = "osD^vP"
WIDTH = 8.6  # inches

RC: dict[str, Any] = {
    "font.family": ["DejaVu Sans", "sans-serif"],
    "font.size": 9,
    "axes.titlesize": 9.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelsize": 9,
    "axes.labelcolor": INK,
    "axes.edgecolor": MUTED,
    "axes.linewidth": 0.7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "text.color": INK,
    "text.parse_math": False,  # a label may come from a model and hold a lone $
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "xtick.labelsize": 8.5,
    "ytick.labelsize": 8.5,
    "grid.color": GRID,
    "grid.linewidth": 0.7,
    "figure.facecolor": PAPER,
    "savefig.facecolor": PAPER,
    "axes.facecolor": "none",
    "figure.constrained_layout.use": True,
    "svg.fonttype": "none",  # real text: searchable, and in the page's own type
    "svg.hashsalt": "montessori",  # ids that do not change between runs
}


@dataclass(frozen=True)
class Drawing:
    """A figure before it is written out."""

    name: str
    title: str
    alt: str
    caption: str
    figure: Figure


def panels(
    rows: int, columns: int, height: float, *, width: float = WIDTH, sharex: bool = False, sharey: bool = False
) -> tuple[Figure, list[list[Axes]]]:
    """Make a figure (inches) with a grid of axes, `[rows][columns]`."""
    figure = Figure(figsize=(width, height))
    grid = figure.subplots(rows, columns, squeeze=False, sharex=sharex, sharey=sharey)
    return figure, [list(row) for row in grid]


def wrapped(
    number: int, across: int, *, line: float, more: float = 0.0, column: float | None = None
) -> tuple[Figure, list[Axes]]:
    """Make a figure of `number` axes, at most `across` in a line; sizes in inches."""
    lines, columns = -(-number // across), min(across, number)
    figure, grid = panels(lines, columns, more + line * lines, width=column * columns if column else WIDTH)
    axes = [ax for row in grid for ax in row]
    for ax in axes[number:]:
        ax.remove()
    return figure, axes[:number]


def rows_of(axes: Axes, names: Sequence[str], show: bool = True) -> None:
    """Make the y axis a list of `names`, the first on top."""
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_yticks(range(len(names)), list(names) if show else [""] * len(names))
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.grid(axis="x")


def aside(axes: Axes, text: str) -> None:
    """Write `text` in small type to the right of a panel's title."""
    axes.set_title(text, loc="right", fontsize=8.5, fontweight="normal", color=MUTED)


def title(column: Column) -> str:
    """Return a column's name with the direction of the better."""
    return f"{both_ends(column.name)} {'↓' if column.lower_is_better else '↑'}"


def unit_of(column: Column) -> str:
    """Return a column's unit as an axis has it."""
    return label(column.unit) or "Score"


@dataclass(frozen=True)
class Look:
    """One way to draw lines and dots, told from others by more than its colour."""

    color: str
    linestyle: str
    marker: str


def colour(position: int) -> str:
    """Return the colour of the series at `position`, from 0."""
    return SERIES[position % len(SERIES)]


def look(position: int) -> Look:
    """Return the look of the series at `position`, from 0: other dashes and dots where colours come again."""
    turn = position // len(SERIES)
    return Look(colour(position), DASHES[turn % len(DASHES)], DOTS[(position + turn) % len(DOTS)])


def power_of_ten(values: Sequence[float]) -> int:
    """Return the exponent that brings the largest of `values` between 1 and 10; 0 where no scaling is needed."""
    largest = max((abs(value) for value in values), default=0.0)
    exponent = int(np.floor(np.log10(largest))) if largest else 0
    return exponent if exponent < -2 or exponent > 3 else 0


def scaled_unit(exponent: int, unit: str) -> str:
    """Write `unit` in powers of ten, as an axis label writes it."""
    return f"10{superscript(exponent)} {unit}".strip() if exponent else unit
