"""The results of a run as a table, a row a system; scoring, rejections and costs; and the findings in sentences.

In: a `Report`.  Out: `Table`s.
A best value is marked only where its lead over the next exceeds twice their combined standard error.
"""

import math
from collections.abc import Sequence

from montessori.evaluation.card import Column, Mark, Measure
from montessori.reporting import markdown
from montessori.reporting.run.data import Cost, Report, System, finite, positive_means
from montessori.reporting.tables import (
    MISSING,
    Cell,
    Group,
    Table,
    arrow,
    cells,
    digits_of,
    heads,
    measured,
    span,
    written,
)
from montessori.reporting.text import compact, count, duration, percent, scientific


def metrics(report: Report) -> list[Column]:
    """Return what the systems of this run were measured on."""
    known = [
        Column("Reference loss", "reference_loss", "nats/token", lower_is_better=True),
        Column("Held-out loss", "held_out_loss", "nats/token", lower_is_better=True),
        Column("Accuracy", "accuracy", f"%, {report.accuracy_kind}", scale=100),
    ]
    return [metric for metric in known if any(measures(report, metric))]


def measures(report: Report, metric: Column) -> list[Measure | None]:
    """Return what each system has in a column."""
    return [measure_of(system, metric) for system in report.systems]


def measure_of(system: System, metric: Column) -> Measure | None:
    """Return what one system has in a column."""
    measure: Measure | None = getattr(system, metric.key)
    return measure


def decimals(report: Report, metric: Column) -> int:
    """Return how many digits a column is written with."""
    return digits_of(measures(report, metric), metric.scale, without_errors=3)


def leader(measures: Sequence[Measure | None], lower_is_better: bool) -> int | None:
    """Return the index of the best measure, if it leads the next by more than twice the combined standard error."""
    sign = 1 if lower_is_better else -1
    ranked = sorted((sign * m.mean, i, m) for i, m in enumerate(measures) if m is not None and math.isfinite(m.mean))
    if len(ranked) < 2:
        return None
    (best, index, first), (second, _, following) = ranked[:2]
    # NaN errors compare as false: what cannot be told is not marked.
    return index if second - best > 2 * math.hypot(first.standard_error, following.standard_error) else None


def summary_table(report: Report) -> Table:
    """Tabulate each system's measures with standard errors, and how many points its student was trained on."""
    columns, shown = [], metrics(report)
    for metric in shown:
        column, digits = measures(report, metric), decimals(report, metric)
        marks: dict[int | None, Mark] = {leader(column, metric.lower_is_better): "best"}
        columns.append([measured(m, digits, scale=metric.scale, mark=marks.get(i)) for i, m in enumerate(column)])
    rows = [
        [Cell(system.name), *(column[i] for column in columns), Cell(f"{system.training_points:,}")]
        for i, system in enumerate(report.systems)
    ]
    titles = [f"{arrow(metric)} ({metric.unit})" for metric in shown]
    counts = [f"{m.name.lower()} n = {span(x.n for x in measures(report, m) if x)}" for m in shown]
    caption = (
        f"Mean ± one standard error over n evaluation examples ({', '.join(counts)}); "
        "the error does not cover the variation between training seeds. "
        "↓ lower is better, ↑ higher is better. "
        "Bold: the best, where it leads the next by more than twice the combined standard error √(a² + b²)."
    )
    return Table("results", "", heads("System", *titles, "Training points"), [Group(rows)], caption)


def everything(report: Report) -> list[Table]:
    """Return all tables that there is data for."""
    results = summary_table(report) if report.systems else None
    return [table for table in (results, scoring(report), rejections(report), costs(report)) if table]


def findings(report: Report) -> list[str]:
    """Say what the results are, a sentence a metric: the best system against the best baseline, and the noise."""
    if report.verdict:
        return report.verdict
    sentences = []
    for metric in metrics(report):
        pairs = [(s, m) for s in report.systems if (m := measure_of(s, metric)) and math.isfinite(m.mean)]
        pairs.sort(key=lambda pair: pair[1].mean, reverse=not metric.lower_is_better)
        if len(pairs) < 2:
            continue
        first, a = pairs[0]
        second, b = next((pair for pair in pairs[1:] if pair[0].baseline), pairs[1])
        unit = " %" if metric.unit.startswith("%") else ""
        own, other = (f"{written(m, decimals(report, metric), metric.scale)}{unit}" for m in (a, b))
        if a.mean == b.mean:
            sentences.append(f"{metric.name}: {first.name} and {second.name} are equal, {own}.")
            continue
        extreme = f"{'Lowest' if metric.lower_is_better else 'Highest'} {metric.name.lower()}"
        clear = leader([a, b], metric.lower_is_better) is not None
        verdict = "" if clear else ", a difference within twice the combined standard error"
        sentences.append(f"{extreme}: {first.name}, {own} against {other} ({second.name}){verdict}.")
    if sentences:
        sentences.append("One seed: the errors are over evaluation examples; another seed can differ by more.")
    return sentences


def warnings(report: Report) -> list[str]:
    """Return the warning of each iteration that has one."""
    return [f"Iteration {i.number}: {i.warning}" for i in report.iterations if i.warning]


def to_markdown(report: Report) -> str:
    """Write the results as Markdown: heading, warnings, findings, table, caption."""
    return markdown.document(
        report.run.name, [summary_table(report)], warnings=warnings(report), findings=findings(report)
    )


def scoring(report: Report) -> Table | None:
    """Tabulate what scoring gave, a row an iteration; None where no points were scored."""
    rows, iterations = [], [iteration for iteration in report.iterations if iteration.split]
    for i in iterations:
        scored = len(finite(i.influences))
        share = percent(i.positive_share, 1)
        if i.positive_share_after is not None:
            share += f" → {percent(i.positive_share_after, 1)}"
        momentum = MISSING if i.momentum_influence is None else scientific(i.momentum_influence)
        excluded = f"{len(i.influences) - scored:,}"
        rows.append(cells(f"Iteration {i.number}", f"{scored:,}", excluded, share, momentum, i.split, f"{i.pairs:,}"))
    header = heads("", "Points scored", "Excluded", "Positive", "I(∅)", "Split", "Preference pairs")
    caption = (
        f"Excluded: points without a finite influence. Positive: share of points, before → after the teacher's "
        f"update, where {positive_means(iterations)}. I(∅): influence of a step with zero gradient, in "
        "nats/token. Split: what divides chosen from rejected."
    )
    return Table("scoring", "Scoring by iteration", header, [Group(rows)], caption) if rows else None


def rejections(report: Report) -> Table | None:
    """Tabulate how many generations each filter dropped, the most first."""
    if not report.rejections:
        return None
    counts = sorted(report.rejections.items(), key=lambda item: (-item[1], item[0]))
    total = sum(report.rejections.values())
    rows = [cells(reason, f"{n:,}", percent(n / total) if total else MISSING) for reason, n in counts]
    caption = f"{count(total, 'generation')} of the teacher dropped, by the first filter that caught it."
    return Table("rejections", "Rejected generations", heads("Reason", "Generations", "Share"), [Group(rows)], caption)


def costs(report: Report) -> Table | None:
    """Tabulate what was estimated beside what it took, a row a stage, and all together."""
    if not report.costs:
        return None
    lines = report.costs
    paid = any(cost.usd[1] is not None for cost in lines)
    known = [cost.hours[0] for cost in lines if cost.hours[0] is not None]
    whole = Cost(
        "In all",
        (sum(cost.tokens[0] for cost in lines), sum(cost.tokens[1] for cost in lines)),
        (sum(known) if len(known) == len(lines) else None, sum(cost.hours[1] for cost in lines)),
        (sum(cost.usd[0] or 0 for cost in lines), sum(cost.usd[1] or 0 for cost in lines)) if paid else (None, None),
    )
    rows = []
    for cost in [*(cost for cost in lines if any(cost.tokens) or cost.hours[1] * 3600 >= 1), whole]:
        tokens = [compact(tokens) if tokens else "" for tokens in cost.tokens]
        hours = [MISSING if hours is None else duration(3600 * hours) for hours in cost.hours]
        dollars = ["" if usd is None else f"{usd:.2f}" for usd in cost.usd] if paid else []
        rows.append(cells(cost.stage, *tokens, *hours, *dollars))
    titles = ["Stage", "Teacher tokens, estimated", "actual", "Time, estimated", "actual"]
    titles += ["US dollars, estimated", "actual"] if paid else []
    caption = (
        "Estimated: from the rates of like stages that the store had before this run, else from stated assumptions "
        "(montessori estimate). Teacher tokens: read and written. Time: of all shards, added up. Artifacts that were "
        "already there count as when made."
    )
    return Table("costs", "Estimate and actual", heads(*titles), [Group(rows)], caption)
