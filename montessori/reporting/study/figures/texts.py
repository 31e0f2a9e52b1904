"""The texts of the teachers: their lengths in tokens, and the root verbs of their instructions."""

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Wedge
from matplotlib.ticker import MaxNLocator

from montessori.reporting.figures.canvas import INK, MUTED, PAPER, Drawing, Look, colour, panels
from montessori.reporting.study.data import Study, Texts
from montessori.reporting.study.figures.means import looks
from montessori.reporting.study.verbs import Verb, most_common
from montessori.reporting.text import both_ends, count, label, percent

MOST = 4  # curves over each other that can still be told apart
BINS = 24
VERBS = 10  # as many as stay readable; the rest is left out, as in the paper
OBJECTS = 4
RINGS = (0.42, 1.12, 1.98)  # inches from the centre: the hole, the verbs, the objects
SIZE = 6.8  # points
LINE = 0.092  # inches that a name needs across
LETTER = 0.06  # inches, about


def token_lengths(study: Study) -> Drawing | None:
    """Draw histograms as outlines, a panel for instructions and one for responses, a curve a row."""
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
    """Draw one panel; return it in words."""
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


def root_verbs(study: Study) -> Drawing | None:
    """Draw two rings, verbs inside and their objects outside; a panel for the baseline and one for the last system."""
    written = [texts for texts in study.texts if texts.instructions]
    shown = [texts for texts in written if texts.row == study.baseline][:1]
    shown += [texts for texts in written if texts.row != study.baseline][-1:]
    counted = [(texts, *most_common(texts.instructions, VERBS, OBJECTS)) for texts in shown]
    counted = [(texts, parts, known) for texts, parts, known in counted if parts]
    if not counted:
        return None
    figure, ((*axes,),) = panels(1, len(counted), 4.55, width=4.3 * len(counted))
    order = {verb: i for i, verb in enumerate(dict.fromkeys(verb.name for _, parts, _ in counted for verb in parts))}
    told = []
    for ax, (texts, parts, known) in zip(axes, counted, strict=True):
        whole = len(texts.instructions)
        share = percent(sum(verb.times for verb in parts) / whole)
        _rings(ax, parts, order)
        ax.text(0, RINGS[-1] + 0.1, both_ends(texts.row), ha="center", fontsize=9.5, fontweight="bold")
        centre = f"shown: {percent(sum(map(_size, parts)) / whole)}\nof {whole:,}"
        ax.text(0, 0, centre, ha="center", va="center", fontsize=SIZE, color=MUTED)
        told.append(
            f"{both_ends(texts.row)}, {count(len(parts), 'verb')} in {share} of {count(whole, 'instruction')}, "
            f"{known:,} with a verb: {', '.join(map(_told, parts))}"
        )
    return Drawing(
        "root-verbs",
        "Root verbs and their objects",
        "Sunbursts. " + "; ".join(told) + ".",
        f"Inside: the {VERBS} commonest root verbs, or question words, of the instructions, all seeds together; "
        f"outside: up to {OBJECTS} direct objects of each, or a gap for those without one. Other objects and verbs "
        "are left out; the share in the middle is what is shown. Narrow parts bear no name. Found by rules, without a "
        "parser. No bars of error.",
        figure,
    )


def _size(verb: Verb) -> int:
    """Count the instructions that the part of a verb stands for."""
    return verb.bare + sum(times for _, times in verb.objects)


def _told(verb: Verb) -> str:
    things = ", ".join(f"{label(thing, 14)} {times}" for thing, times in verb.objects)
    return f"{label(verb.name, 14)} {verb.times}" + (f" ({things})" if things else "")


def _rings(ax: Axes, verbs: list[Verb], order: dict[str, int]) -> None:
    """Draw clockwise from the top, the commonest verb first."""
    whole = sum(map(_size, verbs))
    hole, middle, rim = RINGS
    start = 0
    for verb in verbs:
        ink = colour(order[verb.name])
        _wedge(ax, (start / whole, (start + _size(verb)) / whole), (hole, middle), ink=ink, alpha=0.5, name=verb.name)
        at = start
        for thing, times in verb.objects:
            _wedge(ax, (at / whole, (at + times) / whole), (middle, rim), ink=ink, alpha=0.22, name=thing)
            at += times
        start += _size(verb)
    ax.set_xlim(-rim - 0.02, rim + 0.02)
    ax.set_ylim(-rim - 0.02, rim + 0.3)  # the name above
    ax.set_aspect("equal")
    ax.set_axis_off()


def _wedge(
    ax: Axes, turn: tuple[float, float], radii: tuple[float, float], *, ink: str, alpha: float, name: str
) -> None:
    """Draw a part of a ring between two shares of a turn, named along its radius where the name has room."""
    begin, end = (90 - 360 * share for share in turn)
    ax.add_patch(
        Wedge((0, 0), radii[1], end, begin, width=radii[1] - radii[0], facecolor=ink, alpha=alpha, linewidth=0)
    )
    ax.add_patch(
        Wedge((0, 0), radii[1], end, begin, width=radii[1] - radii[0], fill=False, edgecolor=PAPER, linewidth=1)
    )  # fmt: skip
    angle, radius = (begin + end) / 2, sum(radii) / 2
    written = label(name, int((radii[1] - radii[0]) / LETTER))
    if math.radians(begin - end) * (radius - len(written) * LETTER / 2) < LINE:  # at the end that is further inside
        return
    upright = angle if math.cos(math.radians(angle)) >= 0 else angle + 180
    ax.text(
        radius * math.cos(math.radians(angle)), radius * math.sin(math.radians(angle)), written,
        rotation=upright, rotation_mode="anchor", ha="center", va="center", fontsize=SIZE, color=INK,
    )  # fmt: skip
