"""The numbers of an evaluation for programs: `metrics.json` and a table of plain numbers.

Means, errors and differences are in the column's unit. There is no NaN: what is unknown is null, or empty.
"""

import math
from dataclasses import asdict
from typing import Any

from montessori.evaluation import published
from montessori.evaluation.bootstrap import Difference, against_baseline
from montessori.evaluation.card import Card, Column, Measure, Score
from montessori.reporting.scorecard.tables import Differences, ordered
from montessori.reporting.tables import Group, Table, cells, error_of, heads, to_csv

FIELDS = ("model", "column", "mean", "standard_error", "n", "unit", "protocol", "unreadable", "source")


def metrics(card: Card, differences: Differences | None = None) -> dict[str, Any]:
    """Return everything that was measured, for `json.dumps`; `differences` where they are known already."""
    gaps = against_baseline(card) if differences is None else differences
    columns = {column.key: column for column in ordered(card)}
    return {
        "evaluation": card.id,
        "name": card.name,
        "columns": [
            {"key": c.key, "name": c.name, "unit": c.unit, "lower_is_better": c.lower_is_better}
            for c in columns.values()
        ],
        "models": {
            model: {key: _score(score, c) for key, c in columns.items() if (score := card.scores.get((model, key)))}
            for model in card.models
        },
        "missing": [
            {"model": model, "column": key, "why": why}
            for model in card.models
            for key in columns
            if (why := card.missing.get((model, key)))
        ],
        "published": _published(card),
        "baseline": card.baseline,
        "comparisons": [
            {"model": model, "column": key, **_difference(gap, columns[key])}
            for key in columns
            for model in card.models
            if (gap := gaps.get((model, key)))
        ],
        "duels": [asdict(duel) for duel in card.duels],
        "overlaps": [{**asdict(overlap), "examples": list(overlap.examples)} for overlap in card.overlaps],
        "judge": card.judge,
        "ability": _ability(card),
        "warnings": list(card.warnings),
        "seed": card.seed,
        "versions": dict(card.versions),
        "usage": {kind: {name: _plain(value) for name, value in used.items()} for kind, used in card.usage.items()},
    }


def numbers(card: Card) -> str:
    """Write a line a model and column as CSV; below them what the paper published, with its source."""
    rows = []
    for model in card.models:
        for column in ordered(card):
            if score := card.scores.get((model, column.key)):
                measure = _measure(score.measure, column).values()
                told = (column.unit, column.protocol, score.unreadable, "measured")
                rows.append(cells(model, column.key, *measure, *told))
    if theirs := _published(card):
        source = f"published: {theirs['source']}, {theirs['students']} students"
        for method, values in theirs["methods"].items():
            for key, value in values.items():
                rows.append(cells(method, key, value["mean"], "", "", value["unit"], "", "", source))
    return to_csv(Table("table", "", heads(*FIELDS), [Group(rows)]))


def _published(card: Card) -> dict[str, Any] | None:
    """Return what the paper has in these columns, apart from what was measured here; None unless requested."""
    if card.published is None:
        return None
    methods: dict[str, dict[str, Any]] = {}
    for column in ordered(card):
        for method, text in published.values(card.published, column).items():
            methods.setdefault(method, {})[column.key] = {"mean": float(text), "unit": column.unit}
    return {"source": published.TITLE, "students": card.published, "methods": methods}


def _score(score: Score, column: Column) -> dict[str, Any]:
    return {
        **_measure(score.measure, column),
        "unit": column.unit,
        "protocol": column.protocol,
        "against": column.baseline,
        "groups": {name: _measure(measure, column) for name, measure in score.groups.items()},
        "turns": {name: _measure(measure, column) for name, measure in score.turns.items()},
        "unreadable": score.unreadable,
        "notes": list(score.notes),
    }


def _measure(measure: Measure, column: Column) -> dict[str, Any]:
    error = error_of(measure, column.scale)
    return {
        "mean": _plain(column.scale * measure.mean),
        "standard_error": None if error is None else _plain(error),
        "n": measure.n,
    }


def _difference(gap: Difference, column: Column) -> dict[str, Any]:
    told = {"difference": gap.mean, "low": gap.low, "high": gap.high}
    scaled = {name: _plain(column.scale * value) for name, value in told.items()}
    return {**scaled, "p_value": _plain(gap.p_value), "n": gap.n, "unit": column.unit}


def _ability(card: Card) -> dict[str, Any] | None:
    return asdict(card.ability) if card.ability else None


def _plain(value: float) -> float | None:
    """Keep ten digits, so that a scale of 100 leaves no dust behind."""
    return float(f"{value:.10g}") if math.isfinite(value) else None
