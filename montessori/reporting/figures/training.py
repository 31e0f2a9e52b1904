"""Training curves of all iterations: the student's warm-up, the teacher's DPO, the student's fine-tuning."""

import math
from collections.abc import Callable

import numpy as np
from matplotlib.axes import Axes

from montessori.reporting.data import Iteration, Report, Step
from montessori.reporting.figures.canvas import INK, Drawing, colour, panels, power_of_ten, scaled_unit

PANELS: tuple[tuple[str, str, Callable[[Iteration], list[Step]], Callable[[Step], float]], ...] = (
    ("Student warm-up", "Loss (nats/token)", lambda i: i.warm_up, lambda s: s.loss),
    ("Student fine-tuning", "Loss (nats/token)", lambda i: i.sft, lambda s: s.loss),
    ("Teacher DPO: loss", "Loss (nats/pair)", lambda i: i.dpo, lambda s: s.loss),
    ("Teacher DPO: margin", "Reward margin", lambda i: i.dpo, lambda s: s.reward_margin),
    ("Teacher DPO: accuracy", "Chosen over rejected (%)", lambda i: i.dpo, lambda s: 100 * s.reward_accuracy),
    ("Teacher DPO: learning rate", "Learning rate", lambda i: i.dpo, lambda s: s.learning_rate),
)
SMOOTH_FROM = 40  # points; with fewer the raw line is as readable as its mean

Line = tuple[int, list[tuple[int, float]]]  # iteration's number, (step, value)


def curves(report: Report) -> Drawing | None:
    """A panel a quantity, a line an iteration."""
    order = {iteration.number: position for position, iteration in enumerate(report.iterations)}
    drawn: list[tuple[str, str, list[Line]]] = []
    for title, unit, rows, value in PANELS:
        lines = [
            (i.number, [(s.step, value(s)) for s in rows(i) if math.isfinite(value(s))]) for i in report.iterations
        ]
        if any(points for _, points in lines):
            drawn.append((title, unit, [line for line in lines if line[1]]))
    if not drawn:
        return None
    columns = min(3, len(drawn))
    rows_needed = -(-len(drawn) // columns)
    figure, grid = panels(rows_needed, columns, 0.3 + 2.05 * rows_needed)
    axes = [ax for row in grid for ax in row]
    for ax in axes[len(drawn) :]:
        ax.remove()
    texts = []
    for ax, (title, unit, lines) in zip(axes, drawn, strict=False):
        exponent = power_of_ten([value for _, points in lines for _, value in points])
        for number, points in lines:
            _line(ax, [(step, value / 10.0**exponent) for step, value in points], colour(order[number]))
            texts.append(f"{title}, iteration {number}: {points[0][1]:.3g} at first, {points[-1][1]:.3g} at last")
        ax.grid(axis="y")
        ax.margins(x=0.02)
        ax.set_title(title)
        ax.set_ylabel(f"{unit} ({scaled_unit(exponent, '')})" if exponent else unit)
        ax.set_xlabel("Step")
    if len(report.iterations) > 1:
        for number, position in order.items():
            axes[0].plot([], [], color=colour(position), linewidth=2, label=f"iteration {number}")
        figure.legend(loc="outside upper right", ncols=len(order), frameon=False, fontsize=8.5, labelcolor=INK)
    return Drawing(
        "training", "Training curves", "Line charts. " + "; ".join(texts) + ".",
        "Where a line is noisy: pale the logged values, strong their running mean.", figure,
    )  # fmt: skip


def _line(ax: Axes, points: list[tuple[int, float]], ink: str) -> None:
    steps, values = (list(column) for column in zip(*points, strict=True))
    if len(points) == 1:
        ax.plot(steps, values, "o", color=ink, markersize=4)
        return
    turns = np.count_nonzero(np.diff(np.sign(np.diff(values))))
    smooth = len(points) >= SMOOTH_FROM and turns > len(points) / 4
    ax.plot(steps, values, color=ink, linewidth=0.8 if smooth else 1.5, alpha=0.35 if smooth else 1)
    if smooth:
        window = len(points) // 20 * 2 + 1
        padded = np.pad(values, window // 2, mode="edge")
        ax.plot(steps, np.convolve(padded, np.ones(window) / window, mode="valid"), color=ink, linewidth=1.6)
