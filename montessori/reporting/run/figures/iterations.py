"""The iterations of a run: the influence of the teacher's data before and after each update, and its families."""

import numpy as np

from montessori.reporting.figures.canvas import (
    ACCENT,
    GRID,
    MUTED,
    PAPER,
    SHADE,
    Drawing,
    aside,
    colour,
    panels,
    rows_of,
)
from montessori.reporting.figures.charts import histograms, mark
from montessori.reporting.run.data import Iteration, Report, finite, positive_means
from montessori.reporting.text import count, label, percent, scientific

MOST = 12  # rows that stay readable; the paper shows ten verbs
OTHER = "all others"


def distribution(report: Report) -> Drawing | None:
    """Draw histograms on one scale, a panel an iteration: before the teacher's update in grey, after it in colour."""
    scored = [(i, finite(i.influences), finite(i.influences_after)) for i in report.iterations]
    scored = [(iteration, before, after) for iteration, before, after in scored if before]
    if not scored:
        return None
    marks = finite([i.momentum_influence for i, _, _ in scored if i.momentum_influence is not None])
    rows = [[(before, MUTED), (after, colour(place))] for place, (_, before, after) in enumerate(scored)]
    figure, axes, unit, hidden = histograms(rows, marks=marks, line=1.35)
    texts = []
    for position, (ax, (iteration, before, after)) in enumerate(zip(axes, scored, strict=True)):
        mark(ax, iteration.momentum_influence, unit)
        medians = " → ".join(scientific(float(np.median(values))) for values in (before, after) if values)
        about = f"median {medians}, {_positive(iteration)} positive"
        ax.set_title(f"Iteration {iteration.number}", color=colour(position))
        aside(ax, about)
        texts.append(f"Iteration {iteration.number}: {count(len(before), 'point')}, {about}")
    notes = [
        "Grey: what the teacher wrote before its update; in colour: after it, scored with the same student.",
        "Solid line: zero. Dashed: I(∅), the part of the step that comes from momentum alone.",
    ]
    if hidden:
        notes.append(f"{count(hidden, 'point')} outside the axis not drawn.")
    if excluded := sum(_excluded(iteration) for iteration in report.iterations):
        notes.append(f"{count(excluded, 'point')} without a finite influence excluded, before and after together.")
    alt = "Histograms. " + "; ".join(texts) + "."
    return Drawing("influence", "Influence before and after", alt, " ".join(notes), figure)


def positive_share(report: Report) -> Drawing | None:
    """Draw the share of points with positive influence, before and after each update of the teacher."""
    shown = [i for i in report.iterations if np.isfinite(i.positive_share)]
    if not shown:
        return None
    figure, ((ax,),) = panels(1, 1, 0.95 + 0.36 * len(shown))
    rows_of(ax, [f"Iteration {i.number}" for i in shown])
    # Outside 5 to 95% there are hardly any pairs of a positive and a negative output to learn from.
    for edge in (0, 95):
        ax.axvspan(edge, edge + 5, color=GRID, alpha=0.7, linewidth=0)
    texts = []
    for row, iteration in enumerate(shown):
        before, after = 100 * iteration.positive_share, iteration.positive_share_after
        text = f"{before:.0f}%"
        if after is not None and np.isfinite(after):
            ax.plot([before, 100 * after], [row, row], color=ACCENT, linewidth=1.5, alpha=0.5)
            ax.plot(100 * after, row, "o", color=ACCENT, markersize=6.5)
            text += f" → {percent(after)}"
        ax.plot(before, row, "o", markeredgecolor=ACCENT, markerfacecolor=PAPER, markersize=6.5)
        ax.text(1.01, row, text, transform=ax.get_yaxis_transform(), va="center", fontsize=8.5)
        texts.append(f"iteration {iteration.number}: {text}")
    ax.set_xlim(0, 100)
    ax.set_xlabel("Points with positive influence (%)")
    return Drawing(
        "positive-share",
        "Share of positive influence",
        "Share of points with positive influence, " + "; ".join(texts) + ".",
        f"Positive: {positive_means(report.iterations)}. "
        "Hollow: what the teacher wrote before its update. Filled: after it, scored with the same student. "
        "Shaded: under 5% or over 95%, where hardly any preference pairs can be made.",
        figure,
    )


def _positive(iteration: Iteration) -> str:
    after = iteration.positive_share_after
    return percent(iteration.positive_share) + ("" if after is None else f" → {percent(after)}")


def _excluded(iteration: Iteration) -> int:
    values = iteration.influences + iteration.influences_after
    return len(values) - len(finite(values))


def mix(report: Report) -> Drawing | None:
    """Draw a dumbbell a family, a panel an iteration; families of the reference set first, on a shaded band."""
    shown = [i for i in report.iterations if i.families_before or i.families_after]
    if not shown:
        return None
    covered = report.reference_families
    names = _rows(shown, covered)
    rest = {n for i in shown for n in (*i.families_before, *i.families_after)} - set(names)
    labels = [label(name, 22) for name in names] + ([OTHER] if rest else [])
    figure, (axes,) = panels(1, len(shown), 1.0 + 0.27 * len(labels), sharex=True)
    largest = max(v for i in shown for m in (i.families_before, i.families_after) for v in m.values())
    in_reference = sum(name in covered for name in names)
    texts = []
    for position, (ax, iteration) in enumerate(zip(axes, shown, strict=True)):
        rows_of(ax, labels, show=position == 0)
        if in_reference:
            ax.axhspan(-0.5, in_reference - 0.5, color=SHADE, linewidth=0)
        before, after = iteration.families_before, iteration.families_after
        values = [(before.get(n, 0.0) if before else None, after.get(n, 0.0) if after else None) for n in names]
        if rest:
            values.append(
                (sum(before.get(n, 0.0) for n in rest) if before else None,
                 sum(after.get(n, 0.0) for n in rest) if after else None)
            )  # fmt: skip
        for row, (a, b) in enumerate(values):
            ink = ACCENT if row < in_reference or not covered else MUTED
            if a is not None and b is not None:
                ax.plot([100 * a, 100 * b], [row, row], color=ink, linewidth=1.8, alpha=0.5)
            if b is not None:
                ax.plot(100 * b, row, "o", color=ink, markersize=6)
            if a is not None:
                ax.plot(100 * a, row, "o", markeredgecolor=ink, markerfacecolor=PAPER, markersize=6)
            texts.append(f"{labels[row]} {_change(a, b)}")
        texts[-len(values)] = f"iteration {iteration.number}: " + texts[-len(values)]
        ax.set_xlim(0, 106 * largest or 1)
        ax.set_title(f"Iteration {iteration.number}")
        ax.set_xlabel("Instructions (%)")
    caption = "Hollow: written before the teacher's update. Filled: after."
    if in_reference:
        totals = [_change(_total(i.families_before, covered), _total(i.families_after, covered)) for i in shown]
        caption += f" Shaded and blue: families of the reference set, together {', then '.join(totals)}."
    return Drawing(
        "families", "What the teacher writes", "Shares of instructions by family, before → after. "
        + "; ".join(texts) + ".", caption, figure,
    )  # fmt: skip


def _rows(shown: list[Iteration], covered: set[str]) -> list[str | None]:
    """Return the families to draw: reference families, then the rest, each by falling share; unrecognised last."""
    share: dict[str | None, float] = {}
    for iteration in shown:
        for mixture in (iteration.families_before, iteration.families_after):
            for name, value in mixture.items():
                share[name] = max(share.get(name, 0.0), value)
    unrecognised = share.pop(None, None)
    kept = sorted(share, key=lambda name: (name not in covered, -share[name], name or ""))[:MOST]
    return kept + ([None] if unrecognised is not None else [])


def _total(mixture: dict[str | None, float], covered: set[str]) -> float | None:
    return sum(value for name, value in mixture.items() if name in covered) if mixture else None


def _change(before: float | None, after: float | None) -> str:
    return " → ".join(percent(value) for value in (before, after) if value is not None)
