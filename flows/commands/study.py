"""`montessori study`: a grid of runs, without Prefect, and what its flow shares with it.

In: a study's file.  Out: its tables and figures in the store. A cell that fails stops no other one.
"""

import argparse
import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flows.commands.options import add_settings, add_start, overrides_of
from flows.commands.signals import leaving_at_once
from montessori.errors import InputError, StageError
from montessori.settings import files, shipped

if TYPE_CHECKING:
    from flows.requests.steps import Address
    from flows.requests.study import Grid
    from montessori.artifacts import Request, Store
    from montessori.settings.schema import Compute
    from montessori.settings.study import Study
    from montessori.settings.suite import Suite
    from tasks.runtime.executor import Attempts, Record

EXAMPLES = """examples:
  montessori study pocket                       all systems and ablations, five seeds, half an hour
  montessori study pocket --set 'seeds=[0,1]'   fewer; the same with five seeds then adds three
  montessori study paper-1.1b --dry-run         what it would do
  montessori estimate paper-1.1b                what it would take

A study is a grid of systems, students and seeds on one set of settings. What cells share is made once, what the store
has is not made again, and a cell that fails stops no other one: the same command makes what is missing.
"""


@dataclass(frozen=True)
class Prepared:
    """A study that is ready to start."""

    study: "Study"  # whole
    store: "Store"
    grid: "Grid"
    suite: "Suite | None"

    @property
    def compute(self) -> "Compute":
        """Where stages run."""
        assert self.study.compute, "it is whole"
        return self.study.compute


def add_parser(add: Any) -> None:
    """Add the command; `add` makes a subparser."""
    parser = add(
        "study",
        help="systems × students × seeds, as tables and figures",
        description="Run every system that the paper compares, and draw its tables and figures from these runs.",
        epilog=EXAMPLES,
    )
    parser.add_argument(
        "config",
        metavar="STUDY",
        help=f"a study by name ({', '.join(shipped.names('study'))}), or the path of a YAML file",
    )
    add_settings(parser, "the study, for example change.dpo.beta=0.2 for all its runs")
    add_start(parser, "the grid and what of it is there")


def study(options: argparse.Namespace) -> int:
    """Check, run and show."""
    ready = prepare(options.config, overrides_of(options), not options.dry_run)
    requests = ready.grid.requests

    from rich.console import Console

    from flows.commands import terminal
    from tasks.runtime import places
    from tasks.runtime.executor import watching
    from tasks.runtime.local import Direct

    console = Console()
    if options.dry_run:
        names = dict.fromkeys(name for name, _ in ready.grid.cells)
        terminal.show_grid(console, names, list(requests.values()), ready.store)
        return 0
    check(ready)
    places.check(ready.compute, ready.store)
    ready.store.check_writable()
    place = places.open_place(ready.compute, python_of(ready.grid))
    execution = Direct(ready.store, place, ready.compute, apart=True)
    screen = terminal.Screen(console)
    with screen, watching(screen.watch), leaving_at_once(screen.stop):
        try:
            address = follow(ready, execution)
        finally:
            place.close()
    folder = ready.store.open(address)
    terminal.show_result(console, folder / "result.md")
    console.print(f"\nreport  {folder / 'report.html'}", highlight=False, markup=False, soft_wrap=True)
    console.print(f"study   {ready.store.locate(address)}", highlight=False, markup=False, soft_wrap=True)
    ended(execution)
    return 0


def estimate(options: argparse.Namespace) -> int:
    """What all cells would take together, what they share counted once; and what the judge would."""
    ready = prepare(options.config, overrides_of(options), connect=False)

    from rich.console import Console

    from flows.commands import terminal
    from montessori.evaluation import cost
    from tasks.runtime.estimate import estimate_all

    console = Console()
    with console.status("reading the seeds and the rates of past runs"):
        lines, assumed = estimate_all([(steps.settings, steps.requests) for _, steps in ready.grid.cells], ready.store)
    terminal.show_estimate(console, lines, assumed, ready.study.budget)
    if ready.suite:
        console.print("\nNot in it: the benchmarks (docs/operate.md says what they take).", highlight=False)
        if ready.suite.judge:
            said = cost.sentence(ready.suite, list(ready.grid.requests.values()), ready.store, {})
            console.print(said, highlight=False, soft_wrap=True)
    return 0


def prepare(config: str, overrides: Sequence[str], connect: bool = True) -> Prepared:
    """Everything that the study names, looked at before a process starts. Raises InputError that names the field.

    `connect`: whether the endpoint of the suite's judge and the hub are asked.
    """
    from flows.commands import evaluate
    from flows.requests import study as grid
    from montessori.artifacts import open_store
    from montessori.settings.study import Study

    path = shipped.path_of(config, "study", "STUDY")
    tree = files.read(path)
    if not files.is_study(tree) and "teacher" in tree:
        raise InputError(f"{path}: settings of a run (montessori run {path}); a study names them: settings: {path}")
    _check_names(tree, overrides)
    asked = whole(files.block(Study, files.changed(tree, list(overrides)), str(path)), path)
    store = open_store(asked.store)
    store.check_readable()
    suite: Suite | None = None
    found: dict[str, Address] = {}
    if asked.suite is not None:
        assert asked.compute and isinstance(asked.suite, dict), "it is whole"
        own = {"store": asked.store} | {
            name: getattr(asked, name).model_dump(mode="json") for name in ("compute", "budget")
        }
        try:
            suite, found = evaluate.suited({**asked.suite, **own}, "suite", connect)
        except InputError as error:
            raise InputError(f"{path}: {error}") from None
    planned = grid.plan(asked, str(path), suite, found)
    if suite:
        evaluate.check_benchmarks(suite, planned.requests.values(), store, connect)
    return Prepared(asked, store, planned, suite)


def _check_names(tree: "Mapping[str, Any]", overrides: Sequence[str]) -> None:
    """Raise InputError for an override of something in a student or row that the study's file does not have."""
    for override in overrides:
        field, *names = override.partition("=")[0].split(".")
        there = tree.get(field)
        if field not in ("students", "systems", "ablations") or not isinstance(there, dict) or len(names) < 2:
            continue
        if (name := names[0]) not in there:
            near = difflib.get_close_matches(name, map(str, there), n=1)
            raise InputError(
                f"--set {override}: {field} has no {name}; "
                + (f"did you mean {near[0]}?" if near else f"there are {', '.join(map(str, there)) or 'none'}")
            )


def whole(study: "Study", path: Path) -> "Study":
    """The study with all that its file names in it, so that it can be read without them, in another folder."""
    from flows.commands.evaluate import judged_by
    from montessori.settings.schema import Compute

    settings = study.settings
    if isinstance(settings, str):
        settings = files.read(_named(path, "settings", settings))
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
        suite = files.changed(suite, judged_by(study.judge, f"{path}: judge ="))
    compute = study.compute or files.block(Compute, settings.get("compute", {}), f"{path}: settings.compute")
    told = files.grounded({**study.model_dump(mode="json"), "settings": settings, "suite": suite, "judge": None})
    return files.block(type(study), {**told, "compute": compute}, str(path))


def _named(path: Path, field: str, name: str) -> Path:
    """The file that a field of the study at `path` names: beside it, or as it is."""
    found = next((file for file in (path.parent / name, Path(name)) if file.is_file()), None)
    if found is None:
        raise InputError(f"{path}: {field} = {name}: no such file, neither beside it nor from here")
    return found


def check(ready: Prepared) -> None:
    """Raise InputError when an engine that a cell needs cannot be had."""
    from tasks.runtime import engines

    python_of(ready.grid)
    for _, steps in ready.grid.cells:
        missing = [request for request in steps.requests.values() if not ready.store.exists(request.address)]
        engines.check(steps.settings.model_copy(update={"budget": ready.study.budget}), missing)


def python_of(grid: "Grid") -> str:
    """The interpreter of vLLM's environment, of which all cells have one."""
    named = {steps.settings.generation.vllm.python: None for _, steps in grid.cells}
    if len(named) > 1:
        raise InputError(f"generation.vllm.python: the cells of a study share one; here are {' and '.join(named)}")
    return next(iter(named))


def follow(ready: Prepared, execution: "Attempts") -> "Address":
    """Run all cells, and draw those that were made; the study's address. What failed is for `ended` to say."""
    from flows.requests.study_report import report
    from tasks.runtime.status_writer import Telling

    requests = ready.grid.requests
    planned = report(ready.grid, {})
    with Telling(ready.store, {**requests, planned.address: planned}, execution.records) as telling:
        for request in requests.values():
            execution.submit(request)
        execution.wait()
        broken = failures(requests, execution.records)
        drawn = report(ready.grid, broken)
        telling.instead(planned.address, drawn)
        execution.submit(drawn)
        execution.wait()
        if execution.records[drawn.address].state not in ("done", "cached"):
            ended(execution)
        if broken:
            telling.failed = f"{len(broken)} of {len(requests)} stages and shards could not be made"
    return drawn.address


def ended(execution: "Attempts") -> None:
    """Raise StageError, which names all that failed; whatever it was, the study had been started."""
    try:
        execution.finish()
    except InputError as error:
        raise StageError(str(error)) from None


def failures(requests: "Mapping[Address, Request]", records: "Mapping[Address, Record]") -> "dict[Address, str]":
    """Of what could not be made, why: its own error, or that of the first input which failed."""
    found: dict[Address, str] = {}
    for address, request in requests.items():  # inputs come first
        record = records[address]
        if record.state == "failed":
            found[address] = f"{record.title}: {record.error}"
        else:
            inputs = (one for addresses in request.inputs.values() for one in addresses)
            if broken := next((found[one] for one in inputs if one in found), None):
                found[address] = broken
    return found
