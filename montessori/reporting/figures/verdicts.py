"""Wins, ties and losses of pairs, head to head."""

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from montessori.reporting.figures.canvas import ACCENT, GRID, INK, PAPER, SERIES, panels, rows_of
from montessori.reporting.text import both_ends, percent

NARROW = 0.07  # share of a bar that has room for its number

Pair = tuple[str, str, tuple[int, int, int]]  # left, right, wins of the left, ties, losses


def verdicts(pairs: Sequence[Pair], noun: str) -> tuple[Figure, list[str]]:
    """A bar a pair: wins of the `noun` on the left, ties, wins of the one on the right; and the same in words."""
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
    """Draw one bar; what it shows, in words."""
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
