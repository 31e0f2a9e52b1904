"""Request the report of a study from the artifacts of its grid, without those that failed."""

from collections.abc import Iterable, Mapping
from typing import Any

from flows.methods.montessori_instruct import System
from flows.requests.builder import Address, Requests, Shards
from flows.requests.study import Grid
from montessori.artifacts import Request
from montessori.settings.base import identity
from montessori.settings.study import ASIDE


def report(grid: Grid, errors: Mapping[Address, str]) -> Request:
    """Return the request of the study's own artifact, kept as `studies/<name>-<digits>`.

    `errors` has the error of each artifact that could not be made.
    """
    inputs: dict[str, list[Address]] = {}
    missing: list[dict[str, Any]] = []

    def is_made(row: str, group: str, student: str, seed: int, *, parts: Iterable[Address]) -> bool:
        """Tell whether all parts were made. Otherwise list the row as missing."""
        error = next((errors[part] for part in parts if part in errors), None)
        if error is not None:
            missing.append({"row": row, "group": group, "student": student, "seed": seed, "error": error})
        return error is None

    def add_inputs(prefix: str, system: System) -> None:
        inputs[f"{prefix}:metrics"], inputs[f"{prefix}:student"] = [system.metrics], [system.student]
        inputs[f"{prefix}:pairs"] = list(system.pairs)

    results: list[dict[str, Any]] = []
    for row in grid.rows:
        if is_made(row.name, row.group, row.student, row.seed, parts=[row.system.metrics]):
            add_inputs(str(len(results)), row.system)
            results.append({"row": row.name, "group": row.group, "student": row.student, "seed": row.seed})
    teacher_steps: list[dict[str, Any]] = []
    for step in grid.teacher_steps:
        name = f"{step.row}, teacher after {step.share:.0%} of its update"
        if is_made(name, ASIDE, "", step.seed, parts=[step.system.metrics, *step.scores]):
            prefix = f"teacher-{len(teacher_steps)}"
            add_inputs(prefix, step.system)
            inputs |= {f"{prefix}:teacher": [step.teacher], f"{prefix}:scores": list(step.scores)}
            teacher_steps.append({"seed": step.seed, "share": step.share})
    student_steps: list[dict[str, Any]] = []
    for checkpoint in grid.student_steps:
        name = f"{checkpoint.row}, student after {checkpoint.share:.0%} of its training"
        if is_made(name, ASIDE, "", checkpoint.seed, parts=checkpoint.scores):
            inputs[f"student-{len(student_steps)}:scores"] = list(checkpoint.scores)
            student_steps.append({"row": checkpoint.row, "seed": checkpoint.seed, "share": checkpoint.share})
    scored = []
    for seed, first in grid.scored.items():
        own = first.iteration.inputs["scores"]
        if is_made("the points of the first iteration", ASIDE, "", seed, parts=own):
            inputs[f"points-{seed}"] = first.iteration.inputs["pairs"]
            for estimator, shards in (_estimators(grid, own) | {first.estimator: own}).items():
                if not any(shard in errors for shard in shards):  # otherwise its row is missing
                    inputs[f"scores-{seed}:{estimator}"] = shards
            scored.append({"seed": seed, "estimator": first.estimator})
    for (student, seed), card in grid.cards.items():
        if is_made("benchmarks", ASIDE, student, seed, parts=[card]):
            inputs[f"card-{seed}:{student}"] = [card]
    study = identity(grid.study)
    assert grid.study.compute, "it is whole"
    study["compute"] = {"threads": grid.study.compute.threads}  # the last bits depend on it on a CPU
    settings = {
        "study": study,
        "run": grid.cells[0][1].settings.model_dump(mode="json", exclude={"store": True, "compute": True}),
        "results": results,
        "missing": missing,
        "teacher_steps": teacher_steps,
        "student_steps": student_steps,
        "scored": scored,
    }
    builder = Requests()
    address = builder.add("study", settings, inputs, seed=0, kept_as=f"studies/{grid.study.name}")
    return builder.by_address[address]


def _estimators(grid: Grid, scores: Shards) -> dict[str, Shards]:
    """Return the scores of the same points by each estimator, with student, reference and settings as in `scores`.

    If an estimator has several sets of shards, the first counts.
    """

    def measured(request: Request) -> Any:
        against = {name: request.inputs[name] for name in ("student", "tokens")}
        gradient = [grid.requests[address] for address in request.inputs.get("gradient", [])]
        reference = request.inputs.get("reference") or gradient[0].inputs["reference"]
        alike = {name: value for name, value in request.settings.items() if name != "estimator"}
        return against, reference, alike

    wanted = measured(grid.requests[scores[0]])
    by_estimator: dict[str, dict[int, Shards]] = {}
    for address, request in grid.requests.items():
        if request.stage == "influence" and measured(request) == wanted:
            by_count = by_estimator.setdefault(request.settings["estimator"], {})
            by_count.setdefault(request.shard[1], []).append(address)
    return {estimator: next(iter(by_count.values())) for estimator, by_count in by_estimator.items()}
