"""Plan a study: a grid of cells, each the run of a system with one student and one seed.

Cells share requests with the same address, for example the data of Self-Instruct or a warmed-up student.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from flows.methods.montessori_instruct import Iteration, System, measure_untrained, request_base, self_instruct
from flows.requests import evaluation
from flows.requests.builder import Address, Requests, Shards
from flows.requests.steps import Steps
from flows.requests.systems import METHODS, request_transfer
from montessori.artifacts import Request
from montessori.data import sources
from montessori.errors import InputError
from montessori.evaluation.subjects import REFERENCE, Subject
from montessori.settings import files
from montessori.settings.models import Model
from montessori.settings.study import NO_FINE_TUNING, SELF_INSTRUCT, SYSTEMS, TRANSFER, Change, Study
from montessori.settings.suite import Suite
from tasks.runtime import engines

STEP_CHANGE: Change = {"iterations": 1, "influence": {"after": True}}  # of a cell, for a step of its teacher
UPDATED_BY = {"instructions": "dpo", "responses": "dpo", "bootstrap": "bootstrap"}  # the settings block of each update


@dataclass(frozen=True)
class Entry:
    """A system or a row of an ablation in the study's file, for any student and seed."""

    name: str
    group: str  # SYSTEMS, or the ablation's title
    change: Change
    where: str  # its place in the file


@dataclass(frozen=True)
class Row:
    """A row of a table, for one student and one seed."""

    name: str
    group: str  # as of an entry, or TRANSFER
    student: str
    seed: int
    system: System


@dataclass(frozen=True)
class StudentStep:
    """A student after a share of its training, with the influence of its training set."""

    row: str
    seed: int
    share: float
    scores: Shards


@dataclass(frozen=True)
class TeacherStep:
    """A teacher after a share of its update, with the student of its data."""

    row: str
    seed: int
    share: float
    scores: Shards
    system: System
    teacher: Address


@dataclass(frozen=True)
class Scored:
    """The first iteration that measures influence. The figures show its points."""

    iteration: Iteration
    estimator: str


@dataclass
class Grid:
    """All requests of a study, with the rows, steps and scorecards that they belong to."""

    study: Study
    builder: Requests = field(default_factory=Requests)
    rows: list[Row] = field(default_factory=list)
    teacher_steps: list[TeacherStep] = field(default_factory=list)
    student_steps: list[StudentStep] = field(default_factory=list)
    scored: dict[int, Scored] = field(default_factory=dict)  # by seed
    cards: dict[tuple[str, int], Address] = field(default_factory=dict)  # the scorecard of a student and seed
    cells: list[tuple[str, Steps]] = field(default_factory=list)  # by name; one may have several

    @property
    def requests(self) -> dict[Address, Request]:
        """Return all requests, each once. A shared request belongs to the first cell."""
        return self.builder.by_address


def plan(study: Study, where: str, suite: Suite | None, addresses: dict[str, Address]) -> Grid:
    """Return the grid of a `study` that holds all its settings.

    `suite` measures the students of the systems; `addresses` are those of its sources. Raises InputError for a wrong
    cell, with a message that begins with `where`.
    """
    grid = Grid(study)
    cells = _Cells(study, where, grid)
    for entry in entries(study):
        for student in study.students if entry.group == SYSTEMS else list(study.students)[:1]:
            for seed in study.seeds:
                _add_cell(grid, cells, entry, student=student, seed=seed)
    _check_rows(grid, where)
    for _, steps in grid.cells:
        for address, request in steps.requests.items():
            grid.requests.setdefault(address, request)
    if suite:
        for student in study.students:
            for seed in study.seeds:
                _add_benchmarks(grid, suite, addresses, student=student, seed=seed)
    grid.builder.set_budget(study.budget)
    return grid


def entries(study: Study) -> Iterator[Entry]:
    """Yield the parts of the grid, in the order of the tables' rows."""
    yield Entry(SELF_INSTRUCT, SYSTEMS, {"iterations": 0}, "settings")
    for name, change in study.systems.items():
        yield Entry(name, SYSTEMS, change, f"systems.{name}")
    for group, members in study.ablations.items():
        for name, change in members.items():
            yield Entry(name, group, merge({"iterations": 1}, change), f"ablations.{group}.{name}")


def merge(tree: Mapping[str, Any], change: Mapping[str, Any]) -> Change:
    """Return `tree` with the values of `change`, block by block."""
    result = dict(tree)
    for key, value in change.items():
        below = result.get(key)
        result[key] = merge(below, value) if isinstance(below, dict) and isinstance(value, dict) else value
    return result


def _check_rows(grid: Grid, where: str) -> None:
    """Raise InputError for two rows of one name, or for teacher steps without a system that measures influence."""
    names = Counter((row.name, row.group, row.student, row.seed) for row in grid.rows)
    for (name, group, *_), count in names.items():
        if count > 1:
            remedy = "set transfer in one system alone" if group == TRANSFER else "give one of them another name"
            raise InputError(f"{where}: two rows are called {name}; {remedy}")
    if grid.study.suite and any(row.name == REFERENCE for row in grid.rows):
        raise InputError(f"{where}: systems.{REFERENCE}: means AlpacaEval's own answers; give it another name")
    if grid.study.teacher_steps and not grid.teacher_steps:
        raise InputError(f"{where}: teacher_steps: no system measures influence, whose teacher could be looked at")


class _Cells:
    """Creates the steps of cells, and adds them to the grid."""

    def __init__(self, study: Study, where: str, grid: Grid):
        assert isinstance(study.settings, dict), "its file is read"
        self._study, self._grid, self._where = study, grid, where
        self._tree = merge(study.settings, study.change)
        self._sources: dict[str, dict[str, str]] = {}
        self._others: dict[str, Model] = {}  # further students, by name

    def steps(self, entry: Entry, student: str, seed: int, more: Change | None = None) -> Steps:
        """Return the steps of one cell, with a further change `more`."""
        tree = merge(merge(merge(self._tree, self._study.students[student]), entry.change), more or {})
        tree |= {"name": self._study.name, "seed": seed, "store": self._study.store}
        assert self._study.compute, "its file is read"
        tree["compute"] = self._study.compute.model_dump(mode="json")
        where = f"{self._where}: {entry.where}" + (f" with students.{student}" if student else "")
        try:
            settings = engines.resolve(files.parse(tree, where))
        except InputError as error:
            raise self._find_layer(str(error).removeprefix(where), student) or error from None
        for name, model in settings.transfer.items():
            if name in self._study.students:
                raise InputError(f"{where}: transfer.{name}: a student of the study is called so; give it another name")
            if self._others.setdefault(name, model) != model:
                raise InputError(f"{where}: transfer.{name} is another student elsewhere; give it another name")
        key = settings.model_copy(update={"seed": 0}).model_dump_json()
        if key not in self._sources:
            try:
                self._sources[key] = sources.addresses(settings)
            except InputError as error:
                raise InputError(f"{where}: {error}") from None
        name = entry.name if entry.group == SYSTEMS else f"{entry.group}: {entry.name}"
        cell = ", ".join(part for part in (name, student, f"seed {seed}") if part)
        steps = Steps(settings, self._sources[key], cell)
        self._grid.cells.append((cell, steps))
        return steps

    def _find_layer(self, sentence: str, student: str) -> InputError | None:
        """Return the error `sentence` for the first layer of settings that has it, or None if only the cell has it."""
        assert isinstance(self._study.settings, dict), "its file is read"
        own = merge(self._tree, self._study.students[student])
        layers = {"settings": self._study.settings, "change": self._tree, f"students.{student}": own}
        for layer, tree in layers.items():
            where = f"{self._where}: {layer}"
            try:
                files.parse({**tree, "name": self._study.name}, where)
            except InputError as error:
                if str(error).removeprefix(where) == sentence:
                    return error
        return None


def _add_cell(grid: Grid, cells: _Cells, entry: Entry, *, student: str, seed: int) -> None:
    """Add one cell, with the steps of its teacher and student."""
    steps = cells.steps(entry, student, seed)
    start = request_base(steps)

    def add_row(name: str, group: str, system: System) -> None:
        grid.rows.append(Row(name, group, student, seed, system))

    def add_transfer(systems: dict[str, System]) -> None:
        if steps.settings.transfer and student == next(iter(grid.study.students)):
            names = {system.name: name for name, system in systems.items()}
            for other, system in request_transfer(steps, start, list(systems.values())):
                row = Row(names.get(system.name, system.name), TRANSFER, other, seed, system)
                if row not in grid.rows:  # several systems bring the row of Self-Instruct
                    grid.rows.append(row)

    unchanged = self_instruct(steps, start) if not steps.settings.iterations or steps.settings.transfer else None
    if not steps.settings.iterations:
        assert unchanged
        if entry.name == SELF_INSTRUCT:
            add_row(NO_FINE_TUNING, SYSTEMS, measure_untrained(steps, start))
            row = Row(entry.name, entry.group, student, seed, unchanged)
            _add_student_steps(grid, steps, student=start.student, reference=start.reference, row=row)
        add_row(entry.name, entry.group, unchanged)
        add_transfer({entry.name: unchanged})
        return
    iterations = METHODS[steps.settings.method](steps, start)
    if entry.group == SYSTEMS:
        for iteration in iterations:
            name = f"{entry.name}, iteration {iteration.number}" if len(iterations) > 1 else entry.name
            add_row(name, entry.group, iteration.system)
    else:
        add_row(entry.name, entry.group, iterations[-1].system)
    first = steps.settings.method == "montessori" and student == next(iter(grid.study.students))
    if first and seed not in grid.scored and "scores" in iterations[0].inputs:
        grid.scored[seed] = Scored(iterations[0], steps.settings.influence.estimator)
        row = Row(grid.rows[-1].name, entry.group, student, seed, iterations[-1].system)
        _add_student_steps(grid, steps, student=start.student, reference=start.reference, row=row)
        for share in grid.study.teacher_steps:
            update = UPDATED_BY[steps.settings.update]
            part = cells.steps(entry, student, seed, {**STEP_CHANGE, update: {"stop": share}})
            (iteration,) = METHODS["montessori"](part, request_base(part))
            scores = iteration.inputs.get("scores-after", [])
            assert iteration.teacher, "this method updates it"
            step = TeacherStep(entry.name, seed, share, scores, iteration.system, iteration.teacher)
            grid.teacher_steps.append(step)
    if unchanged:
        add_transfer({SELF_INSTRUCT: unchanged, entry.name: iterations[-1].system})


def _add_student_steps(grid: Grid, steps: Steps, *, student: Address, reference: Address, row: Row) -> None:
    """Add the influence of its training set on the student of `row` during training, for the first student."""
    if row.student != next(iter(grid.study.students)):
        return
    for share in grid.study.student_steps:
        who = row.system.who.within(f"{share:.0%} trained")
        checkpoint = steps.checkpoint(student, row.system.pairs, share, who)
        inputs = steps.reference_inputs(checkpoint, reference, who)
        scores = steps.influence(checkpoint, inputs, row.system.pairs, file="pairs.parquet", who=who)
        grid.student_steps.append(StudentStep(row.name, row.seed, share, scores))


def _add_benchmarks(grid: Grid, suite: Suite, addresses: dict[str, Address], *, student: str, seed: int) -> None:
    """Add the benchmarks of all systems with one student and seed."""
    rows = [row for row in grid.rows if (row.group, row.student, row.seed) == (SYSTEMS, student, seed)]
    subjects = [Subject(row.name, row.system.student, tuple(row.system.pairs), row.system.metrics) for row in rows]
    cell = ", ".join(part for part in ("benchmarks", student, f"seed {seed}") if part)
    planned = evaluation.plan(suite, subjects, SELF_INSTRUCT, addresses, cell=cell)
    for address, request in planned.items():
        grid.requests.setdefault(address, request)
    grid.cards[student, seed] = list(planned)[-1]
