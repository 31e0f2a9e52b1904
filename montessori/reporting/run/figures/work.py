"""The work of a run: training curves, the time of its stages, and which artifact was made from which."""

import math
from collections.abc import Callable

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import PathPatch
from matplotlib.path import Path as Outline

from montessori.reporting.figures.canvas import (
    ACCENT,
    INK,
    MUTED,
    WIDTH,
    Drawing,
    colour,
    panels,
    power_of_ten,
    rows_of,
    scaled_unit,
    wrapped,
)
from montessori.reporting.run.data import Iteration, Report, Step
from montessori.reporting.run.lineage import Node, layout
from montessori.reporting.text import count, duration, label, percent, short

PANELS: tuple[tuple[str, str, Callable[[Iteration], list[Step]], Callable[[Step], float]], ...] = (
    ("Student warm-up", "Loss (nats/token)", lambda i: i.warm_up, lambda s: s.loss),
    ("Student fine-tuning", "Loss (nats/token)", lambda i: i.sft, lambda s: s.loss),
    ("Teacher DPO: loss", "Loss (nats/pair)", lambda i: i.dpo, lambda s: s.loss),
    ("Teacher DPO: margin", "Reward margin", lambda i: i.dpo, lambda s: s.reward_margin),
    ("Teacher DPO: accuracy", "Chosen over rejected (%)", lambda i: i.dpo, lambda s: 100 * s.reward_accuracy),
    ("Teacher DPO: learning rate", "Learning rate", lambda i: i.dpo, lambda s: s.learning_rate),
)
SMOOTH_FROM = 40  # points; with fewer the raw line is as readable as its mean

ROW = 0.24  # inches
LANE = 0.2

Line = tuple[int, list[tuple[int, float]]]  # iteration's number, (step, value)


def curves(report: Report) -> Drawing | None:
    """Draw a panel a quantity, a line an iteration."""
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
    figure, axes = wrapped(len(drawn), 3, line=2.05, more=0.3)
    texts = []
    for ax, (title, unit, lines) in zip(axes, drawn, strict=True):
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


def time_by_stage(report: Report) -> Drawing | None:
    """Draw a bar a stage: seconds of all its shards, whenever they were made."""
    if not report.stages:
        return None
    unique = list({stage.address: stage for stage in report.stages}.values())
    names = list(dict.fromkeys(stage.stage for stage in unique))
    took = [sum(s.seconds for s in unique if s.stage == name) for name in names]
    longest = max(took)
    unit, scale = ("h", 3600) if longest >= 7200 else ("min", 60) if longest >= 120 else ("s", 1)
    figure, ((ax,),) = panels(1, 1, 0.8 + 0.25 * len(names))
    rows_of(ax, [label(name) for name in names])
    texts = []
    for row, name in enumerate(names):
        ax.barh(row, took[row] / scale, height=0.62, color=ACCENT)
        artifacts = sum(stage.stage == name for stage in unique)
        text = duration(took[row]) + (f" in {artifacts} artifacts" if artifacts > 1 else "")
        ax.annotate(
            text, (took[row] / scale, row), xytext=(4, 0), textcoords="offset points",
            va="center", fontsize=8,
        )  # fmt: skip
        texts.append(f"{label(name)} {text}")
    ax.set_xlim(0, 1.22 * longest / scale or 1)
    ax.set_xlabel(f"Time ({unit})")
    total = sum(took)
    share = f"; the longest stage took {percent(longest / total)} of it" if total else ""
    caption = f"In all {duration(total)}, shards added up{share}. Artifacts that were already there count as when made."
    return Drawing("time", "Time by stage", "Bars: " + "; ".join(texts) + ".", caption, figure)


def lineage(report: Report) -> Drawing | None:
    """Draw a row an artifact, lines from what it was made from; oldest on top, as a version history is drawn."""
    nodes = layout(report.stages)
    if not nodes:
        return None
    height = ROW * len(nodes) + 0.2
    figure, ((ax,),) = panels(1, 1, height)
    lanes = max(node.lane for node in nodes) + 1
    lane = min(LANE, 1.6 / lanes)
    figure.set_layout_engine("none")
    ax.set_position((0, 0, 1, 1))
    ax.set_xlim(-LANE, WIDTH - LANE)  # inches, as is y
    ax.set_ylim(height - ROW / 2 - 0.1, -ROW / 2 - 0.1)
    ax.set_axis_off()
    for row, node in enumerate(nodes):
        x, y = node.lane * lane, row * ROW
        for parent in node.parents:
            px, py = nodes[parent].lane * lane, parent * ROW
            turn = y - ROW
            corners = [(px, py), (px, turn), (px, turn + ROW / 2), (x, y - ROW / 2), (x, y)]
            codes = [Outline.MOVETO, Outline.LINETO, Outline.CURVE4, Outline.CURVE4, Outline.CURVE4]
            ax.add_patch(PathPatch(Outline(corners, codes), fill=False, edgecolor=MUTED, linewidth=1.1))
        ax.plot(x, y, "o", markersize=6, zorder=3, color=ACCENT)
        start = lanes * lane + 0.05
        address = label(short(node.stages[0].address)) + (" …" if len(node.stages) > 1 else "")
        texts = [
            (start, label(node.stage, 22), "bold", INK),
            (start + 1.7, label(_part(node), 42), "normal", INK),
            (start + 4.6, address, "normal", MUTED),
            (start + 5.8, duration(sum(stage.seconds for stage in node.stages)), "normal", MUTED),
        ]
        for left, text, weight, ink in texts:
            ax.text(left, y, text, va="center", fontsize=8, fontweight=weight, color=ink)
    return Drawing(
        "lineage",
        "Lineage",
        f"History of {count(len(nodes), 'artifact')}, each below what it was made from: "
        + ", ".join(dict.fromkeys(node.stage for node in nodes))
        + ". The table of artifacts names the parents of each.",
        "Each row is an artifact (shards together), joined to what it was made from above it. A parent that "
        "another parent was itself made from is not drawn again; the table of artifacts has all.",
        figure,
    )


def _part(node: Node) -> str:
    return f"{node.label} ×{len(node.stages)}".strip() if len(node.stages) > 1 else node.label
