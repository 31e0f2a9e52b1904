"""The results of a run as one table: a row a system, for the terminal, Markdown and the page.

A best value is marked only where its lead over the next exceeds twice their combined standard error.
"""

import html
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from montessori.reporting.data import Measure, Report, System
from montessori.reporting.text import label


@dataclass(frozen=True)
class Metric:
    """Something that systems are measured on, and how it is written."""

    name: str
    unit: str
    lower_is_better: bool
    read: Callable[[System], Measure | None]
    scale: float = 1.0  # from the measured value to `unit`


@dataclass(frozen=True)
class Cell:
    """One written value."""

    text: str
    best: bool = False


@dataclass(frozen=True)
class Table:
    """Written values under a header. The first column names the row, the others are numbers."""

    header: list[str]
    rows: list[list[Cell]]
    caption: str = ""


def metrics(report: Report) -> list[Metric]:
    """What the systems of this run were measured on."""
    known = [
        Metric("Reference loss", "nats/token", True, lambda s: s.reference_loss),
        Metric("Held-out loss", "nats/token", True, lambda s: s.held_out_loss),
        Metric("Accuracy", f"%, {report.accuracy_kind}", False, lambda s: s.accuracy, 100),
    ]
    return [metric for metric in known if any(metric.read(system) for system in report.systems)]


def leader(measures: Sequence[Measure | None], lower_is_better: bool) -> int | None:
    """The index of the best measure, if it leads the next by more than twice the combined standard error."""
    sign = 1 if lower_is_better else -1
    ranked = sorted((sign * m.mean, i, m) for i, m in enumerate(measures) if m is not None and math.isfinite(m.mean))
    if len(ranked) < 2:
        return None
    (best, index, first), (second, _, following) = ranked[:2]
    # NaN errors compare as false: what cannot be told is not marked.
    return index if second - best > 2 * math.hypot(first.standard_error, following.standard_error) else None


def decimals(metric: Metric, systems: Sequence[System]) -> int:
    """How many digits let the smallest standard error of the column show two."""
    errors = [metric.scale * m.standard_error for s in systems if (m := metric.read(s))]
    positive = [error for error in errors if math.isfinite(error) and error > 0]
    return min(max(1 - math.floor(math.log10(min(positive))), 1), 4) if positive else 3


def written(measure: Measure | None, metric: Metric, digits: int) -> str:
    """`mean ± standard error`, or the mean alone where the error is unknown."""
    if measure is None or not math.isfinite(measure.mean):
        return "–"
    mean = f"{metric.scale * measure.mean:.{digits}f}"
    if not math.isfinite(measure.standard_error):
        return mean
    return f"{mean} ± {metric.scale * measure.standard_error:.{digits}f}"


def summary_table(report: Report) -> Table:
    """One row a system: its measures with standard errors, and how many points its student was trained on."""
    shown = metrics(report)
    columns = []
    for metric in shown:
        measures = [metric.read(system) for system in report.systems]
        digits = decimals(metric, report.systems)
        best = leader(measures, metric.lower_is_better)
        columns.append([Cell(written(m, metric, digits), i == best) for i, m in enumerate(measures)])
    rows = [
        [Cell(system.name), *(column[i] for column in columns), Cell(f"{system.training_points:,}")]
        for i, system in enumerate(report.systems)
    ]
    header = [f"{m.name} {'↓' if m.lower_is_better else '↑'} ({m.unit})" for m in shown]
    return Table(["System", *header, "Training points"], rows, _caption(report, shown))


def findings(report: Report) -> list[str]:
    """What the results say, a sentence a metric: the best system against the best baseline, and what that is worth."""
    if report.verdict:
        return report.verdict
    sentences = []
    for metric in metrics(report):
        pairs = [(s, m) for s in report.systems if (m := metric.read(s)) and math.isfinite(m.mean)]
        pairs.sort(key=lambda pair: pair[1].mean, reverse=not metric.lower_is_better)
        if len(pairs) < 2:
            continue
        first, a = pairs[0]
        second, b = next((pair for pair in pairs[1:] if pair[0].baseline), pairs[1])
        digits = decimals(metric, report.systems)
        extreme = ("Lowest" if metric.lower_is_better else "Highest") + f" {metric.name.lower()}"
        unit = " %" if metric.unit.startswith("%") else ""
        values = f"{written(a, metric, digits)}{unit} against {written(b, metric, digits)}{unit} ({second.name})"
        if a.mean == b.mean:
            equal = f"{first.name} and {second.name} are equal, {written(a, metric, digits)}{unit}"
            sentences.append(f"{metric.name}: {equal}.")
            continue
        clear = leader([a, b], metric.lower_is_better) is not None
        verdict = "" if clear else ", a difference within twice the combined standard error"
        sentences.append(f"{extreme}: {first.name}, {values}{verdict}.")
    if sentences:
        sentences.append("One seed: the errors are over evaluation examples; another seed can differ by more.")
    return sentences


def to_markdown(report: Report) -> str:
    """The results as Markdown: heading, finding, table, caption, warnings."""
    table = summary_table(report)
    lines = [f"# {_plain(report.run.name)}", "", *(f"- {_plain(s)}" for s in findings(report)), ""]
    lines += ["| " + " | ".join(table.header) + " |", "| --- |" + " ---: |" * (len(table.header) - 1)]
    for row in table.rows:
        cells = (f"**{_plain(cell.text)}**" if cell.best else _plain(cell.text) for cell in row)
        lines.append("| " + " | ".join(cells) + " |")
    lines += ["", table.caption]
    for iteration in report.iterations:
        if iteration.warning:
            lines += ["", f"> Iteration {iteration.number}: {_plain(iteration.warning)}"]
    return "\n".join(lines) + "\n"


def _caption(report: Report, shown: Sequence[Metric]) -> str:
    counts = []
    for metric in shown:
        n = sorted({m.n for s in report.systems if (m := metric.read(s))})
        span = f"{n[0]:,}" if len(n) == 1 else f"{n[0]:,}–{n[-1]:,}"
        counts.append(f"{metric.name.lower()} n = {span}")
    return (
        f"Mean ± one standard error over n evaluation examples ({', '.join(counts)}); "
        "the error does not cover the variation between training seeds. "
        "↓ lower is better, ↑ higher is better. "
        "Bold: the best, where it leads the next by more than twice the combined standard error √(a² + b²)."
    )


def _plain(text: str) -> str:
    """`text` on one line, with nothing that Markdown or HTML would take for markup of a table."""
    return html.escape(label(text, 1000), quote=False).replace("|", "\\|").replace("*", "\\*")
