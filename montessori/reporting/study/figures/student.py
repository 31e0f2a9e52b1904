"""How much of its training set still helps a student on its way through it."""

from matplotlib.ticker import MaxNLocator

from montessori.reporting.data import finite
from montessori.reporting.figures.canvas import INK, Drawing, panels
from montessori.reporting.study.data import Study
from montessori.reporting.study.figures.means import by_share, error_bar, looks, over_seeds, seeds_note, written
from montessori.reporting.text import both_ends

APART = 0.35  # percent of training between the bars of error of two rows, which would else hide each other


def positive_share(study: Study) -> Drawing | None:
    """Share of training points with positive influence over the training, a line a row."""
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
