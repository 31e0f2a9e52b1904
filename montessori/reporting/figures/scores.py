"""The influence of points of one's own: one distribution, with zero and I(∅) marked."""

import numpy as np

from montessori.reporting.figures.canvas import ACCENT, MUTED, Drawing, panels, scaled_unit
from montessori.reporting.figures.influence import bins, histogram, mark, shares
from montessori.reporting.text import count, percent, scientific


def distribution(values: list[float], momentum: float) -> Drawing:
    """A histogram of finite influences, nats; `momentum` is I(∅), 0 for a step without any."""
    marks = [momentum] if momentum else []
    edges, exponent = bins(values, marks, len(values))
    unit = 10.0**exponent
    figure, ((ax,),) = panels(1, 1, 2.7)
    hidden = histogram(ax, values, edges, unit, ACCENT)
    mark(ax, momentum or None, unit)
    above = [f"{percent(float(np.mean(np.array(values) > limit)))} above {name}" for name, limit in _limits(momentum)]
    about = ", ".join([f"median {scientific(float(np.median(values)))}", *above])
    if hidden:
        about += f", {hidden} beyond the axis"
    ax.set_title(count(len(values), "point"), color=ACCENT)
    ax.set_title(about, loc="right", fontsize=8.5, fontweight="normal", color=MUTED)
    ax.set_ylabel("Points (%)")
    ax.set_ylim(0, 125 * shares(values, edges).max())  # room for the marker's name above the bars
    ax.set_xlabel(f"Influence on the reference loss ({scaled_unit(exponent, 'nats/token')} saved by one step)")
    caption = "Solid line: zero."
    if momentum:
        caption += " Dashed: I(∅), the part of the step that comes from momentum alone."
    alt = f"Histogram of {count(len(values), 'point')}: {about}."
    return Drawing("scores", "Influence of the points", alt, caption, figure)


def _limits(momentum: float) -> list[tuple[str, float]]:
    return [("zero", 0.0), ("I(∅)", momentum)] if momentum else [("zero", 0.0)]
