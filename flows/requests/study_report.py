"""A study's own artifact: which of the grid's artifacts it is drawn from, and what is missing in it."""

from collections.abc import Mapping
from typing import Any

from flows.methods.montessori_instruct import System
from flows.requests.builder import Address, Requests, Shards
from flows.requests.study import Grid
from montessori.artifacts import Request
from montessori.settings.base import identity
from montessori.settings.study import ASIDE


def report(grid: Grid, errors: Mapping[Address, str]) -> Request:
    """The study's own artifact, kept as `studies/<name>-<digits>`; `errors` say of what could not be made why not."""
    inputs: dict[str, list[Address]] = {}
    missing: list[dict[str, Any]] = []

    def there(what: str, group: str, student: str, seed: int, *parts: Address) -> bool:
        """Whether all parts were made; else it is missing."""
        error = next((errors[part] for part in parts if part in errors), None)
        if error is not None:
            missing.append({"row": what, "group": group, "student": student, "seed": seed, "error": error})
        return error is None

    def give(prefix: str, system: System) -> None:
        inputs[f"{prefix}:metrics"], inputs[f"{prefix}:student"] = [system.metrics], [system.student]
        inputs[f"{prefix}:pairs"] = list(system.pairs)

    results: list[dict[str, Any]] = []
    for row in grid.rows:
        if there(row.name, row.group, row.student, row.seed, row.system.metrics):
            give(str(len(results)), row.system)
            results.append({"row": row.name, "group": row.group, "student": row.student, "seed": row.seed})
    teacher_steps: list[dict[str, Any]] = []
    for step in grid.teacher_steps:
        what = f"{step.row}, teacher after {step.share:.0%} of its update"
        if there(what, ASIDE, "", step.seed, step.system.metrics, *step.scores):
            prefix = f"teacher-{len(teacher_steps)}"
            give(prefix, step.system)
            inputs |= {f"{prefix}:teacher": [step.teacher], f"{prefix}:scores": list(step.scores)}
            teacher_steps.append({"seed": step.seed, "share": step.share})
    student_steps: list[dict[str, Any]] = []
    for look in grid.student_steps:
        if there(f"{look.row}, student after {look.share:.0%} of its training", ASIDE, "", look.seed, *look.scores):
            inputs[f"student-{len(student_steps)}:scores"] = list(look.scores)
            student_steps.append({"row": look.row, "seed": look.seed, "share": look.share})
    scored = []
    for seed, first in grid.scored.items():
        own = first.iteration.inputs["scores"]
        if there("the points of the first iteration", ASIDE, "", seed, *own):
            inputs[f"points-{seed}"] = first.iteration.inputs["pairs"]
            for estimator, shards in (_estimators(grid, own) | {first.estimator: own}).items():
                if not any(shard in errors for shard in shards):  # else its row is missing
                    inputs[f"scores-{seed}:{estimator}"] = shards
            scored.append({"seed": seed, "estimator": first.estimator})
    for (student, seed), card in grid.cards.items():
        if there("benchmarks", ASIDE, student, seed, card):
            inputs[f"card-{seed}:{student}"] = [card]
    told = identity(grid.study)
    assert grid.study.compute, "it is whole"
    told["compute"] = {"threads": grid.study.compute.threads}  # their number changes last bits on a CPU
    settings = {
        "study": told,
        "run": grid.cells[0][1].settings.model_dump(mode="json", exclude={"store": True, "compute": True}),
        "results": results,
        "missing": missing,
        "teacher_steps": teacher_steps,
        "student_steps": student_steps,
        "scored": scored,
    }
    asked = Requests()
    return asked.by_address[asked.add("study", settings, inputs, seed=0, kept_as=f"studies/{grid.study.name}")]


def _estimators(grid: Grid, scores: Shards) -> dict[str, Shards]:
    """By estimator, what scored the same points as `scores`, by the same student, reference set and settings.

    Of several ways to cut the points into shards the first asked for.
    """

    def measured(request: Request) -> Any:
        against = {name: request.inputs[name] for name in ("student", "tokens")}
        gradient = [grid.requests[address] for address in request.inputs.get("gradient", [])]
        reference = request.inputs.get("reference") or gradient[0].inputs["reference"]
        alike = {name: value for name, value in request.settings.items() if name != "estimator"}
        return against, reference, alike

    wanted = measured(grid.requests[scores[0]])
    found: dict[str, dict[int, Shards]] = {}
    for address, request in grid.requests.items():
        if request.stage == "influence" and measured(request) == wanted:
            by_count = found.setdefault(request.settings["estimator"], {})
            by_count.setdefault(request.shard[1], []).append(address)
    return {estimator: next(iter(by_count.values())) for estimator, by_count in found.items()}
