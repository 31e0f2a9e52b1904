"""Token lengths of what the systems train their students on."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from montessori.reporting.figures.canvas import INK, Drawing, panels
from montessori.reporting.study.data import Study, Texts
from montessori.reporting.study.figures.means import Look, looks
from montessori.reporting.text import both_ends, count

MOST = 4  # curves over each other that can still be told apart
BINS = 24


def token_lengths(study: Study) -> Drawing | None:
    """Histograms as outlines, a panel for instructions and one for responses, a curve a row."""
    written = [texts for texts in study.texts if texts.instruction_tokens or texts.response_tokens]
    if not written:
        return None
    baseline = [texts for texts in written if texts.row == study.baseline][:1]
    others = [texts for texts in written if texts.row != study.baseline]
    shown = baseline + others[-(MOST - len(baseline)) :]
    styles = looks(study, [texts.row for texts in shown])
    figure, ((left, right),) = panels(1, 2, 3.0)
    told = [
        *_panel(left, "Instructions", [(t, t.instruction_tokens) for t in shown], styles),
        *_panel(right, "Responses", [(t, t.response_tokens) for t in shown], styles),
    ]
    for name, look in styles.items():
        left.plot([], [], color=look.color, linestyle=look.linestyle, linewidth=1.8, label=both_ends(name))
    figure.legend(
        loc="outside upper left", ncols=2 if len(shown) > 3 else len(shown), frameon=False, fontsize=8.5,
        labelcolor=INK, handlelength=3,
    )  # fmt: skip
    numbers = "; ".join(f"{both_ends(t.row)} {count(_most(t), 'text')}" for t in shown)
    left_out = f" Not shown: {count(len(written) - len(shown), 'row')}." if len(written) > len(shown) else ""
    return Drawing(
        "token-lengths",
        "Token lengths",
        "Histograms of lengths in tokens. " + "; ".join(told) + ".",
        f"All seeds together: {numbers}. Triangles: medians. The longest 0.5% may lie beyond the axis. "
        f"No bars of error.{left_out}",
        figure,
    )


def _panel(ax: Axes, title: str, lengths: Sequence[tuple[Texts, list[int]]], styles: dict[str, Look]) -> list[str]:
    """Draw one panel; what it shows, in words."""
    ax.set_title(title)
    ax.set_xlabel("Length (tokens)")
    ax.set_ylabel("Texts (%)")
    ax.grid(axis="y")
    present = [(texts, values) for texts, values in lengths if values]
    if not present:
        ax.set_xlim(0, 1)
        return [f"{title}: none"]
    longest = max(float(np.quantile(values, 0.995)) for _, values in present)
    width = max(1, int(np.ceil((longest + 1) / BINS)))  # whole tokens, else bins would hold unlike numbers of them
    edges = np.arange(0, longest + width + 1, width)
    texts = []
    for text, values in present:
        look = styles[text.row]
        inside, _ = np.histogram(values, edges)
        ax.stairs(100 * inside / len(values), edges, color=look.color, linestyle=look.linestyle, linewidth=1.6)
        median = float(np.median(values))
        ax.plot(median, 0.97, marker="v", color=look.color, markersize=6, transform=ax.get_xaxis_transform())
        texts.append(f"{title}, {both_ends(text.row)}: median {median:.0f} of {count(len(values), 'text')}")
    ax.set_xlim(0, edges[-1])
    ax.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    ax.set_ylim(0, 1.1 * ax.get_ylim()[1])  # room for the marks
    return texts


def _most(texts: Texts) -> int:
    return max(len(texts.instruction_tokens), len(texts.response_tokens))
