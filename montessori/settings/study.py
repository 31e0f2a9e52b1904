"""The settings of a study: systems × students × seeds, all with the same settings but for their changes."""

from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from montessori.settings.base import NOT_IN_FINGERPRINT, Frozen, Name
from montessori.settings.execution import Budget, Compute
from montessori.settings.run import Settings

NO_FINE_TUNING, SELF_INSTRUCT = "No fine-tuning", "Self-Instruct"  # rows that every study has
# Groups of rows. Every other group is the title of an ablation (table 2).
SYSTEMS = ""  # the systems themselves (table 1)
TRANSFER = "transfer"  # students that learn from another student's data
ASIDE = "beside the tables"  # runs behind figures and columns, without a row of their own
OWN = ("name", "seed", "store", "compute", "budget")  # settings that a study has once, and no cell changes


def _none_is_no_change(value: object) -> object:
    return {} if value is None else value


# Settings of a run, nested as in its YAML: {dpo: {beta: 0.2}}
Change = Annotated[dict[str, Any], BeforeValidator(_none_is_no_change)]


class Study(Frozen):
    """A grid of runs."""

    name: Name = Field(description="Name of the study: small letters, digits, dots and hyphens.")
    store: Annotated[str, NOT_IN_FINGERPRINT] = Field(
        "store", description="Where artifacts are kept: a folder, or s3://bucket/prefix."
    )
    settings: str | Change = Field(
        description="Settings that all cells begin with: a name such as tiny, a file sought beside the study's own, or "
        "the settings themselves."
    )
    change: Change = Field({}, description="Changes to these settings, for all cells.")
    seeds: tuple[Annotated[int, Field(ge=0, lt=2**31)], ...] = Field(
        (0, 1, 2), description="Seeds. Each cell is run with every one of them."
    )
    students: dict[str, Change] = Field(
        {"": {}}, description="Students by name, each with its changes to the settings. A single one needs no name."
    )
    systems: dict[str, Change] = Field(
        {},
        description="Systems of table 1 by name, each with its changes to the settings. A system has a row for each of "
        "its iterations. The base student and Self-Instruct are always there.",
    )
    ablations: dict[str, dict[str, Change]] = Field(
        {},
        description="Ablations of table 2: a title for the setting that varies, and below it the variants by name with "
        "their changes. A variant's row is its last iteration.",
    )
    teacher_steps: tuple[float, ...] = Field(
        (), description="Shares of the teacher's first update. A student learns from the teacher at each of them."
    )
    student_steps: tuple[float, ...] = Field(
        (), description="Shares of a student's training. Its training set is scored at each of them."
    )
    suite: str | dict[str, Any] | None = Field(
        None,
        description="Benchmarks of the systems' students: quick, paper, a file, or the suite itself. Null: none.",
    )
    judge: str | None = Field(None, description="Judge of the suite, as ENGINE:MODEL.")
    published: dict[str, Literal["8B", "1.1B"]] = Field(
        {}, description="By student, the size of the paper's student with results to show beside it."
    )
    compute: Annotated[Compute | None, NOT_IN_FINGERPRINT] = Field(
        None, description="Where tasks run. Null: as in `settings`."
    )
    budget: Annotated[Budget, NOT_IN_FINGERPRINT] = Field(Budget(), description="What the whole study may cost.")

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
