"""The rows of a study's tables: one a system and student, with a result a seed, tested against the baseline.

In: a `Study`.  Out: `Row`s, and what each metric says of them.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from montessori.errors import InputError
from montessori.evaluation.bootstrap import LEVEL
from montessori.evaluation.card import Column, Measure
from montessori.reporting.study.comparison import Difference, Values, difference, holm, leader, over_seeds
from montessori.reporting.study.data import Missing, Result, Study
from montessori.settings.study import ASIDE, SYSTEMS, TRANSFER

NO_RESULT = "no result, and no error was kept"


@dataclass(frozen=True, eq=False)  # a key of dicts, by identity
class Row:
    """A system and the student that it trained."""

    name: str
    group: str
    student: str
    results: Mapping[int, Result]  # by seed

    def values(self, metric: Column) -> Values:
        """Return the values by seed, where it was measured."""
        values = {seed: result.values.get(metric.key, math.nan) for seed, result in self.results.items()}
        return {seed: value for seed, value in values.items() if math.isfinite(value)}


@dataclass(frozen=True)
class Standing:
    """What one metric says of a row."""

    measure: Measure | None  # over seeds; None where nothing was measured
    difference: Difference | None  # from the baseline, where both share two seeds
    corrected: float  # the p-value by Holm's correction for the rows of the table; NaN where there is no test
    verdict: Literal["better", "worse"] | None  # than the baseline, beyond the noise
    best: bool  # leads every other row of its block beyond the noise


def systems(study: Study) -> list[Row]:
    """Return the rows of table 1."""
    return _rows(study, study.students, [result for result in study.results if result.group == SYSTEMS], {SYSTEMS})


def ablations(study: Study) -> list[Row]:
    """Return the rows of table 2."""
    titles = {one.group for one in study.results} | {one.group for one in study.missing}
    return _rows(
        study,
        study.students,
        [result for result in study.results if result.group != SYSTEMS],
        titles - {SYSTEMS, TRANSFER, ASIDE},
    )


def transferred(study: Study) -> list[Row]:
    """Return the rows of other students, which learn from the systems' data."""
    return _rows(study, [], [replace(result, group=SYSTEMS) for result in study.transfer], set())


def blocks(rows: Sequence[Row]) -> dict[tuple[str, str], list[Row]]:
    """Return the rows that are compared with each other, by group and student, as they stand in a table."""
    members: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        members.setdefault((row.group, row.student), []).append(row)
    return members


def standings(study: Study, rows: Sequence[Row], metric: Column) -> dict[Row, Standing]:
    """Say what `metric` tells of each row of one table."""
    others = {student: baseline(study, rows, student) for student in {row.student for row in rows}}
    gaps = {row: _gap(row, others[row.student], metric) for row in rows}
    corrected = holm({row: gap.p_value for row, gap in gaps.items() if gap})
    best = {
        leader({row: row.values(metric) for row in members}, metric.lower_is_better)
        for members in blocks(rows).values()
    }
    standing = {}
    for row, gap in gaps.items():
        p = corrected.get(row, math.nan)
        verdict: Literal["better", "worse"] | None = None
        if gap and p < LEVEL:
            verdict = "better" if (gap.mean < 0) == metric.lower_is_better else "worse"
        standing[row] = Standing(over_seeds(row.values(metric).values()), gap, p, verdict, row in best)
    return standing


def missing(study: Study) -> list[Missing]:
    """Return every cell without a result: those that failed, and those that nothing is known of."""
    told = {(cell.row, cell.group, cell.student, cell.seed) for cell in study.missing}
    unknown = [
        Missing(row.name, row.student, seed, NO_RESULT, row.group)
        for row in (*systems(study), *ablations(study))
        for seed in study.seeds
        if seed not in row.results and (row.name, row.group, row.student, seed) not in told
    ]
    return [*study.missing, *unknown]


def baseline(study: Study, rows: Sequence[Row], student: str) -> Row | None:
    """Return the row that this student's others are tested against: of the same table, or else of table 1."""
    return next((r for r in (*rows, *systems(study)) if (r.name, r.student) == (study.baseline, student)), None)


def _gap(row: Row, other: Row | None, metric: Column) -> Difference | None:
    if other is None or row.name == other.name:
        return None
    return difference(row.values(metric), other.values(metric))


def _rows(study: Study, students: Sequence[str], results: Sequence[Result], groups: set[str]) -> list[Row]:
    """Gather results by group and student, `students` first; a row of `groups` that only failed stands empty."""
    by_row: dict[tuple[str, str, str], dict[int, Result]] = {}
    for result in results:
        seeds = by_row.setdefault((result.group, result.student, result.row), {})
        if seeds.setdefault(result.seed, result) is not result:
            who = ", ".join(part for part in (result.group, result.row, result.student, f"seed {result.seed}") if part)
            raise InputError(
                f"{who}: there are two results; give one of the rows another name, or, where both are of further "
                "students, leave transfer out of one"
            )
    failed = [cell for cell in study.missing if cell.group in groups]
    names = list(dict.fromkeys([(group, name) for group, _, name in by_row] + [(c.group, c.row) for c in failed]))
    students = list(dict.fromkeys((*students, *(student for _, student, _ in by_row))))
    empty = {(cell.group, cell.student, cell.row) for cell in failed}
    return [
        Row(name, group, student, by_row.get((group, student, name), {}))
        for block in dict.fromkeys(group for group, _ in names)
        for student in students
        for group, name in names
        if group == block and ((group, student, name) in by_row or (group, student, name) in empty)
    ]
