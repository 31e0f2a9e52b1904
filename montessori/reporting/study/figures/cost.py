"""What a system costs against how good its student is."""

import math
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from montessori.reporting.data import Measure
from montessori.reporting.figures.canvas import MUTED, Drawing, panels
from montessori.reporting.study.data import Cost, Metric, Result, Study
from montessori.reporting.study.figures.means import (
    Look,
    digits_of,
    error_bar,
    looks,
    over_seeds,
    seeds_note,
    title,
    written,
)
from montessori.reporting.text import both_ends, rough_duration
from montessori.settings.study import SYSTEMS

LINE = 0.21  # inches between names
FRAME = 0.9  # inches of title and labels above and below a panel
ROUND = [float(s) for unit in (1, 60, 3600) for s in (unit, 3 * unit, 10 * unit, 30 * unit)]
ROUND += [3600.0 * hours for hours in (100, 300, 1000, 3000, 10000)]


def cost(study: Study) -> Drawing | None:
    """The student's score against the computing time of its system, a panel a student."""
    if not study.metrics:
        return None
    metric = study.metrics[0]
    measured = [r for r in study.results if r.group == SYSTEMS and over_seeds([r.values.get(metric.key, math.nan)])]
    if not measured:
        return None
    students = list(dict.fromkeys(result.student for result in measured))
    rows = list(dict.fromkeys(result.row for result in measured))
    height = max(3.0, FRAME + LINE * (len(rows) + 1))
    figure, grid = panels(len(students), 1, len(students) * height)
    styles, texts, seeds = looks(study, rows), [], set()
    for (ax,), student in zip(grid, students, strict=True):
        points = [point for row in rows if (point := _point(metric, row, student, measured))]
        told = _panel(ax, points, styles, LINE / (height - FRAME))
        ax.set_title(f"{title(metric)}{f' of {both_ends(student)}' if student else ''}")
        ax.set_ylabel(metric.unit or "Score")
        texts.append((f"{both_ends(student)}: " if student else "") + ", ".join(told))
        seeds |= {measure.n for _, _, measure in points}
    return Drawing(
        "cost",
        "Cost and quality",
        f"Scatter plot, {title(metric)} by computing time. {'; '.join(texts)}.",
        "Computing time of all that a system needs, from the base models on: writing, scoring, tuning of the teacher, "
        "training of the student; mean over seeds, logarithmic. Dashed: a system that computes nothing. "
        f"{seeds_note(seeds)} The arrow points to the better side.",
        figure,
    )


Point = tuple[str, float, Measure]  # row, seconds, score


def _point(metric: Metric, row: str, student: str, results: Sequence[Result]) -> Point | None:
    own = [r for r in results if (r.row, r.student) == (row, student)]
    score = over_seeds(metric.scale * r.values[metric.key] for r in own)
    seconds = over_seeds(_seconds(r.cost) for r in own)
    return (row, seconds.mean, score) if score and seconds else None


def _seconds(spent: Cost) -> float:
    return spent.writing_s + spent.scoring_s + spent.tuning_s + spent.training_s


def _panel(ax: Axes, points: Sequence[Point], styles: dict[str, Look], apart: float) -> list[str]:
    """Draw one panel; what it shows, in words."""
    digits = digits_of(score for _, _, score in points)
    texts = []
    for row, seconds, score in points:
        look = styles[row]
        if seconds > 0:
            ax.errorbar(
                seconds, score.mean, yerr=error_bar(score), fmt=look.marker, color=look.color, markersize=6,
                elinewidth=1.4, capsize=2.5, zorder=3,
            )  # fmt: skip
        else:
            ax.axhline(score.mean, color=look.color, linewidth=1.2, linestyle=(0, (4, 2)))
        texts.append(f"{both_ends(row)} {written(score, digits)} for {rough_duration(seconds)}")
    _time_axis(ax, [seconds for _, seconds, _ in points if seconds > 0])
    ax.margins(y=0.12)
    ax.grid(axis="y")
    _names(ax, points, apart)
    return texts


def _time_axis(ax: Axes, seconds: Sequence[float]) -> None:
    """A logarithmic axis with round times on it, or the ends of its range where there are none."""
    low, high = min(seconds, default=1.0) / 1.6, max(seconds, default=1.0) * 1.6
    ax.set_xscale("log")
    ax.set_xlim(low, high)
    ticks = [s for s in ROUND if low <= s <= high]
    if not seconds:
        ticks = []
    elif len(ticks) < 2:
        middle = math.sqrt(low * high)
        ticks = [math.sqrt(low * middle), middle, math.sqrt(middle * high)]
    ax.xaxis.set_major_locator(FixedLocator(ticks[:: max(1, -(-len(ticks) // 7))]))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_major_formatter(FuncFormatter(lambda s, _: _time(s)))
    ax.set_xlabel("Computing time (logarithmic)")


def _time(seconds: float) -> str:
    """1 min, 30 h: by the largest unit of which there is one."""
    name, unit = next(((n, u) for n, u in (("h", 3600), ("min", 60)) if seconds >= u), ("s", 1))
    return f"{seconds / unit:,.3g} {name}"


def _names(ax: Axes, points: Sequence[Point], apart: float) -> None:
    """The names in a column on the right, each joined to its point, as near its height as the others let it be."""
    low, high = ax.get_ylim()
    rising = sorted(points, key=lambda point: (point[2].mean, point[1]))
    places = _spread([(score.mean - low) / (high - low) for _, _, score in rising], apart)
    right = ax.get_xlim()[1]  # where the line of a row that took no time ends
    for (row, seconds, score), place in zip(rising, places, strict=True):
        ax.annotate(
            both_ends(row), (seconds if seconds > 0 else right, score.mean), xytext=(1.04, place),
            textcoords="axes fraction", va="center", fontsize=8.5,
            arrowprops={"arrowstyle": "-", "color": MUTED, "linewidth": 0.6, "shrinkA": 2, "shrinkB": 4},
        )  # fmt: skip


def _spread(wanted: Sequence[float], apart: float) -> list[float]:
    """Rising places at least `apart` from each other, near the `wanted` ones and within 0 and 1 where that can be."""
    places = list(wanted)
    for i, place in enumerate(places):
        places[i] = max(place, places[i - 1] + apart if i else 0.0)
    top = 1.0
    for i in reversed(range(len(places))):
        places[i] = min(places[i], top)
        top = places[i] - apart
    return places
