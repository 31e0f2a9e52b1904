"""What kinds of instruction the teacher writes, before and after each update."""

from montessori.reporting.data import Iteration, Report
from montessori.reporting.figures.canvas import ACCENT, MUTED, PAPER, SHADE, Drawing, panels, rows_of
from montessori.reporting.text import label, percent

MOST = 12  # rows that stay readable; the paper shows ten verbs
OTHER = "all others"


def mix(report: Report) -> Drawing | None:
    """A dumbbell a family, a panel an iteration; families of the reference set first, on a shaded band."""
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
    """The families to draw: reference families, then the rest, each by falling share; unrecognised last."""
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
