"""What `montessori study` runs, typed: systems × students × seeds, all on one set of settings but for their changes.

Read from YAML (`configs/studies/`) by `config_file.py`.
"""

from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from montessori.reporting.study.data import ASIDE, SYSTEMS, TRANSFER
from montessori.settings.schema import Budget, Compute, Frozen, Name, Settings

NO_FINE_TUNING, SELF_INSTRUCT = "No fine-tuning", "Self-Instruct"  # rows that every study has
OWN = ("name", "seed", "store", "compute", "budget")  # of the study, not of a cell


def _none_is_no_change(value: object) -> object:
    return {} if value is None else value


# Settings of a run, nested as in its YAML: {dpo: {beta: 0.2}}
Change = Annotated[dict[str, Any], BeforeValidator(_none_is_no_change)]


class Study(Frozen):
    """A grid of runs."""

    name: Name
    store: str = "store"
    settings: str | Change  # that all begin with: a file, sought beside the study's own, or what such a file says
    change: Change = Field({})  # of these, for all
    seeds: tuple[Annotated[int, Field(ge=0, lt=2**31)], ...] = (0, 1, 2)
    students: dict[str, Change] = Field({"": {}})  # by name; one alone needs none
    # Table 1, a row a name, or a row an iteration. The base student and Self-Instruct are there without being named.
    systems: dict[str, Change] = Field({})
    ablations: dict[str, dict[str, Change]] = Field(
        {}
    )  # table 2: by what is varied, then by how; the last iteration's row
    teacher_steps: tuple[float, ...] = ()  # shares of the teacher's first update after which a student learns from it
    student_steps: tuple[float, ...] = ()  # shares of a student's training after which its training set is scored
    # Benchmarks for the systems' students: quick, paper, a file, or what such a file says; default: none.
    suite: str | dict[str, Any] | None = None
    judge: str | None = None  # of the suite, as --judge of `montessori evaluate`: ENGINE:MODEL
    published: dict[str, Literal["8B", "1.1B"]] = Field({})  # by student: which of the paper's rows stand beside
    compute: Compute | None = None  # default: as in `settings`
    budget: Budget = Budget()  # of the whole study

    @model_validator(mode="after")
    def _names_fit(self) -> Self:
        for field in ("seeds", "students"):
            if not getattr(self, field):
                raise ValueError(f"{field}: at least one is needed")
        if "" in self.students and len(self.students) > 1:
            raise ValueError("students: one of several needs a name")
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError("seeds: one comes twice")
        if reserved := [group for group in self.ablations if group in (SYSTEMS, TRANSFER, ASIDE)]:
            raise ValueError(f"ablations: {reserved[0]!r} is no title for a group; give another one")
        for group, members in self.ablations.items():
            if not members:
                raise ValueError(f"ablations.{group}: at least one row is needed")
            if all(name in Settings.model_fields for name in members):
                raise ValueError(
                    f"ablations.{group}: settings where rows are expected; for example {group}: {{Changed: {{…}}}}"
                )
        rows = [*self.systems, *(name for group in self.ablations.values() for name in group)]
        if "" in rows:
            raise ValueError("systems, ablations: a row needs a name")
        taken = next((name for name in rows if name in (NO_FINE_TUNING, SELF_INSTRUCT)), None)
        if taken:
            raise ValueError(f"the row {taken}: every study has it; leave it out, or give another name")
        for field, shares in (("teacher_steps", self.teacher_steps), ("student_steps", self.student_steps)):
            if any(not 0 < share <= 1 for share in shares):
                raise ValueError(f"{field}: shares of a training lie between 0 and 1")
            if len(set(shares)) < len(shares):
                raise ValueError(f"{field}: one comes twice")
        unknown = [name for name in self.published if name not in self.students]
        if unknown:
            there = ", ".join(name or '""' for name in self.students)
            raise ValueError(f"published.{unknown[0]}: no such student; there are {there}")
        return self

    @model_validator(mode="after")
    def _cells_change_what_is_theirs(self) -> Self:
        changes = {"change": self.change}
        changes |= {f"students.{name}": change for name, change in self.students.items()}
        changes |= {f"systems.{name}": change for name, change in self.systems.items()}
        for group, members in self.ablations.items():
            changes |= {f"ablations.{group}.{name}": change for name, change in members.items()}
        for where, change in changes.items():
            if wrong := next((field for field in OWN if field in change), None):
                raise ValueError(f"{where}.{wrong}: is the study's own; set it there")
        return self
