"""A study's tables as CSV, for programs: a line a system and student, plain numbers in each metric's unit.

What is unknown is empty.
"""

import csv
import io
import math
from collections.abc import Iterable, Sequence

from montessori.reporting.study.data import Cost, Metric, Study
from montessori.reporting.study.rows import Row, Standing, ablations, standings, systems, transferred
from montessori.reporting.study.tables import average, whole

FIELDS = ("mean", "se", "n", "difference", "low", "high", "p", "p_corrected")
COSTS = ("teacher_tokens", "writing_s", "scoring_s", "tuning_s", "training_s", "whole_s", "usd")


def files(study: Study) -> dict[str, str]:
    """Every table as text, by the name of its file."""
    parts = {"table1": systems(study), "table2": ablations(study), "transfer": transferred(study)}
    found = {f"{name}.csv": results(study, rows) for name, rows in parts.items() if rows}
    if study.highest or study.lowest:
        shown = (("highest", study.highest), ("lowest", study.lowest))
        texts = [[kind, _plain(e.influence), e.instruction, e.response] for kind, found in shown for e in found]
        found["table3.csv"] = _csv([["kind", "influence", "instruction", "response"], *texts])
    if study.hyperparameters:
        blocks = {"": study.hyperparameters, **study.changes}
        told = [[where, name, value] for where, block in blocks.items() for name, value in block.items()]
        found["hyperparameters.csv"] = _csv([["changed_for", "setting", "value"], *told])
    return found


def results(study: Study, rows: Sequence[Row]) -> str:
    """One table. Costs are means over seeds; differences are from the baseline, on the seeds that both have."""
    head = ["group", "system", "student", "seeds", "training_points"]
    head += [f"{metric.key}_{field}" for metric in study.metrics for field in FIELDS] + [*COSTS]
    columns = [standings(study, rows, metric).values() for metric in study.metrics]
    lines = []
    for row, *values in zip(rows, *columns, strict=True):
        results = list(row.results.values())
        told: list[object] = [row.group, row.name, row.student, len(results)]
        told.append(_plain(average(result.training_points for result in results)))
        for metric, one in zip(study.metrics, values, strict=True):
            told += _numbers(metric, one)
        told += [_plain(average(known)) for known in zip(*(_costs(r.cost) for r in results), strict=True)]
        lines.append(told + [""] * (len(head) - len(told)))
    return _csv([head, *lines])


def _numbers(metric: Metric, one: Standing) -> list[object]:
    """As FIELDS."""
    measure, gap = one.measure, one.difference
    found: list[object] = ["", "", 0]
    if measure:
        found = [_plain(metric.scale * measure.mean), _plain(metric.scale * measure.standard_error), measure.n]
    if gap is None:
        return [*found, *[""] * 5]
    scaled = [_plain(metric.scale * value) for value in (gap.mean, gap.low, gap.high)]
    return [*found, *scaled, _plain(gap.p_value), _plain(one.corrected)]


def _costs(cost: Cost) -> list[float | None]:
    """As COSTS."""
    seconds = (cost.writing_s, cost.scoring_s, cost.tuning_s, cost.training_s, whole(cost))
    return [cost.teacher_tokens, *seconds, cost.usd]


def _csv(lines: Iterable[Sequence[object]]) -> str:
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows(lines)
    return out.getvalue()


def _plain(value: float) -> float | str:
    """Ten digits, so that a scale of 100 leaves no dust behind."""
    return float(f"{value:.10g}") if math.isfinite(value) else ""
