"""The systems of a study side by side: head to head, on other students, and cost against quality."""

import itertools
import math
from collections import Counter
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from montessori.evaluation.card import Column, Duel, Measure
from montessori.reporting.figures.canvas import MUTED, Drawing, Look, panels, rows_of, title, unit_of, wrapped
from montessori.reporting.figures.charts import dots, verdicts
from montessori.reporting.study.comparison import over_seeds
from montessori.reporting.study.data import Result, Study
from montessori.reporting.study.figures.means import digits, error_bar, looks, seeds_note
from montessori.reporting.tables import written
from montessori.reporting.text import both_ends, label, rough_duration
from montessori.settings.study import SYSTEMS

ACROSS = 2  # panels
MOST_BARS = 15
LINE = 0.21  # inches between names
FRAME = 0.9  # inches of title and labels above and below a panel
ROUND = [float(s) for unit in (1, 60, 3600) for s in (unit, 3 * unit, 10 * unit, 30 * unit)]
ROUND += [3600.0 * hours for hours in (100, 300, 1000, 3000, 10000)]

Point = tuple[str, float, Measure]  # row, seconds, score


def duels(study: Study) -> Drawing | None:
    """Draw a bar a pair of rows: wins, ties, losses; of many pairs those with the baseline or the best row."""
    fought = [duel for duel in study.duels if duel.wins + duel.ties + duel.losses]
    if not fought:
        return None
    looked_at = {study.baseline, _winner(fought)}
    kept = [duel for duel in fought if looked_at & {duel.left, duel.right} or len(fought) <= MOST_BARS]
    shown = [(d.left, d.right, (d.wins, d.ties, d.losses)) for d in kept]
    figure, texts = verdicts(shown, "system")
    items = [sum(numbers) for _, _, numbers in shown]
    left_out = f" Not shown: {len(fought) - len(kept)} pairs of others." if len(kept) < len(fought) else ""
    several = f"{min(items):,}" if min(items) == max(items) else f"{min(items):,} to {max(items):,}"
    return Drawing(
        "duels",
        "Head to head",
        "Stacked bars. " + "; ".join(texts) + ".",
        f"Two students on the same items, all seeds together: n = {several} a bar. No bars of error.{left_out}",
        figure,
    )


def _winner(fought: Sequence[Duel]) -> str:
    """Return the row with the most wins over losses."""
    lead = Counter[str]()
    for duel in fought:
        lead.update({duel.left: duel.wins - duel.losses, duel.right: duel.losses - duel.wins})
    return max(lead, key=lambda row: lead[row])


def transfer(study: Study) -> Drawing | None:
    """Draw a dot and its error a row, a panel a student."""
    if not study.metrics:
        return None
    metric = study.metrics[0]
    measured = [r for r in study.transfer if metric.key in r.values and over_seeds([r.values[metric.key]])]
    if not measured:
        return None
    students = list(dict.fromkeys(result.student for result in measured))
    rows = list(dict.fromkeys(result.row for result in measured))
    figure, axes = wrapped(len(students), ACROSS, line=0.95 + 0.3 * len(rows))
    means = {
        key: over_seeds(metric.scale * r.values[metric.key] for r in measured if (r.student, r.row) == key)
        for key in itertools.product(students, rows)
    }
    shown = digits(m for m in means.values() if m)
    texts = []
    for position, (ax, student) in enumerate(zip(axes, students, strict=True)):
        rows_of(ax, [both_ends(row) for row in rows], show=position % ACROSS == 0)
        told = {row: (measure, written(measure, shown)) for row in rows for measure in [means[student, row]]}
        dots(ax, [(measure, text, row == study.baseline) for row, (measure, text) in told.items()])
        ax.set_title(f"{both_ends(student) or 'Student'} {'↓' if metric.lower_is_better else '↑'}")
        ax.set_xlabel(f"{label(metric.name)} ({unit_of(metric)})" if metric.unit else label(metric.name))
        each = (f"{both_ends(row)} {text if measure else 'not measured'}" for row, (measure, text) in told.items())
        texts.append(f"{both_ends(student)}: {', '.join(each)}")
    return Drawing(
        "transfer",
        "Transfer to other students",
        f"Dot plots of {_named(metric)}. {'; '.join(texts)}.",
        "Each panel is a student, trained on what the teachers of the rows wrote; its axis is its own. "
        f"{seeds_note(m.n for m in means.values() if m)} The arrow points to the better side. In grey: the baseline.",
        figure,
    )


def _named(metric: Column) -> str:
    return f"{title(metric)} ({unit_of(metric)})" if metric.unit else title(metric)


def cost(study: Study) -> Drawing | None:
    """Draw the student's score against the computing time of its system, a panel a student."""
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
        ax.set_ylabel(unit_of(metric))
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


def _point(metric: Column, row: str, student: str, results: Sequence[Result]) -> Point | None:
    own = [r for r in results if (r.row, r.student) == (row, student)]
    score = over_seeds(metric.scale * r.values[metric.key] for r in own)
    seconds = over_seeds(r.cost.whole_s for r in own)
    return (row, seconds.mean, score) if score and seconds else None


def _panel(ax: Axes, points: Sequence[Point], styles: dict[str, Look], apart: float) -> list[str]:
    """Draw one panel; return it in words."""
    shown = digits(score for _, _, score in points)
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
        texts.append(f"{both_ends(row)} {written(score, shown)} for {rough_duration(seconds)}")
    _time_axis(ax, [seconds for _, seconds, _ in points if seconds > 0])
    ax.margins(y=0.12)
    ax.grid(axis="y")
    _names(ax, points, apart)
    return texts


def _time_axis(ax: Axes, seconds: Sequence[float]) -> None:
    """Draw a logarithmic axis with round times on it, or the ends of its range where there are none."""
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
    """Write 1 min, 30 h: by the largest unit of which there is one."""
    name, unit = next(((n, u) for n, u in (("h", 3600), ("min", 60)) if seconds >= u), ("s", 1))
    return f"{seconds / unit:,.3g} {name}"


def _names(ax: Axes, points: Sequence[Point], apart: float) -> None:
    """Write the names in a column on the right, each joined to its point, as near its height as there is room."""
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
    """Return rising places at least `apart` from each other, near the `wanted` ones and within 0 and 1 if possible."""
    places = list(wanted)
    for i, place in enumerate(places):
        places[i] = max(place, places[i - 1] + apart if i else 0.0)
    top = 1.0
    for i in reversed(range(len(places))):
        places[i] = min(places[i], top)
        top = places[i] - apart
    return places
