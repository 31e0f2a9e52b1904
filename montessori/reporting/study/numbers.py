"""A study's tables as CSV, for programs: a line a system and student, plain numbers in each metric's unit.

What is unknown is empty.
"""

from collections.abc import Sequence

from montessori.evaluation.card import Column
from montessori.reporting.study.data import Cost, Study
from montessori.reporting.study.rows import Row, Standing, standings
from montessori.reporting.study.tables import average, parts_of
from montessori.reporting.tables import Group, Table, cells, heads, to_csv

FIELDS = ("mean", "se", "n", "difference", "low", "high", "p", "p_corrected")
COSTS = ("teacher_tokens", "writing_s", "scoring_s", "tuning_s", "training_s", "whole_s", "usd")


def files(study: Study) -> dict[str, str]:
    """Return every table as text, by the name of its file."""
    tables = [results(study, name, rows) for name, rows in parts_of(study).items()]
    if study.highest or study.lowest:
        shown = (("highest", study.highest), ("lowest", study.lowest))
        texts = [cells(kind, e.influence, e.instruction, e.response) for kind, points in shown for e in points]
        tables.append(Table("table3", "", heads("kind", "influence", "instruction", "response"), [Group(texts)]))
    if study.hyperparameters:
        blocks = {"": study.hyperparameters, **study.changes}
        told = [cells(where, name, value) for where, block in blocks.items() for name, value in block.items()]
        tables.append(Table("hyperparameters", "", heads("changed_for", "setting", "value"), [Group(told)]))
    return {f"{table.name}.csv": to_csv(table) for table in tables}


def results(study: Study, name: str, rows: Sequence[Row]) -> Table:
    """Tabulate one table. Costs are means over seeds; differences are from the baseline, on the seeds of both."""
    head = ["group", "system", "student", "seeds", "training_points"]
    head += [f"{metric.key}_{field}" for metric in study.metrics for field in FIELDS] + [*COSTS]
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
    """Return the values of COSTS."""
    return [getattr(cost, name) for name in COSTS]
