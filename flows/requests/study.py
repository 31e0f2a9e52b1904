"""A study as a grid of cells, each a run of one system with one student and seed: what is asked for; without Prefect.

What two cells share has one address, and so is one request: the same Self-Instruct data, the same warm student.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from flows.methods.montessori_instruct import Iteration, System, base, no_fine_tuning, self_instruct
from flows.requests import evaluation
from flows.requests.builder import Address, Requests, Shards
from flows.requests.steps import Steps
from flows.requests.systems import METHODS, transferred
from montessori.artifacts import Request
from montessori.data import sources
from montessori.errors import InputError
from montessori.evaluation.subjects import REFERENCE, Subject
from montessori.settings import files
from montessori.settings.models import Model
from montessori.settings.study import NO_FINE_TUNING, SELF_INSTRUCT, SYSTEMS, TRANSFER, Change, Study
from montessori.settings.suite import Suite
from tasks.runtime import engines

ON_ITS_WAY: Change = {"iterations": 1, "influence": {"after": True}}  # of a cell, for a teacher's step
UPDATED_BY = {"instructions": "dpo", "responses": "dpo", "bootstrap": "bootstrap"}  # the settings of each update


@dataclass(frozen=True)
class Entry:
    """What one part of the study's file asks for, with any student and seed."""

    name: str
    group: str  # SYSTEMS, or the ablation's title
    change: Change
    where: str  # in the file


@dataclass(frozen=True)
class Row:
    """A line of a table with one student and one seed."""

    name: str
    group: str  # as of an entry, or TRANSFER
    student: str
    seed: int
    system: System


@dataclass(frozen=True)
class StudentStep:
    """A student on its way: how much of its training set helps it after a share of its training."""

    row: str
    seed: int
    share: float
    scores: Shards


@dataclass(frozen=True)
class TeacherStep:
    """A teacher on its way: what it writes after a share of its update, and the student of that."""

    row: str
    seed: int
    share: float
    scores: Shards
    system: System
    teacher: Address


@dataclass(frozen=True)
class Scored:
    """The first iteration of the first cell that measures influence, whose points figures show."""

    iteration: Iteration
    estimator: str


@dataclass
class Grid:
    """Everything that a study asks for, in the order in which it is asked."""

    study: Study
    asked: Requests = field(default_factory=Requests)
    rows: list[Row] = field(default_factory=list)
    teacher_steps: list[TeacherStep] = field(default_factory=list)
    student_steps: list[StudentStep] = field(default_factory=list)
    scored: dict[int, Scored] = field(default_factory=dict)  # by seed
    cards: dict[tuple[str, int], Address] = field(default_factory=dict)  # the scorecard of a student and seed
    cells: list[tuple[str, Steps]] = field(default_factory=list)  # by name; one may have several

    @property
    def requests(self) -> dict[Address, Request]:
        """All requests, each once: what several cells share is the first one's."""
        return self.asked.by_address


def plan(study: Study, where: str, suite: Suite | None, found: dict[str, Address]) -> Grid:
    """What `study`, which is whole, comes to. Raises InputError, beginning with `where`, for a wrong cell.

    The systems' students are measured on `suite`; `found` are the addresses of what it names.
    """
    grid = Grid(study)
    cells = _Cells(study, where, grid)
    for entry in entries(study):
        for student in study.students if entry.group == SYSTEMS else list(study.students)[:1]:
            for seed in study.seeds:
                _ask(grid, cells, entry, student, seed)
    _check_rows(grid, where)
    for _, steps in grid.cells:
        for address, request in steps.requests.items():
            grid.requests.setdefault(address, request)
    if suite:
        for student in study.students:
            for seed in study.seeds:
                _measure(grid, suite, found, student, seed)
    grid.asked.hold_to(study.budget)
    return grid


def entries(study: Study) -> Iterator[Entry]:
    """The parts of the grid, in the order of the tables' rows; what is asked of each iteration is there last."""
    yield Entry(SELF_INSTRUCT, SYSTEMS, {"iterations": 0}, "settings")
    for name, change in study.systems.items():
        yield Entry(name, SYSTEMS, change, f"systems.{name}")
    for group, members in study.ablations.items():
        for name, change in members.items():
            yield Entry(name, group, merged({"iterations": 1}, change), f"ablations.{group}.{name}")


def merged(tree: Mapping[str, Any], change: Mapping[str, Any]) -> Change:
    """`tree` with the values of `change`, block by block."""
    found = dict(tree)
    for key, value in change.items():
        below = found.get(key)
        found[key] = merged(below, value) if isinstance(below, dict) and isinstance(value, dict) else value
    return found


def _check_rows(grid: Grid, where: str) -> None:
    """Raise InputError where two rows would be one, or what the study looks at is in no cell."""
    names = Counter((row.name, row.group, row.student, row.seed) for row in grid.rows)
    for (name, group, *_), count in names.items():
        if count > 1:
            mend = "set transfer in one system alone" if group == TRANSFER else "give one of them another name"
            raise InputError(f"{where}: two rows are called {name}; {mend}")
    if grid.study.suite and any(row.name == REFERENCE for row in grid.rows):
        raise InputError(f"{where}: systems.{REFERENCE}: means AlpacaEval's own answers; give it another name")
    if grid.study.teacher_steps and not grid.teacher_steps:
        raise InputError(f"{where}: teacher_steps: no system measures influence, whose teacher could be looked at")


class _Cells:
    """Makes the steps of cells, and notes what they ask for."""

    def __init__(self, study: Study, where: str, grid: Grid):
        assert isinstance(study.settings, dict), "it is whole"
        self._study, self._grid, self._where = study, grid, where
        self._tree = merged(study.settings, study.change)
        self._sources: dict[str, dict[str, str]] = {}
        self._others: dict[str, Model] = {}  # further students, by name

    def steps(self, entry: Entry, student: str, seed: int, more: Change | None = None) -> Steps:
        """Those of one cell; `more` is a change to it."""
        tree = merged(merged(merged(self._tree, self._study.students[student]), entry.change), more or {})
        tree |= {"name": self._study.name, "seed": seed, "store": self._study.store}
        assert self._study.compute, "it is whole"
        tree["compute"] = self._study.compute.model_dump(mode="json")
        where = f"{self._where}: {entry.where}" + (f" with students.{student}" if student else "")
        try:
            settings = engines.settled(files.parse(tree, where))
        except InputError as error:
            raise self._blamed(str(error).removeprefix(where), student) or error from None
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

    def _blamed(self, sentence: str, student: str) -> InputError | None:
        """The error with this `sentence` said of what all cells share, where it is wrong there already."""
        assert isinstance(self._study.settings, dict), "it is whole"
        own = merged(self._tree, self._study.students[student])
        layers = {"settings": self._study.settings, "change": self._tree, f"students.{student}": own}
        for layer, tree in layers.items():
            where = f"{self._where}: {layer}"
            try:
                files.parse({**tree, "name": self._study.name}, where)
            except InputError as error:
                if str(error).removeprefix(where) == sentence:
                    return error
        return None


def _ask(grid: Grid, cells: _Cells, entry: Entry, student: str, seed: int) -> None:
    """One cell, with all that the study looks at on its way."""
    steps = cells.steps(entry, student, seed)
    start = base(steps)

    def note(name: str, group: str, system: System) -> None:
        grid.rows.append(Row(name, group, student, seed, system))

    def pass_on(systems: dict[str, System]) -> None:
        if steps.settings.transfer and student == next(iter(grid.study.students)):
            called = {system.name: name for name, system in systems.items()}
            for other, system in transferred(steps, start, list(systems.values())):
                row = Row(called.get(system.name, system.name), TRANSFER, other, seed, system)
                if row not in grid.rows:  # of Self-Instruct, which several systems bring along
                    grid.rows.append(row)

    unchanged = self_instruct(steps, start) if not steps.settings.iterations or steps.settings.transfer else None
    if not steps.settings.iterations:
        assert unchanged
        if entry.name == SELF_INSTRUCT:
            note(NO_FINE_TUNING, SYSTEMS, no_fine_tuning(steps, start))
            _look(grid, steps, start.student, start.reference, Row(entry.name, entry.group, student, seed, unchanged))
        note(entry.name, entry.group, unchanged)
        pass_on({entry.name: unchanged})
        return
    done = METHODS[steps.settings.method](steps, start)
    if entry.group == SYSTEMS:
        for iteration in done:
            several = f"{entry.name}, iteration {iteration.number}" if len(done) > 1 else entry.name
            note(several, entry.group, iteration.system)
    else:
        note(entry.name, entry.group, done[-1].system)
    first = steps.settings.method == "montessori" and student == next(iter(grid.study.students))
    if first and seed not in grid.scored and "scores" in done[0].inputs:
        grid.scored[seed] = Scored(done[0], steps.settings.influence.estimator)
        row = Row(grid.rows[-1].name, entry.group, student, seed, done[-1].system)
        _look(grid, steps, start.student, start.reference, row)
        for share in grid.study.teacher_steps:
            update = UPDATED_BY[steps.settings.update]
            part = cells.steps(entry, student, seed, {**ON_ITS_WAY, update: {"stop": share}})
            (on_its_way,) = METHODS["montessori"](part, base(part))
            scores = on_its_way.inputs.get("scores-after", [])
            assert on_its_way.teacher, "this method updates it"
            step = TeacherStep(entry.name, seed, share, scores, on_its_way.system, on_its_way.teacher)
            grid.teacher_steps.append(step)
    if unchanged:
        pass_on({SELF_INSTRUCT: unchanged, entry.name: done[-1].system})


def _look(grid: Grid, steps: Steps, student: Address, reference: Address, row: Row) -> None:
    """How much of its training set helps the student of `row` on its way; of the study's first student."""
    if row.student != next(iter(grid.study.students)):
        return
    for share in grid.study.student_steps:
        who = row.system.who.within(f"{share:.0%} trained")
        checkpoint = steps.checkpoint(student, row.system.pairs, share, who)
        against = steps.measured_against(checkpoint, reference, who)
        scores = steps.influence(checkpoint, against, row.system.pairs, "pairs.parquet", who)
        grid.student_steps.append(StudentStep(row.name, row.seed, share, scores))


def _measure(grid: Grid, suite: Suite, found: dict[str, Address], student: str, seed: int) -> None:
    """The benchmarks of all systems of one student and seed."""
    mine = [row for row in grid.rows if (row.group, row.student, row.seed) == (SYSTEMS, student, seed)]
    subjects = [Subject(row.name, row.system.student, tuple(row.system.pairs), row.system.metrics) for row in mine]
    cell = ", ".join(part for part in ("benchmarks", student, f"seed {seed}") if part)
    planned = evaluation.plan(suite, subjects, SELF_INSTRUCT, found, cell=cell)
    for address, request in planned.items():
        grid.requests.setdefault(address, request)
    grid.cards[student, seed] = list(planned)[-1]
