"""The tables of a study: systems, ablations, transfer, differences from the baseline, examples, what is missing.

In: a `Study`.  Out: `Table`s of written values. What there is nothing of has no table.
"""

import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence

from montessori.evaluation import published
from montessori.evaluation.card import Column, Measure
from montessori.reporting.scorecard.layout import (
    MISSING,
    Cell,
    Group,
    Head,
    Table,
    arrow,
    digits_of,
    number,
    span,
    written,
)
from montessori.reporting.study.data import Cost, Metric, Study
from montessori.reporting.study.rows import (
    Row,
    Standing,
    ablations,
    blocks,
    missing,
    standings,
    systems,
    transferred,
)
from montessori.reporting.text import compact, label, rough_duration, scientific
from montessori.settings.study import ASIDE, SYSTEMS, TRANSFER

SIGNS = {"better": "*", "worse": "†", None: ""}
SHOWN = 160  # characters of an example's text; the page has all of it


def whole(cost: Cost) -> float:
    """Seconds of computing."""
    return cost.writing_s + cost.scoring_s + cost.tuning_s + cost.training_s


COSTS: dict[str, Callable[[Cost], float]] = {
    "Teacher tokens": lambda cost: cost.teacher_tokens,
    "Scoring": lambda cost: cost.scoring_s,
    "Training": lambda cost: cost.tuning_s + cost.training_s,
    "Whole compute": whole,
}


def everything(study: Study) -> list[Table]:
    """All tables that there is data for, as they are numbered."""
    titles = {"table1": "Systems", "table2": "Ablations", "transfer": "Transfer to other students"}
    numbered = {"table1": "Table 1. ", "table2": "Table 2. "}
    parts = {"table1": systems(study), "table2": ablations(study), "transfer": transferred(study)}
    tables = [results(study, name, numbered.get(name, "") + titles[name], rows) for name, rows in parts.items() if rows]
    gaps = [differences(study, f"differences-{name}", titles[name], rows) for name, rows in parts.items() if rows]
    tables += [table for table in gaps if table]
    tables += [table for table in (examples(study), hyperparameters(study), failures(study)) if table]
    return tables


def results(study: Study, name: str, title: str, rows: Sequence[Row]) -> Table:
    """A row a system and student: its metrics over seeds, how much it has learned from, and what that took."""
    paid = any(result.cost.usd is not None for row in rows for result in row.results.values())
    columns = [_written(study, rows, metric) for metric in study.metrics]
    cells = {
        row: [Cell(row.name), *values, *map(Cell, _facts(study, row, paid))]
        for row, *values in zip(rows, *columns, strict=True)
    }
    groups = [
        Group([cells[row] for row in members], block_title(group, student))
        for (group, student), members in blocks(rows).items()
    ]
    heads = [Head("System"), *(_head(metric) for metric in study.metrics), Head("Training points"), Head("Seeds")]
    heads += [Head(title) for title in (*COSTS, *(["US dollars"] if paid else []))]
    if study.published and name == "table1":
        groups += _published(study, len(heads))
    return Table(name, title, heads, groups, _caption(study, rows, bool(study.published) and name == "table1"))


def differences(study: Study, name: str, title: str, rows: Sequence[Row]) -> Table | None:
    """Each row minus the baseline, metric by metric."""
    groups = []
    for metric in study.metrics:
        column = _column(metric)
        found = standings(study, rows, metric)
        gaps = [one.difference for one in found.values() if one.difference]
        digits = _digits(column, [Measure(gap.mean, (gap.high - gap.low) / 4, gap.n) for gap in gaps])
        for (group, student), members in blocks(rows).items():
            shown = [[Cell(r.name), *_difference(found[r], metric, digits)] for r in members if found[r].difference]
            where = block_title(group, student)
            if shown:
                groups.append(
                    Group(shown, f"{f'{where}: ' if where else ''}{arrow(column)} ({metric.unit or 'score'})")
                )
    if not groups:
        return None
    heads = [Head(t) for t in ("System", "Difference", "95% interval", "p", "p, corrected", "Seeds")]
    caption = (
        f"Row minus {study.baseline}, on the seeds that both have: for ↑ a positive difference is better, for ↓ a "
        "negative one. Interval and two-sided p by the paired t-test; corrected: by Holm for the rows of the table. "
        "Where the difference is the same at every seed there is no test."
    )
    return Table(name, f"{title}: differences from {study.baseline}", heads, groups, caption)


def examples(study: Study) -> Table | None:
    """Table 3: points of high and of low influence, their texts cut."""
    parts = {"Highest influence": study.highest, "Lowest influence": study.lowest}
    groups = [
        Group([[Cell(scientific(e.influence, 2)), *(Cell(label(t, SHOWN)) for t in (e.instruction, e.response))]
               for e in found], title)
        for title, found in parts.items() if found
    ]  # fmt: skip
    heads = [Head("Influence", ["nats/token"]), Head("Instruction"), Head("Response")]
    caption = "Positive: a step on the point lowers the student's reference loss. Long texts are cut."
    title = "Table 3. Examples of high and low influence"
    return Table("table3", title, heads, groups, caption, frozenset({0, 1, 2})) if groups else None


def hyperparameters(study: Study) -> Table | None:
    """What all cells begin with, and what is changed of it for some."""
    if not study.hyperparameters:
        return None

    def group(title: str, settings: Mapping[str, str]) -> Group:
        return Group([[Cell(name), Cell(value)] for name, value in settings.items()], title)

    groups = [group("What all cells begin with", study.hyperparameters)]
    groups += [group(f"Changed for {who}", settings) for who, settings in study.changes.items()]
    caption = "What all cells begin with, and below it what the study's file changes for some of them."
    if len(study.students) > 1:
        caption += (
            f" It is shown as student {study.students[0]} has it: what is changed for that one holds for no other."
        )
    heads = [Head("Setting"), Head("Value")]
    return Table("hyperparameters", "Hyperparameters", heads, groups, caption, frozenset({0, 1}))


def failures(study: Study) -> Table | None:
    """The cells without a result, and why."""
    rows = [
        [Cell(name), Cell(cell.student or MISSING), Cell(str(cell.seed)), Cell(label(cell.error, 2 * SHOWN))]
        for cell in missing(study)
        for name in [cell.row if cell.group in (SYSTEMS, TRANSFER, ASIDE) else f"{cell.group}: {cell.row}"]
    ]
    heads = [Head(title) for title in ("System", "Student", "Seed", "Why")]
    return Table("missing", "Missing results", heads, [Group(rows)], "", frozenset({0, 1, 3})) if rows else None


def average(numbers: Iterable[float | None]) -> float:
    """The mean of those that are known; NaN of none."""
    found = [number for number in numbers if number is not None]
    return statistics.fmean(found) if found else math.nan


def _written(study: Study, rows: Sequence[Row], metric: Metric) -> list[Cell]:
    """One column."""
    column = _column(metric)
    found = standings(study, rows, metric)
    digits = _digits(column, [one.measure for one in found.values() if one.measure])
    cells = []
    for row, one in found.items():
        mean, sign, error = written(one.measure, column, digits).partition(" ± ")
        fewer = one.measure is not None and one.measure.n < len(row.results)
        text = f"{mean}{SIGNS[one.verdict]}{sign}{error}" + (f" (n = {one.measure.n})" if one.measure and fewer else "")
        cells.append(Cell(text, "best" if one.best else None))
    return cells


def _facts(study: Study, row: Row, paid: bool) -> list[str]:
    """Points, seeds and costs."""
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
    """The paper's rows beside each student that has some."""
    found: dict[tuple[str, str], list[list[Cell]]] = {}
    for p in study.published:
        cells = [Cell(p.row), *(Cell(_theirs(p.values.get(m.key), m)) for m in study.metrics)]
        found.setdefault((p.student, p.size), []).append(cells + [Cell(MISSING)] * (width - len(cells)))
    titles = {key: f"Published, {key[1]} students" + (f", beside {key[0]}" if key[0] else "") for key in found}
    return [Group(rows, f"{titles[key]}: {published.TITLE}", published=True) for key, rows in found.items()]


def _difference(one: Standing, metric: Metric, digits: int) -> list[Cell]:
    gap = one.difference
    assert gap
    mean, low, high = (number(metric.scale * v, digits, signed=True) for v in (gap.mean, gap.low, gap.high))
    interval = f"{low} to {high}" if math.isfinite(gap.low) else MISSING
    return [Cell(text) for text in (mean, interval, p_value(gap.p_value), p_value(one.corrected), str(gap.n))]


def p_value(p: float) -> str:
    """0.043, or < 0.001."""
    return MISSING if math.isnan(p) else "< 0.001" if p < 0.001 else f"{p:.3f}"


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
    """What stands above the rows that are compared with each other; nothing where there is one block of systems."""
    if not student:
        return group
    return f"{group}, student {student}" if group else f"Student {student}"


def _head(metric: Metric) -> Head:
    return Head(arrow(_column(metric)), [metric.unit] if metric.unit else [])


def _column(metric: Metric) -> Column:
    return Column(metric.title, metric.key, metric.unit, metric.lower_is_better, metric.scale)


def _digits(column: Column, measures: Sequence[Measure]) -> int:
    """Two digits of the smallest error; where there is none, three of small numbers and one of others."""
    if any(math.isfinite(m.standard_error) and m.standard_error > 0 for m in measures):
        return digits_of(column, measures)
    return 3 if all(abs(column.scale * m.mean) < 10 for m in measures) else 1


def _theirs(value: float | None, metric: Metric) -> str:
    digits = 3 if published.column_of(_column(metric)) == "mt_bench" else 2
    return MISSING if value is None else number(value, digits)
