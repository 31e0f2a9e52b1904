"""Which verbs the instructions of a teacher are built on, and with which objects."""

import math

from matplotlib.axes import Axes
from matplotlib.patches import Wedge

from montessori.reporting.figures.canvas import INK, MUTED, PAPER, Drawing, colour, panels
from montessori.reporting.study.data import Study
from montessori.reporting.study.verbs import Verb, most_common
from montessori.reporting.text import both_ends, count, label, percent

VERBS = 10  # as many as stay readable; the rest is left out, as in the paper
OBJECTS = 4
RINGS = (0.42, 1.12, 1.98)  # inches from the centre: the hole, the verbs, the objects
SIZE = 6.8  # points
LINE = 0.092  # inches that a name needs across
LETTER = 0.06  # inches, about


def root_verbs(study: Study) -> Drawing | None:
    """Two rings, verbs inside and their objects outside; a panel for the baseline and one for the last system."""
    written = [texts for texts in study.texts if texts.instructions]
    shown = [texts for texts in written if texts.row == study.baseline][:1]
    shown += [texts for texts in written if texts.row != study.baseline][-1:]
    found = [(texts, *most_common(texts.instructions, VERBS, OBJECTS)) for texts in shown]
    found = [(texts, parts, known) for texts, parts, known in found if parts]
    if not found:
        return None
    figure, ((*axes,),) = panels(1, len(found), 4.55, width=4.3 * len(found))
    order = {verb: i for i, verb in enumerate(dict.fromkeys(verb.name for _, parts, _ in found for verb in parts))}
    told = []
    for ax, (texts, parts, known) in zip(axes, found, strict=True):
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
    """How many instructions the part of a verb stands for."""
    return verb.bare + sum(times for _, times in verb.objects)


def _told(verb: Verb) -> str:
    things = ", ".join(f"{label(thing, 14)} {times}" for thing, times in verb.objects)
    return f"{label(verb.name, 14)} {verb.times}" + (f" ({things})" if things else "")


def _rings(ax: Axes, verbs: list[Verb], order: dict[str, int]) -> None:
    """Clockwise from the top, the commonest verb first."""
    whole = sum(map(_size, verbs))
    hole, middle, rim = RINGS
    start = 0
    for verb in verbs:
        ink = colour(order[verb.name])
        _wedge(ax, (start / whole, (start + _size(verb)) / whole), (hole, middle), ink, 0.5, verb.name)
        at = start
        for thing, times in verb.objects:
            _wedge(ax, (at / whole, (at + times) / whole), (middle, rim), ink, 0.22, thing)
            at += times
        start += _size(verb)
    ax.set_xlim(-rim - 0.02, rim + 0.02)
    ax.set_ylim(-rim - 0.02, rim + 0.3)  # the name above
    ax.set_aspect("equal")
    ax.set_axis_off()


def _wedge(ax: Axes, turn: tuple[float, float], radii: tuple[float, float], ink: str, alpha: float, name: str) -> None:
    """A part of a ring between two shares of a turn, named along its radius where the name has room."""
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
