"""Rows against each other: head to head, and on students that the teacher was not tuned for."""

import itertools
from collections import Counter
from collections.abc import Sequence

from matplotlib.axes import Axes

from montessori.reporting.data import Measure
from montessori.reporting.figures.canvas import ACCENT, MUTED, Drawing, panels, rows_of
from montessori.reporting.figures.verdicts import verdicts
from montessori.reporting.study.data import Duel, Metric, Study
from montessori.reporting.study.figures.means import digits_of, error_bar, over_seeds, seeds_note, title, written
from montessori.reporting.text import both_ends, label

ACROSS = 2  # panels
MOST_BARS = 15


def duels(study: Study) -> Drawing | None:
    """A bar a pair of rows: wins, ties, losses; of many pairs those with the baseline or the row that wins most."""
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
    """The row with the most wins over losses."""
    lead = Counter[str]()
    for duel in fought:
        lead.update({duel.left: duel.wins - duel.losses, duel.right: duel.losses - duel.wins})
    return max(lead, key=lambda row: lead[row])


def transfer(study: Study) -> Drawing | None:
    """A dot and its error a row, a panel a student."""
    if not study.metrics:
        return None
    metric = study.metrics[0]
    measured = [r for r in study.transfer if metric.key in r.values and over_seeds([r.values[metric.key]])]
    if not measured:
        return None
    students = list(dict.fromkeys(result.student for result in measured))
    rows = list(dict.fromkeys(result.row for result in measured))
    lines = -(-len(students) // ACROSS)
    figure, grid = panels(lines, min(ACROSS, len(students)), lines * (0.95 + 0.3 * len(rows)))
    axes = [ax for line in grid for ax in line]
    for ax in axes[len(students) :]:
        ax.remove()
    means = {
        key: over_seeds(metric.scale * r.values[metric.key] for r in measured if (r.student, r.row) == key)
        for key in itertools.product(students, rows)
    }
    digits = digits_of(m for m in means.values() if m)
    texts = []
    for position, (ax, student) in enumerate(zip(axes, students, strict=False)):
        rows_of(ax, [both_ends(row) for row in rows], show=position % ACROSS == 0)
        told = _dots(ax, {row: means[student, row] for row in rows}, study.baseline, digits)
        ax.set_title(f"{both_ends(student) or 'Student'} {'↓' if metric.lower_is_better else '↑'}")
        ax.set_xlabel(f"{label(metric.title)} ({metric.unit})" if metric.unit else label(metric.title))
        texts.append(f"{both_ends(student)}: {', '.join(told)}")
    return Drawing(
        "transfer",
        "Transfer to other students",
        f"Dot plots of {_named(metric)}. {'; '.join(texts)}.",
        "Each panel is a student, trained on what the teachers of the rows wrote; its axis is its own. "
        f"{seeds_note(m.n for m in means.values() if m)} The arrow points to the better side. In grey: the baseline.",
        figure,
    )


def _named(metric: Metric) -> str:
    return f"{title(metric)} ({metric.unit})" if metric.unit else title(metric)


def _dots(ax: Axes, found: dict[str, Measure | None], baseline: str, digits: int) -> list[str]:
    """Draw one panel; what it shows, in words."""
    texts = []
    for row, (name, measure) in enumerate(found.items()):
        ink = MUTED if name == baseline else ACCENT
        if measure:
            ax.errorbar(
                measure.mean, row, xerr=error_bar(measure), fmt="o", color=ink, markersize=5, elinewidth=1.5,
                capsize=2.5,
            )  # fmt: skip
        text = written(measure, digits) if measure else "–"
        ax.text(1.03, row, text, transform=ax.get_yaxis_transform(), va="center", color=ink, fontsize=8)
        texts.append(f"{both_ends(name)} {text if measure else 'not measured'}")
    ax.margins(x=0.12)
    ax.locator_params(axis="x", nbins=4)
    return texts
