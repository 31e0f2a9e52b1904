"""Training over its steps: the student of a teacher under update, that teacher's data, and a student's own data."""

import math
from statistics import fmean

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from montessori.evaluation.card import Column
from montessori.reporting.figures.canvas import (
    ACCENT,
    INK,
    MUTED,
    SERIES,
    WIDTH,
    Drawing,
    aside,
    panels,
    title,
    unit_of,
)
from montessori.reporting.figures.charts import histograms
from montessori.reporting.run.data import finite
from montessori.reporting.study.comparison import over_seeds
from montessori.reporting.study.data import Study, TeacherStep
from montessori.reporting.study.figures.means import by_share, digits, error_bar, looks, seeds_note
from montessori.reporting.tables import written
from montessori.reporting.text import both_ends, count, label, percent, scientific

METRICS = 2  # panels, as in the paper
STOPS = 5  # distributions that stay readable below each other
APART = 0.35  # percent of training between the bars of error of two rows, which would else hide each other


def scores(study: Study) -> Drawing | None:
    """Draw the student's score against the DPO steps of its teacher, a panel a metric."""
    shown = [m for m in study.metrics if any(finite([s.values.get(m.key, math.nan)]) for s in study.teacher_steps)]
    if not shown:
        return None
    shown = shown[:METRICS]
    figure, ((*axes,),) = panels(1, len(shown), 2.9, width=WIDTH if len(shown) > 1 else 5.6)
    texts, seeds = [], set()
    for ax, metric in zip(axes, shown, strict=True):
        text, numbers = _curve(ax, metric, study.teacher_steps)
        texts.append(text)
        seeds |= numbers
    return Drawing(
        "teacher-steps",
        "Student's score by the teacher's steps",
        "Line charts. " + "; ".join(texts) + ".",
        "A student is trained on what the teacher writes after that many steps of its update. Line: mean over seeds, "
        "taken at the same share of all steps. Pale dots: single seeds. " + seeds_note(seeds)
        + " Arrows point to the better side.",
        figure,
    )  # fmt: skip


def influences(study: Study) -> Drawing | None:
    """Draw the influence of the teacher's data before, during and after its update, all seeds together."""
    stops = [(stop, finite(v for step in stop for v in step.influences)) for stop in _stops(study.teacher_steps)]
    stops = [(stop, values) for stop, values in stops if values]
    if not stops:
        return None
    stops = [stops[i] for i in sorted({round(i) for i in np.linspace(0, len(stops) - 1, STOPS)})]
    last = max(step.share for step in study.teacher_steps)
    inks = [MUTED if stop[0].step == 0 else ACCENT if stop[0].share == last else SERIES[5] for stop, _ in stops]
    rows = [[(values, ink)] for (_, values), ink in zip(stops, inks, strict=True)]
    figure, axes, unit, hidden = histograms(rows, line=1.15)
    whens = {MUTED: "Before", ACCENT: "After", SERIES[5]: "During"}
    texts = []
    for ax, (stop, values), ink in zip(axes, stops, inks, strict=True):
        step = f" ({count(round(fmean(s.step for s in stop)), 'step')}, {percent(stop[0].share)})"
        name = f"{whens[ink]} the update{'' if ink == MUTED else step}"
        median = float(np.median(values))
        ax.axvline(0, color=INK, linewidth=0.8)
        ax.axvline(float(np.median(stops[0][1])) / unit, color=MUTED, linewidth=1.2, linestyle=(0, (1, 1.5)))
        ax.axvline(median / unit, color=SERIES[1], linewidth=1.6)
        positive = percent(float(np.mean(np.array(values) > 0)))
        about = f"median {scientific(median)}, {positive} positive, {count(len(values), 'point')}"
        ax.set_title(name)
        aside(ax, about)
        ax.yaxis.set_major_locator(MaxNLocator(3))
        texts.append(f"{name}: {about}")
    seeds = {step.seed for stop, _ in stops for step in stop}
    caption = (
        f"What the teacher writes, scored by one and the same student; {count(len(seeds), 'seed')} together. "
        "Orange line: the median; dotted: the first panel's. Black: zero."
    )
    if hidden:
        caption += f" {count(hidden, 'point')} outside the axis not drawn."
    excluded = sum(len(step.influences) for stop, _ in stops for step in stop) - sum(len(v) for _, v in stops)
    if excluded:
        caption += f" {count(excluded, 'point')} without a finite influence excluded."
    return Drawing(
        "teacher-influence", "Influence during the teacher's update", "Histograms. " + "; ".join(texts) + ".",
        caption, figure,
    )  # fmt: skip


def positive_share(study: Study) -> Drawing | None:
    """Draw the share of training points with positive influence over the training, a line a row."""
    steps = [step for step in study.student_steps if finite([step.positive])]
    if not steps:
        return None
    rows = list(dict.fromkeys(step.row for step in steps))
    figure, ((ax,),) = panels(1, 1, max(3.0, 1.0 + 0.21 * len(rows)))
    texts, seeds = [], set()
    for position, (row, look) in enumerate(looks(study, rows).items()):
        stops = by_share((step for step in steps if step.row == row), lambda step: step.share)
        means = [m for stop in stops if (m := over_seeds(100 * step.positive for step in stop))]
        shift = APART * (position - (len(rows) - 1) / 2)
        ax.errorbar(
            [100 * stop[0].share + shift for stop in stops], [m.mean for m in means],
            yerr=[error_bar(m) for m in means], color=look.color, linestyle=look.linestyle, marker=look.marker,
            markersize=4.5, linewidth=1.6, elinewidth=1.1, capsize=2, label=both_ends(row),
        )  # fmt: skip
        at = [f"{written(m, 1)} at {100 * stop[0].share:.0f}" for stop, m in zip(stops, means, strict=True)]
        texts.append(f"{both_ends(row)}: {', '.join(at)}")
        seeds |= {m.n for m in means}
    ax.set_xlabel("Training done (%)")
    ax.set_ylabel("Points with positive influence (%)")
    ax.yaxis.set_major_locator(MaxNLocator(6))
    ax.set_xlim(-4, 104)
    ax.margins(y=0.1)
    low, high = ax.get_ylim()
    ax.set_ylim(max(low, -2), min(high, 102))
    ax.grid(axis="y")
    figure.legend(loc="outside right center", frameon=False, fontsize=8.5, labelcolor=INK, handlelength=3)
    return Drawing(
        "student-positive",
        "Share of positive influence over the training",
        "Line chart, percent of points by percent of the training done. " + "; ".join(texts) + ".",
        "Share of a student's training points whose step lowers the reference loss, I > 0, after a part of its "
        f"training. {seeds_note(seeds)} Lines are set a little apart where they would hide each other.",
        figure,
    )


def _stops(steps: list[TeacherStep]) -> list[list[TeacherStep]]:
    # A seed's number of steps hangs on its number of pairs, so seeds meet at shares, not at steps.
    return by_share(steps, lambda step: step.share)


def _curve(ax: Axes, metric: Column, steps: list[TeacherStep]) -> tuple[str, set[int]]:
    """Draw one panel; return it in words, and how many seeds its means are over."""
    measured = [s for s in steps if finite([s.values.get(metric.key, math.nan)])]
    stops = _stops(measured)
    places = [fmean(s.step for s in stop) for stop in stops]
    means = [m for stop in stops if (m := over_seeds(metric.scale * s.values[metric.key] for s in stop))]
    ax.plot(
        [s.step for s in measured], [metric.scale * s.values[metric.key] for s in measured], "o", color=ACCENT,
        markersize=4, alpha=0.3, markeredgewidth=0,
    )  # fmt: skip
    ax.errorbar(
        places, [m.mean for m in means], yerr=[error_bar(m) for m in means], fmt="o-", color=ACCENT, markersize=5.5,
        linewidth=1.6, elinewidth=1.4, capsize=2.5,
    )  # fmt: skip
    ax.set_title(title(metric))
    ax.set_ylabel(unit_of(metric))
    ax.set_xlabel("DPO steps of the teacher")
    ax.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    ax.margins(x=0.06, y=0.12)
    if min(places) == max(places):
        ax.set_xlim(places[0] - 1, places[0] + 1)
    ax.grid(axis="y")
    shown = digits(means)
    values = [f"{written(m, shown)} at {place:.0f}" for place, m in zip(places, means, strict=True)]
    text = f"{both_ends(metric.name)} ({label(metric.unit) or 'score'}) by steps: {', '.join(values)}"
    return text, {m.n for m in means}
