"""Prepare a study: read its file with all that it names, and check it before anything heavy starts."""

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flows.requests import study as grid
from flows.requests import study_report
from flows.requests.builder import Address, Plan
from flows.requests.study import Grid
from flows.requests.suite import check_benchmarks, judge_overrides, suite_of
from montessori.artifacts import open_store
from montessori.errors import InputError
from montessori.settings import files, shipped
from montessori.settings.execution import Compute
from montessori.settings.study import Study
from montessori.settings.suite import Suite
from tasks.runtime import engines, places


@dataclass(frozen=True)
class PreparedStudy:
    """A study that is ready to start."""

    study: Study  # with the settings and the suite that its file names
    grid: Grid
    suite: Suite | None
    plan: Plan  # its last request is the study's own, if no cell fails


def prepare(config: str, overrides: Sequence[str], connect: bool = True) -> PreparedStudy:
    """Check everything that the study names, and plan all its cells. Nothing is started.

    With `connect` the hub and the endpoint of the suite's judge are checked. Raises InputError that names the field.
    """
    path = shipped.path_of(config, "study", "STUDY")
    tree = files.read(path)
    if not files.is_study(tree) and "teacher" in tree:
        raise InputError(f"{path}: settings of a run (montessori run {path}); a study names them: settings: {path}")
    _check_names(tree, overrides)
    study = read_named_files(files.block(Study, files.with_overrides(tree, list(overrides)), str(path)), path)
    store = open_store(study.store)
    store.check_readable()
    suite: Suite | None = None
    addresses: dict[str, Address] = {}
    assert study.compute, "its file is read"
    if study.suite is not None:
        assert isinstance(study.suite, dict), "its file is read"
        own = {"store": study.store} | {
            name: getattr(study, name).model_dump(mode="json") for name in ("compute", "budget")
        }
        try:
            suite, addresses = suite_of({**study.suite, **own}, "suite", connect)
        except InputError as error:
            raise InputError(f"{path}: {error}") from None
    cells = grid.plan(study, str(path), suite, addresses)
    if suite:
        check_benchmarks(suite, cells.requests.values(), store, connect)
    report = study_report.report(cells, {})
    requests = {**cells.requests, report.address: report}
    return PreparedStudy(study, cells, suite, Plan(store, study.compute, vllm_python(cells), requests, report.address))


def check(ready: PreparedStudy) -> None:
    """Raise InputError when an engine or the place cannot be had, or the store cannot be written."""
    cells = [
        (steps.settings, [r for r in steps.requests.values() if not ready.plan.store.exists(r.address)])
        for _, steps in ready.grid.cells
    ]
    for settings, missing in cells:
        engines.check(settings.model_copy(update={"budget": ready.study.budget}), missing)
    places.check(ready.plan.compute, ready.plan.store)
    ready.plan.store.check_writable()
    for settings, missing in cells:
        engines.check_room(settings, missing)


def vllm_python(grid: Grid) -> str:
    """Return the interpreter of vLLM's environment, which all cells share."""
    named = {steps.settings.generation.vllm.python: None for _, steps in grid.cells}
    if len(named) > 1:
        raise InputError(f"generation.vllm.python: the cells of a study share one; here are {' and '.join(named)}")
    return next(iter(named))


def _check_names(tree: Mapping[str, Any], overrides: Sequence[str]) -> None:
    """Raise InputError for an override of a student, system or ablation that is not in the study's file."""
    for override in overrides:
        field, *names = override.partition("=")[0].split(".")
        block = tree.get(field)
        if field not in ("students", "systems", "ablations") or not isinstance(block, dict) or len(names) < 2:
            continue
        if (name := names[0]) not in block:
            near = difflib.get_close_matches(name, map(str, block), n=1)
            raise InputError(
                f"--set {override}: {field} has no {name}; "
                + (f"did you mean {near[0]}?" if near else f"there are {', '.join(map(str, block)) or 'none'}")
            )


def read_named_files(study: Study, path: Path) -> Study:
    """Return the study with the settings and the suite that its file names, so that it needs no other file."""
    settings = study.settings
    if isinstance(settings, str):
        ships = shipped.is_name(settings) and not (path.parent / settings).is_file()
        field = f"{path}: settings"
        settings = files.read(
            shipped.path_of(settings, "settings", field) if ships else _named(path, "settings", settings)
        )
    if "budget" in settings:
        raise InputError(f"{path}: settings.budget: a study has one for all of its cells; set budget there")
    suite = study.suite
    if study.judge and not suite:
        raise InputError(f"{path}: judge: there is no suite that it would judge; add suite: paper")
    if isinstance(suite, str):
        ships = shipped.is_name(suite) and not (path.parent / suite).is_file()
        suite = files.read(shipped.path_of(suite, "suite", f"{path}: suite") if ships else _named(path, "suite", suite))
    if suite is not None:
        if "budget" in suite:
            raise InputError(f"{path}: suite.budget: a study has one for all that it does; set budget there")
        suite = files.with_overrides(suite, judge_overrides(study.judge, f"{path}: judge ="))
    compute = study.compute or files.block(Compute, settings.get("compute", {}), f"{path}: settings.compute")
    fields = {**study.model_dump(mode="json"), "settings": settings, "suite": suite, "judge": None}
    fields = files.with_absolute_paths(fields)
    return files.block(type(study), {**fields, "compute": compute}, str(path))


def _named(path: Path, field: str, name: str) -> Path:
    """Return the file that a field of the study names: beside the study at `path`, or from the working folder."""
    file = next((each for each in (path.parent / name, Path(name)) if each.is_file()), None)
    if file is None:
        raise InputError(f"{path}: {field} = {name}: no such file, neither beside it nor from here")
    return file
