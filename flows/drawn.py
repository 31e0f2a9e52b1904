"""A study's own artifact: which of the grid's artifacts it is drawn from, and what is missing in it."""

import json
from collections.abc import Mapping
from typing import Any

from flows.grid import Grid
from flows.iteration import System
from montessori.artifacts import Request
from montessori.study import Change, Study
from tasks.steps import Address, Shards, ask


def report(grid: Grid, tree: Change, errors: Mapping[Address, str]) -> Request:
    """The study's own artifact, kept as `studies/<name>-<digits>`; `errors` say of what could not be made why not."""
    missing = set(errors)
    inputs: dict[str, list[Address]] = {}

    def there(*parts: Address | None) -> bool:
        return not missing.intersection(part for part in parts if part)

    def give(prefix: str, system: System) -> None:
        inputs[f"{prefix}:metrics"], inputs[f"{prefix}:student"] = [system.metrics], [system.student]
        inputs[f"{prefix}:pairs"] = list(system.pairs)

    results: list[dict[str, Any]] = []
    without: list[dict[str, Any]] = []
    for row in grid.rows:
        told = {"row": row.name, "group": row.group, "student": row.student, "seed": row.seed}
        if not there(row.system.metrics):
            without.append({**told, "error": errors[row.system.metrics]})
            continue
        give(str(len(results)), row.system)
        results.append(told)
    teacher_steps = [one for one in grid.teacher_steps if one.system and there(one.system.metrics, *one.scores)]
    for number, one in enumerate(teacher_steps):
        assert one.system and one.teacher, "it is of a teacher"
        give(f"teacher-{number}", one.system)
        inputs |= {f"teacher-{number}:teacher": [one.teacher], f"teacher-{number}:scores": list(one.scores)}
    student_steps = [one for one in grid.student_steps if there(*one.scores)]
    for number, one in enumerate(student_steps):
        inputs[f"student-{number}:scores"] = list(one.scores)
    scored = {seed: one.inputs for seed, one in grid.scored.items() if there(*one.inputs["scores"])}
    for seed, made in scored.items():
        inputs[f"points-{seed}"] = made["pairs"]
        for estimator, shards in _estimators(grid, made["scores"]).items():
            if there(*shards):
                inputs[f"scores-{seed}:{estimator}"] = shards
    for (student, seed), card in grid.cards.items():
        if there(card):
            inputs[f"card-{seed}:{student}"] = [card]
    settings = {
        "study": whole(grid.study, tree),
        "run": grid.cells[0].settings.model_dump(mode="json", exclude={"store": True, "compute": True}),
        "results": results,
        "missing": without,
        "teacher_steps": [{"seed": one.seed, "share": one.share} for one in teacher_steps],
        "student_steps": [{"row": one.row, "seed": one.seed, "share": one.share} for one in student_steps],
        "scored": list(scored),
    }
    request = ask("study", "study", settings, inputs, 0)
    return request.model_copy(update={"kept_as": f"studies/{grid.study.name}-{request.fingerprint[:8]}"})


def _estimators(grid: Grid, scores: Shards) -> dict[str, Shards]:
    """By estimator, all that scored the very points that `scores` are of."""
    tokens = grid.requests[scores[0]].inputs["tokens"]
    found: dict[str, Shards] = {}
    for address, request in grid.requests.items():
        if request.stage == "influence" and request.inputs["tokens"] == tokens:
            found.setdefault(request.settings["estimator"], []).append(address)
    return found


def whole(study: Study, tree: Change) -> dict[str, Any]:
    """The study with its settings in it, so that it needs no other file: without what changes no artifact."""
    told: dict[str, Any] = json.loads(study.model_dump_json(exclude={"store": True, "compute": True, "budget": True}))
    return {**told, "settings": tree}
