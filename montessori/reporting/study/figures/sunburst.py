"""Which verbs the instructions of a teacher are built on, and with which objects."""

import math

from matplotlib.axes import Axes
from matplotlib.patches import Wedge

from montessori.reporting.figures.canvas import INK, MUTED, PAPER, Drawing, colour, panels
from montessori.reporting.study.data import Study
from montessori.reporting.study.verbs import most_common
from montessori.reporting.text import both_ends, count, label, percent

VERBS = 10  # as many as stay readable; the rest is left out, as in the paper
OBJECTS = 4
RINGS = (0.42, 1.12, 1.98)  # inches from the centre: the hole, the verbs, the objects
LINE = 0.1  # inches that a name needs across
SIZE = 6.8

Part = tuple[str, int, list[tuple[str, int]]]  # verb, times, objects with theirs


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
    order = {verb: i for i, verb in enumerate(dict.fromkeys(verb for _, parts, _ in found for verb, _, _ in parts))}
    told = []
    for ax, (texts, parts, known) in zip(axes, found, strict=True):
        whole, shares = len(texts.instructions), sum(times for _, times, _ in parts)
        _rings(ax, parts, order)
        ax.text(0, RINGS[-1] + 0.1, both_ends(texts.row), ha="center", fontsize=9.5, fontweight="bold")
        about = f"{count(len(parts), 'verb')} in {percent(shares / whole)} of {count(whole, 'instruction')}"
        centre = f"{count(len(parts), 'verb')}\n{percent(shares / whole)} of {whole:,}\ninstructions"
        ax.text(0, 0, centre, ha="center", va="center", fontsize=SIZE, color=MUTED)
        told.append(f"{both_ends(texts.row)}, {about}, {known:,} with a verb: {', '.join(map(_told, parts))}")
    return Drawing(
        "root-verbs",
        "Root verbs and their objects",
        "Sunbursts. " + "; ".join(told) + ".",
        f"Inside: the {VERBS} commonest root verbs, or question words, of the instructions, all seeds together; "
        f"outside: up to {OBJECTS} direct objects of each. The circle is all instructions with one of these verbs. "
        "Where the outer ring is open, the object is another one or there is none. Found by rules, without a parser. "
        "No bars of error.",
        figure,
    )


def _told(part: Part) -> str:
    verb, times, objects = part
    things = ", ".join(f"{label(thing, 14)} {n}" for thing, n in objects)
    return f"{label(verb, 14)} {times}" + (f" ({things})" if things else "")


def _rings(ax: Axes, parts: list[Part], order: dict[str, int]) -> None:
    """Clockwise from the top, the commonest verb first."""
    whole = sum(times for _, times, _ in parts)
    hole, middle, rim = RINGS
    start = 0.0
    for verb, times, objects in parts:
        ink = colour(order[verb])
        _wedge(ax, (start / whole, (start + times) / whole), (hole, middle), ink, 0.5, verb)
        at = start
        for thing, n in objects:
            _wedge(ax, (at / whole, (at + n) / whole), (middle, rim), ink, 0.22, thing)
            at += n
        start += times
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
    if math.radians(begin - end) * (radii[0] + 0.08) < LINE:
        return
    angle = (begin + end) / 2
    radius = sum(radii) / 2
    letters = int((radii[1] - radii[0]) / (0.0088 * SIZE))
    upright = angle if math.cos(math.radians(angle)) >= 0 else angle + 180
    ax.text(
        radius * math.cos(math.radians(angle)), radius * math.sin(math.radians(angle)), label(name, letters),
        rotation=upright, rotation_mode="anchor", ha="center", va="center", fontsize=SIZE, color=INK,
    )  # fmt: skip
