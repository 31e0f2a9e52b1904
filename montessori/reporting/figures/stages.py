"""Where the time went, and which artifact was made from which."""

from matplotlib.patches import PathPatch
from matplotlib.path import Path as Outline

from montessori.reporting.data import Report
from montessori.reporting.figures.canvas import ACCENT, INK, MUTED, WIDTH, Drawing, panels, rows_of
from montessori.reporting.lineage import Node, layout
from montessori.reporting.text import count, duration, label, percent, short

ROW = 0.24  # inches
LANE = 0.2


def time_by_stage(report: Report) -> Drawing | None:
    """A bar a stage: seconds of all its shards, whenever they were made."""
    if not report.stages:
        return None
    unique = list({stage.address: stage for stage in report.stages}.values())
    names = list(dict.fromkeys(stage.stage for stage in unique))
    took = [sum(s.seconds for s in unique if s.stage == name) for name in names]
    longest = max(took)
    unit, scale = ("h", 3600) if longest >= 7200 else ("min", 60) if longest >= 120 else ("s", 1)
    figure, ((ax,),) = panels(1, 1, 0.8 + 0.25 * len(names))
    rows_of(ax, [label(name) for name in names])
    texts = []
    for row, name in enumerate(names):
        ax.barh(row, took[row] / scale, height=0.62, color=ACCENT)
        artifacts = sum(stage.stage == name for stage in unique)
        text = duration(took[row]) + (f" in {artifacts} artifacts" if artifacts > 1 else "")
        ax.annotate(
            text, (took[row] / scale, row), xytext=(4, 0), textcoords="offset points",
            va="center", fontsize=8,
        )  # fmt: skip
        texts.append(f"{label(name)} {text}")
    ax.set_xlim(0, 1.22 * longest / scale or 1)
    ax.set_xlabel(f"Time ({unit})")
    total = sum(took)
    share = f"; the longest stage took {percent(longest / total)} of it" if total else ""
    caption = f"In all {duration(total)}, shards added up{share}. Artifacts that were already there count as when made."
    return Drawing("time", "Time by stage", "Bars: " + "; ".join(texts) + ".", caption, figure)


def lineage(report: Report) -> Drawing | None:
    """A row an artifact, lines from what it was made from; oldest on top, as a version history is drawn."""
    nodes = layout(report.stages)
    if not nodes:
        return None
    height = ROW * len(nodes) + 0.2
    figure, ((ax,),) = panels(1, 1, height)
    lanes = max(node.lane for node in nodes) + 1
    lane = min(LANE, 1.6 / lanes)
    figure.set_layout_engine("none")
    ax.set_position((0, 0, 1, 1))
    ax.set_xlim(-LANE, WIDTH - LANE)  # inches, as is y
    ax.set_ylim(height - ROW / 2 - 0.1, -ROW / 2 - 0.1)
    ax.set_axis_off()
    for row, node in enumerate(nodes):
        x, y = node.lane * lane, row * ROW
        for parent in node.parents:
            px, py = nodes[parent].lane * lane, parent * ROW
            turn = y - ROW
            corners = [(px, py), (px, turn), (px, turn + ROW / 2), (x, y - ROW / 2), (x, y)]
            codes = [Outline.MOVETO, Outline.LINETO, Outline.CURVE4, Outline.CURVE4, Outline.CURVE4]
            ax.add_patch(PathPatch(Outline(corners, codes), fill=False, edgecolor=MUTED, linewidth=1.1))
        ax.plot(x, y, "o", markersize=6, zorder=3, color=ACCENT)
        start = lanes * lane + 0.05
        address = label(short(node.stages[0].address)) + (" …" if len(node.stages) > 1 else "")
        texts = [
            (start, label(node.stage, 22), "bold", INK),
            (start + 1.7, label(_part(node), 42), "normal", INK),
            (start + 4.6, address, "normal", MUTED),
            (start + 5.8, duration(sum(stage.seconds for stage in node.stages)), "normal", MUTED),
        ]
        for left, text, weight, ink in texts:
            ax.text(left, y, text, va="center", fontsize=8, fontweight=weight, color=ink)
    return Drawing(
        "lineage",
        "Lineage",
        f"History of {count(len(nodes), 'artifact')}, each below what it was made from: "
        + ", ".join(dict.fromkeys(node.stage for node in nodes))
        + ". The table of artifacts names the parents of each.",
        "Each row is an artifact (shards together), joined to what it was made from above it. A parent that "
        "another parent was itself made from is not drawn again; the table of artifacts has all.",
        figure,
    )


def _part(node: Node) -> str:
    return f"{node.label} ×{len(node.stages)}".strip() if len(node.stages) > 1 else node.label
