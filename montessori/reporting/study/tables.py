"""The tables of a study: systems, ablations, transfer, differences from the baseline, examples, what is missing.

In: a `Study`.  Out: `Table`s of written values. What there is nothing of has no table.
"""

import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

from montessori.evaluation import published
from montessori.evaluation.card import Column, Measure
from montessori.reporting.run.data import ScoredPoint
from montessori.reporting.study.data import Cost, Study
from montessori.reporting.study.rows import Row, Standing, ablations, blocks, missing, standings, systems, transferred
from montessori.reporting.tables import (
    MISSING,
    Cell,
    Group,
    Head,
    Table,
    arrow,
    cells,
    digits_of,
    heads,
    measured,
    number,
    p_value,
    span,
    to_csv,
)
from montessori.reporting.text import compact, label, rough_duration, scientific
from montessori.settings.study import ASIDE, SYSTEMS, TRANSFER

SIGNS = {"better": "*", "worse": "†", None: ""}
SHOWN = 160  # characters of an example's text; the page has all of it
COSTS: dict[str, Callable[[Cost], float]] = {
    "Teacher tokens": lambda cost: cost.teacher_tokens,
    "Scoring": lambda cost: cost.scoring_s,
    "Training": lambda cost: cost.tuning_s + cost.training_s,
    "Whole compute": lambda cost: cost.whole_s,
}
FIELDS = ("mean", "se", "n", "difference", "low", "high", "p", "p_corrected")
COST_FIELDS = ("teacher_tokens", "writing_s", "scoring_s", "tuning_s", "training_s", "whole_s", "usd")


def everything(study: Study) -> list[Table]:
    """Return all tables that there is data for, as they are numbered."""
    titles = {"table1": "Systems", "table2": "Ablations", "transfer": "Transfer to other students"}
    numbered = {"table1": "Table 1. ", "table2": "Table 2. "}
    parts = parts_of(study)
    tables = [
        *(results(study, name, numbered.get(name, "") + titles[name], rows) for name, rows in parts.items()),
        *(differences(study, f"differences-{name}", titles[name], rows) for name, rows in parts.items()),
        *(examples(study), hyperparameters(study), failures(study)),
    ]
    return [table for table in tables if table]


def parts_of(study: Study) -> dict[str, list[Row]]:
    """Return the rows of each table that has some, by the table's name."""
    parts = {"table1": systems(study), "table2": ablations(study), "transfer": transferred(study)}
    return {name: rows for name, rows in parts.items() if rows}


def results(study: Study, name: str, title: str, rows: Sequence[Row]) -> Table:
    """Tabulate a row a system and student: its metrics over seeds, how much it has learned from, and what that took."""
    paid = any(result.cost.usd is not None for row in rows for result in row.results.values())
    columns = [_written(study, rows, metric) for metric in study.metrics]
    shown = {
        row: [Cell(row.name), *values, *cells(*_facts(study, row, paid))]
        for row, *values in zip(rows, *columns, strict=True)
    }
    groups = [
        Group([shown[row] for row in members], block_title(group, student))
        for (group, student), members in blocks(rows).items()
    ]
    titles = ("Training points", "Seeds", *COSTS, *(["US dollars"] if paid else []))
    units = ((arrow(metric), [metric.unit] if metric.unit else []) for metric in study.metrics)
    header = [Head("System"), *(Head(*unit) for unit in units), *heads(*titles)]
    if study.published and name == "table1":
        groups += _published(study, len(header))
    return Table(name, title, header, groups, _caption(study, rows, bool(study.published) and name == "table1"))


def differences(study: Study, name: str, title: str, rows: Sequence[Row]) -> Table | None:
    """Tabulate each row minus the baseline, metric by metric."""
    groups = []
    for metric in study.metrics:
        standing = standings(study, rows, metric)
        gaps = [one.difference for one in standing.values() if one.difference]
        digits = _digits(metric, [Measure(gap.mean, (gap.high - gap.low) / 4, gap.n) for gap in gaps])
        for (group, student), members in blocks(rows).items():
            shown = [
                cells(r.name, *_difference(standing[r], metric, digits)) for r in members if standing[r].difference
            ]
            where = block_title(group, student)
            if shown:
                groups.append(
                    Group(shown, f"{f'{where}: ' if where else ''}{arrow(metric)} ({metric.unit or 'score'})")
                )
    if not groups:
        return None
    header = heads("System", "Difference", "95% interval", "p", "p, corrected", "Seeds")
    caption = (
        f"Row minus {study.baseline}, on the seeds that both have: for ↑ a positive difference is better, for ↓ a "
        "negative one. Interval and two-sided p by the paired t-test; corrected: by Holm for the rows of the table. "
        "Where the difference is the same at every seed there is no test."
    )
    return Table(name, f"{title}: differences from {study.baseline}", header, groups, caption)


def examples(study: Study) -> Table | None:
    """Tabulate points of high and of low influence (table 3), their texts cut."""

    def row(point: ScoredPoint) -> list[Cell]:
        return cells(scientific(point.influence, 2), label(point.instruction, SHOWN), label(point.response, SHOWN))

    parts = {"Highest influence": study.highest, "Lowest influence": study.lowest}
    groups = [Group([row(point) for point in points], title) for title, points in parts.items() if points]
    header = [Head("Influence", ["nats/token"]), Head("Instruction", words=True), Head("Response", words=True)]
    caption = "Positive: a step on the point lowers the student's reference loss. Long texts are cut."
    return Table("table3", "Table 3. Examples of high and low influence", header, groups, caption) if groups else None


def hyperparameters(study: Study) -> Table | None:
    """Tabulate what all cells begin with, and what is changed of it for some."""
    if not study.hyperparameters:
        return None

    def group(title: str, settings: Mapping[str, str]) -> Group:
        return Group([cells(name, value) for name, value in settings.items()], title)

    groups = [group("What all cells begin with", study.hyperparameters)]
    groups += [group(f"Changed for {who}", settings) for who, settings in study.changes.items()]
    caption = "What all cells begin with, and below it what the study's file changes for some of them."
    if len(study.students) > 1:
        caption += (
            f" It is shown as student {study.students[0]} has it: what is changed for that one holds for no other."
        )
    header = heads("Setting", "Value", words={"Value"})
    return Table("hyperparameters", "Hyperparameters", header, groups, caption)


def failures(study: Study) -> Table | None:
    """Tabulate the cells without a result, and why."""
    rows = [
        cells(name, cell.student or MISSING, cell.seed, label(cell.error, 2 * SHOWN))
        for cell in missing(study)
        for name in [cell.row if cell.group in (SYSTEMS, TRANSFER, ASIDE) else f"{cell.group}: {cell.row}"]
    ]
    header = heads("System", "Student", "Seed", "Why", words={"Student", "Why"})
    return Table("missing", "Missing results", header, [Group(rows)]) if rows else None


def csv_files(study: Study) -> dict[str, str]:
    """Write every table as CSV for programs, by the name of its file; nothing for what is unknown."""
    tables = [plain_results(study, name, rows) for name, rows in parts_of(study).items()]
    if study.highest or study.lowest:
        shown = (("highest", study.highest), ("lowest", study.lowest))
        texts = [cells(kind, e.influence, e.instruction, e.response) for kind, points in shown for e in points]
        tables.append(Table("table3", "", heads("kind", "influence", "instruction", "response"), [Group(texts)]))
    if study.hyperparameters:
        blocks = {"": study.hyperparameters, **study.changes}
        told = [cells(where, name, value) for where, block in blocks.items() for name, value in block.items()]
        tables.append(Table("hyperparameters", "", heads("changed_for", "setting", "value"), [Group(told)]))
    return {f"{table.name}.csv": to_csv(table) for table in tables}


def plain_results(study: Study, name: str, rows: Sequence[Row]) -> Table:
    """Tabulate plain numbers in each metric's unit.

    Costs are means over seeds. Differences are from the baseline, on the seeds that both have.
    """
    head = ["group", "system", "student", "seeds", "training_points"]
    head += [f"{metric.key}_{field}" for metric in study.metrics for field in FIELDS] + [*COST_FIELDS]
    columns = [standings(study, rows, metric).values() for metric in study.metrics]
    lines = []
    for row, *values in zip(rows, *columns, strict=True):
        results = list(row.results.values())
        told: list[object] = [row.group, row.name, row.student, len(results)]
        told.append(average(result.training_points for result in results))
        for metric, one in zip(study.metrics, values, strict=True):
            told += _numbers(metric, one)
        told += [average(costs) for costs in zip(*(_costs(r.cost) for r in results), strict=True)]
        lines.append(cells(*told, *[""] * (len(head) - len(told))))
    return Table(name, "", heads(*head), [Group(lines)])


def _numbers(metric: Column, one: Standing) -> list[object]:
    """Return the values of FIELDS."""
    measure, gap = one.measure, one.difference
    told: list[object] = ["", "", 0]
    if measure:
        told = [metric.scale * measure.mean, metric.scale * measure.standard_error, measure.n]
    if gap is None:
        return [*told, *[""] * 5]
    scaled = [metric.scale * value for value in (gap.mean, gap.low, gap.high)]
    return [*told, *scaled, gap.p_value, one.corrected]


def _costs(cost: Cost) -> list[float | None]:
    """Return the values of COST_FIELDS."""
    return [getattr(cost, name) for name in COST_FIELDS]


def average(numbers: Iterable[float | None]) -> float:
    """Return the mean of the known numbers; NaN of none."""
    known = [number for number in numbers if number is not None]
    return statistics.fmean(known) if known else math.nan


def _written(study: Study, rows: Sequence[Row], metric: Column) -> list[Cell]:
    """Write one column."""
    standing = standings(study, rows, metric)
    digits = _digits(metric, [one.measure for one in standing.values() if one.measure])
    column = []
    for row, one in standing.items():
        fewer = one.measure is not None and one.measure.n < len(row.results)
        note = f"(n = {one.measure.n})" if one.measure and fewer else ""
        cell = measured(one.measure, digits, scale=metric.scale, mark="best" if one.best else None)
        column.append(replace(cell, value=cell.value + SIGNS[one.verdict], note=note))
    return column


def _facts(study: Study, row: Row, paid: bool) -> list[str]:
    """Write points, seeds and costs."""
    results = list(row.results.values())
    seeds = f"{len(results)} of {len(study.seeds)}" if len(results) < len(study.seeds) else f"{len(results)}"
    if not results:
        return [MISSING, seeds, *[MISSING] * (len(COSTS) + paid)]
    tokens, *seconds = (average(read(result.cost) for result in results) for read in COSTS.values())
    costs = [compact(tokens), *(rough_duration(s) if s else "0" for s in seconds)]
    dollars = average(result.cost.usd for result in results)
    costs += [f"{dollars:.2f}" if math.isfinite(dollars) else MISSING] if paid else []
    return [span(result.training_points for result in results), seeds, *costs]


def _published(study: Study, width: int) -> list[Group]:
    """Return the paper's rows beside each student that has some."""
    beside: dict[tuple[str, str], list[list[Cell]]] = {}
    for p in study.published:
        values = [p.row, *(_theirs(p.values.get(m.key), m) for m in study.metrics)]
        beside.setdefault((p.student, p.size), []).append(cells(*values, *[MISSING] * (width - len(values))))
    titles = {key: f"Published, {key[1]} students" + (f", beside {key[0]}" if key[0] else "") for key in beside}
    return [Group(rows, f"{titles[key]}: {published.TITLE}", published=True) for key, rows in beside.items()]


def _difference(one: Standing, metric: Column, digits: int) -> list[str]:
    gap = one.difference
    assert gap
    mean, low, high = (number(metric.scale * v, digits, signed=True) for v in (gap.mean, gap.low, gap.high))
    interval = f"{low} to {high}" if math.isfinite(gap.low) else MISSING
    return [mean, interval, p_value(gap.p_value), p_value(one.corrected), str(gap.n)]


def _caption(study: Study, rows: Sequence[Row], with_published: bool) -> str:
    sentences = ["Mean ± one standard error over seeds.", "↑ higher is better, ↓ lower is better."]
    if any(len(row.results) > 1 for row in rows):
        sentences += [
            f"* better, † worse than {study.baseline} (paired t-test over the seeds that both have, p < 0.05 after "
            "Holm's correction for the rows of the table).",
            "Bold: better than every other row of its block in the same way. "
            "Rows without a mark are not shown to be equal.",
        ]
    else:
        sentences[0] = "One seed: there is no standard error, and nothing is tested or marked."
    sentences.append(
        "Costs are means over seeds of what one seed takes, from the base models on: teacher tokens read and written, "
        "without those of another judge; scoring with the warm-up that it needs; training of teacher and student; "
        "whole compute: these and the teacher's writing."
    )
    if not any(row.name == study.baseline for row in rows):
        sentences.append(f"{study.baseline} stands in table 1.")
    if with_published:
        sentences.append("Published: with other models, data and judges, and without errors; not compared.")
    return " ".join(sentences)


def block_title(group: str, student: str) -> str:
    """Return the title above rows that are compared with each other; nothing above a single block of systems."""
    if not student:
        return group
    return f"{group}, student {student}" if group else f"Student {student}"


def _digits(metric: Column, measures: Sequence[Measure]) -> int:
    """Return two digits of the smallest error; where there is none, three of small numbers and one of others."""
    small = all(abs(metric.scale * m.mean) < 10 for m in measures)
    return digits_of(measures, metric.scale, without_errors=3 if small else 1)


def _theirs(value: float | None, metric: Column) -> str:
    digits = 3 if published.column_of(metric) == "mt_bench" else 2
    return MISSING if value is None else number(value, digits)
