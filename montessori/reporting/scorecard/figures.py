"""The figures of an evaluation: values by column, verdicts head to head, MT-Bench by category.

In: a `Card`.  Out: pictures, byte-identical for the same card. What has no data has no picture.
"""

import math
from collections.abc import Mapping
from functools import partial
from typing import Any, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.projections.polar import PolarAxes

from montessori.evaluation import published
from montessori.evaluation.bootstrap import EVEN
from montessori.evaluation.card import Card, Column, Measure
from montessori.reporting.figures import Picture, render
from montessori.reporting.figures.canvas import (
    ACCENT,
    GRID,
    INK,
    MUTED,
    WIDTH,
    Drawing,
    look,
    panels,
    rows_of,
    title,
    unit_of,
    wrapped,
)
from montessori.reporting.figures.charts import dots, verdicts
from montessori.reporting.scorecard.tables import even, ordered, value_of
from montessori.reporting.tables import MISSING, arrow, digits_of, error_of, written
from montessori.reporting.text import both_ends, clean, label

ACROSS = 3  # panels


def draw(card: Card) -> list[Picture]:
    """Draw every figure that the card has data for."""
    return render(partial(drawer, card) for drawer in (values, duels, categories))


def values(card: Card) -> Drawing | None:
    """Draw a dot and its standard error a model, a panel a column."""
    columns = [column for column in ordered(card) if any(value_of(card, model, column) for model in card.models)]
    if not columns:
        return None
    names = [both_ends(model) for model in card.models]
    figure, axes = wrapped(len(columns), ACROSS, line=0.95 + 0.3 * len(names))
    texts = []
    for position, (ax, column) in enumerate(zip(axes, columns, strict=True)):
        rows_of(ax, names, show=position % ACROSS == 0)
        texts.append(f"{arrow(column)} ({column.unit}): " + ", ".join(_dots(ax, card, column)))
    return Drawing(
        "values",
        "Results by model",
        clean(f"Dot plots. {'; '.join(texts)}."),
        "Bars: one standard error over items. Arrows point to the better side: ↓ lower, ↑ higher. Dashed: the baseline "
        "that win rates are against. In grey: the model that the others are compared with.",
        figure,
    )


def duels(card: Card) -> Drawing | None:
    """Draw a bar a pair of models: wins of the one on the left, ties, wins of the one on the right."""
    shown = [(d.left, d.right, (d.wins, d.ties, d.losses)) for d in card.duels if d.wins + d.ties + d.losses]
    if not shown:
        return None
    figure, texts = verdicts(shown, "model")
    caption = "A win is an answer that the judge prefers in both orders. Verdicts that could not be read are left out."
    return Drawing("duels", "Wins, ties and losses", "Stacked bars. " + "; ".join(texts) + ".", caption, figure)


def categories(card: Card) -> Drawing | None:
    """Draw MT-Bench's categories: a radar, or with fewer than three of them bars."""
    column = next((c for c in card.columns if published.column_of(c) == "mt_bench"), None)
    if column is None:
        return None
    scores = {model: score for model in card.models if (score := card.scores.get((model, column.key)))}
    finite = {m: {k: v for k, v in s.groups.items() if math.isfinite(v.mean)} for m, s in scores.items()}
    grades = {model: groups for model, groups in finite.items() if groups}
    names = list(dict.fromkeys(name for groups in grades.values() for name in groups))
    if not names:
        return None
    figure = _radar(grades, names, column) if len(names) > 2 else _bars(grades, names, column)
    texts = [
        f"{both_ends(model)}: "
        + ", ".join(f"{label(name)} {written(groups.get(name), 1, column.scale)}" for name in names)
        for model, groups in grades.items()
    ]
    centre = ", 0 in the centre" if len(names) > 2 else ""
    caption = (
        f"Mean grade ({column.unit}{centre}). The table has the errors, which are wide: a category has few questions."
    )
    return Drawing("mt-bench", f"{clean(column.name)}: grades by category", "; ".join(texts) + ".", caption, figure)


def _dots(ax: Axes, card: Card, column: Column) -> list[str]:
    """Draw one panel; return it in words."""
    measures = {model: value_of(card, model, column) for model in card.models}
    digits = digits_of(measures.values(), column.scale)
    told = {model: written(measure, digits, column.scale) for model, measure in measures.items()}
    if column.baseline in told and measures[column.baseline] is None:
        told[column.baseline] = even(column)
    dots(ax, [(measures[model], text, model == card.baseline) for model, text in told.items()], column.scale)
    if column.baseline:
        ax.axvline(column.scale * EVEN, color=MUTED, linewidth=1, linestyle=(0, (3, 2)))
    ax.set_title(title(column))
    ax.set_xlabel(unit_of(column))
    return [f"{both_ends(model)} {text if text != MISSING else 'not measured'}" for model, text in told.items()]


def _radar(grades: Mapping[str, Mapping[str, Measure]], names: list[str], column: Column) -> Figure:
    """Draw a ring of axes, one a category; a closed line a model."""
    figure = Figure(figsize=(WIDTH, 4.2))
    ax = figure.add_subplot(projection="polar")
    assert isinstance(ax, PolarAxes)
    ax.set_theta_offset(np.pi / 2)
    ax.set_theta_direction(-1)
    angles = [2 * np.pi * i / len(names) for i in range(len(names))]
    handles = []
    for position, groups in enumerate(grades.values()):
        heights = [column.scale * groups[name].mean if name in groups else np.nan for name in names]
        style: dict[str, Any] = vars(look(position))
        ax.plot([*angles, angles[0]], [*heights, heights[0]], linewidth=1.6, markersize=4, clip_on=False, **style)
        handles.append(Line2D([], [], linewidth=1.6, markersize=5, **style))
    highest = max(m.mean * column.scale for groups in grades.values() for m in groups.values())
    rings = range(1, max(3, math.ceil(highest)) + 1)  # from the lowest grade to the next whole one
    ax.set_ylim(0, rings[-1])  # so that lines of lowest grades do not meet in the centre
    ax.set_yticks(rings)
    ax.set_xticks(angles, [label(name, 18) for name in names])
    ax.tick_params(axis="y", labelsize=7.5, labelcolor=MUTED)
    ax.set_rlabel_position(180 / len(names))
    ax.spines["polar"].set_color(GRID)
    for angle, text in zip(angles, ax.get_xticklabels(), strict=True):
        text.set_horizontalalignment(_side(angle))
    figure.legend(
        handles=handles, labels=[both_ends(model) for model in grades], loc="outside right center", frameon=False,
        fontsize=8.5, handlelength=3,
    )  # fmt: skip
    return figure


def _bars(grades: Mapping[str, Mapping[str, Measure]], names: list[str], column: Column) -> Figure:
    """Draw a panel a category, a bar a model."""
    figure, (axes,) = panels(1, len(names), 0.95 + 0.3 * len(grades), sharex=True)
    for position, (ax, name) in enumerate(zip(axes, names, strict=True)):
        rows_of(ax, [both_ends(model) for model in grades], show=position == 0)
        for row, groups in enumerate(grades.values()):
            if name in groups:
                mean, error = column.scale * groups[name].mean, error_of(groups[name], column.scale)
                ax.barh(row, mean, height=0.6, color=ACCENT, xerr=error, ecolor=INK, capsize=2.5)
        ax.set_title(label(name))
        ax.set_xlabel(unit_of(column))
    return figure


def _side(angle: float) -> Literal["left", "center", "right"]:
    across = math.sin(angle)
    return "center" if abs(across) < 1e-6 else "left" if across > 0 else "right"
