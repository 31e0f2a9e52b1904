"""The numbers of an evaluation for programs: `metrics.json` and a table of plain numbers.

Means, errors and differences are in the column's unit. There is no NaN: what is unknown is null, or empty.
"""

import csv
import io
import math
from dataclasses import asdict
from typing import Any

from montessori.evaluation.bootstrap import Difference, against_baseline
from montessori.evaluation.card import Card, Column, Measure, Score
from montessori.reporting.scorecard.layout import ordered
from montessori.reporting.scorecard.tables import Differences

FIELDS = ("model", "column", "mean", "standard_error", "n", "unit", "protocol", "unreadable")


def metrics(card: Card, differences: Differences | None = None) -> dict[str, Any]:
    """Everything that was measured, for `json.dumps`; `differences` where they are known already."""
    found = against_baseline(card) if differences is None else differences
    columns = {column.key: column for column in ordered(card)}
    return {
        "evaluation": card.id,
        "name": card.name,
        "models": {
            model: {key: _score(score, c) for key, c in columns.items() if (score := card.scores.get((model, key)))}
            for model in card.models
        },
        "baseline": card.baseline,
        "comparisons": [
            {"model": model, "column": key, **_difference(gap, columns[key])}
            for key in columns
            for model in card.models
            if (gap := found.get((model, key)))
        ],
        "duels": [asdict(duel) for duel in card.duels],
        "overlaps": [{**asdict(overlap), "examples": list(overlap.examples)} for overlap in card.overlaps],
        "judge": card.judge,
        "ability": _ability(card),
        "warnings": list(card.warnings),
        "seed": card.seed,
        "versions": dict(card.versions),
        "usage": {name: _plain(value) for name, value in card.usage.items()},
    }


def numbers(card: Card) -> str:
    """A line a model and column, as CSV."""
    out = io.StringIO()
    lines = csv.writer(out, lineterminator="\n")
    lines.writerow(FIELDS)
    for model in card.models:
        for column in ordered(card):
            if score := card.scores.get((model, column.key)):
                told = _measure(score.measure, column).values()
                lines.writerow([model, column.key, *told, column.unit, column.protocol, score.unreadable])
    return out.getvalue()


def _score(score: Score, column: Column) -> dict[str, Any]:
    return {
        **_measure(score.measure, column),
        "unit": column.unit,
        "protocol": column.protocol,
        "against": column.baseline,
        "groups": {name: _measure(measure, column) for name, measure in score.groups.items()},
        "unreadable": score.unreadable,
        "notes": list(score.notes),
    }


def _measure(measure: Measure, column: Column) -> dict[str, Any]:
    mean, error = (_plain(column.scale * value) for value in (measure.mean, measure.standard_error))
    return {"mean": mean, "standard_error": error, "n": measure.n}


def _difference(gap: Difference, column: Column) -> dict[str, Any]:
    told = {"difference": gap.mean, "low": gap.low, "high": gap.high}
    scaled = {name: _plain(column.scale * value) for name, value in told.items()}
    return {**scaled, "p_value": _plain(gap.p_value), "n": gap.n, "unit": column.unit}


def _ability(card: Card) -> dict[str, Any] | None:
    return asdict(card.ability) if card.ability else None


def _plain(value: float) -> float | None:
    """Ten digits, so that a scale of 100 leaves no dust behind."""
    return float(f"{value:.10g}") if math.isfinite(value) else None
