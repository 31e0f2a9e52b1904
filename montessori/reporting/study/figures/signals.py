"""Signals and estimators against each other, on the same points: ranks of one seed, the correlation of every seed."""

import math
from collections.abc import Sequence

from matplotlib.axes import Axes

from montessori.correlation import fractional_ranks, spearman
from montessori.reporting.figures.canvas import ACCENT, MUTED, Drawing, aside, panels, wrapped
from montessori.reporting.study.comparison import over_seeds
from montessori.reporting.study.data import Scored, Study
from montessori.reporting.study.figures.means import digits
from montessori.reporting.tables import written
from montessori.reporting.text import count, label

ACROSS = 3  # panels
TRUTH = "exact"
DEFAULT = "taylor"


def training_loss(study: Study) -> Drawing | None:
    """Draw influence against training loss, by rank."""
    named = [(s, _estimator(s)) for s in study.scored]
    pairs = [(s.seed, name, *_both(s.training_loss, s.influences[name])) for s, name in named if name]
    pairs = [pair for pair in pairs if pair[2]]
    if not pairs:
        return None
    first, name, losses, influences = pairs[0]
    figure, ((ax,),) = panels(1, 1, 3.7, width=4.1)
    _ranked(ax, losses, influences)
    ax.set_xlabel("Rank by training loss (%, highest loss 100)")
    ax.set_ylabel("Rank by influence (%, highest 100)")
    known = [(seed, _correlation(a, b)) for seed, _, a, b in pairs]
    each = ", ".join(f"{_rho(value)} (seed {seed})" for seed, value in known)
    mean = over_seeds(value for _, value in known)
    ax.set_title(f"Seed {first}: {count(len(losses), 'point')}")
    together = f"; mean ± standard error {written(mean, 2)}" if mean and mean.n > 1 else ""
    return Drawing(
        "signals",
        "Influence against training loss",
        f"Scatter plot of {count(len(losses), 'point')} of seed {first}. Rank correlation: {each}{together}.",
        f"Influence by {label(name)}, ranks of the points of seed {first}. Spearman's rank correlation: "
        f"{each}{together}. Were training loss as good a signal, the points would lie on a rising line.",
        figure,
    )


def fidelity(study: Study) -> Drawing | None:
    """Draw every estimator against `exact`, by rank, a panel an estimator."""
    names = list(dict.fromkeys(n for s in study.scored if TRUTH in s.influences for n in s.influences if n != TRUTH))
    drawn = []
    for name in names:
        scored = [s for s in study.scored if TRUTH in s.influences and name in s.influences]
        both = [(s.seed, *_both(s.influences[TRUTH], s.influences[name])) for s in scored]
        if both := [pair for pair in both if pair[1]]:
            drawn.append((name, both))
    if not drawn:
        return None
    figure, axes = wrapped(len(drawn), ACROSS, line=2.95, column=2.85)
    texts = []
    for ax, (name, both) in zip(axes, drawn, strict=True):
        seed, truth, estimate = both[0]
        ax.plot([0, 100], [0, 100], color=MUTED, linewidth=1, linestyle=(0, (3, 2)))
        _ranked(ax, truth, estimate)
        mean = over_seeds(_correlation(a, b) for _, a, b in both)
        about = f"ρ = {written(mean, max(3, digits([mean])))}" if mean else "ρ unknown"
        ax.set_title(label(name, 16))
        aside(ax, about)
        ax.set_xlabel("Rank by exact (%)")
        ax.set_ylabel(f"Rank by {label(name, 16)} (%)")
        seeds = count(mean.n if mean else 0, "seed")
        texts.append(f"{label(name)}: {about} over {seeds}, {count(len(truth), 'point')} of seed {seed} shown")
    return Drawing(
        "fidelity",
        "Estimators against the exact influence",
        "Scatter plots of ranks. " + "; ".join(texts) + ".",
        "Points of the first seed. ρ: Spearman's rank correlation with exact, mean ± standard error over seeds. "
        + "; ".join(texts) + ". Dashed: equal ranks.",
        figure,
    )  # fmt: skip


def _estimator(scored: Scored) -> str | None:
    return DEFAULT if DEFAULT in scored.influences else next(iter(scored.influences), None)


def _both(a: Sequence[float], b: Sequence[float]) -> tuple[list[float], list[float]]:
    """Return the points that both have a finite value of."""
    kept = [(x, y) for x, y in zip(a, b, strict=True) if math.isfinite(x) and math.isfinite(y)]
    return [x for x, _ in kept], [y for _, y in kept]


def _correlation(a: Sequence[float], b: Sequence[float]) -> float:
    """Return Spearman's correlation; NaN where one of the two does not vary."""
    return spearman(a, b) if len(set(a)) > 1 and len(set(b)) > 1 else math.nan


def _rho(value: float) -> str:
    return f"{value:.2f}".replace("-", "−") if math.isfinite(value) else "unknown"


def _ranked(ax: Axes, a: Sequence[float], b: Sequence[float]) -> None:
    x, y = ([100 * rank / len(values) for rank in fractional_ranks(values)] for values in (a, b))
    alpha = min(0.7, max(0.15, 12 / len(x) ** 0.5 / 2))
    ax.plot(x, y, "o", color=ACCENT, markersize=4, alpha=alpha, markeredgewidth=0)
    ax.set_xlim(-3, 103)
    ax.set_ylim(-3, 103)
    ax.set_aspect("equal")
