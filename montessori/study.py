"""What `montessori study` runs, typed: systems × students × seeds, all on one set of settings but for their changes.

Read from YAML (`configs/studies/`) by `config_file.py`.
"""

from typing import Any, Literal, Self

from pydantic import Field, model_validator

from montessori.config import Budget, Compute, Frozen, Name

Change = dict[str, Any]  # settings of a run, nested as in its YAML: {dpo: {beta: 0.2}}
NO_FINE_TUNING, SELF_INSTRUCT = "No fine-tuning", "Self-Instruct"  # rows that every study has


class Study(Frozen):
    """A grid of runs."""

    name: Name
    store: str = "store"
    settings: str | Change  # that all begin with: a file, sought beside the study's own, or what such a file says
    change: Change = Field({})  # of these, for all
    seeds: tuple[int, ...] = Field((0, 1, 2), min_length=1)
    students: dict[str, Change] = Field({"": {}}, min_length=1)  # by name; one alone needs none
    # Table 1, a row a name, or a row an iteration. The base student and Self-Instruct are there without being named.
    systems: dict[str, Change] = Field({})
    ablations: dict[str, dict[str, Change]] = Field(
        {}
    )  # table 2: by what is varied, then by how; the last iteration's row
    teacher_steps: tuple[float, ...] = ()  # shares of the teacher's first update after which a student learns from it
    student_steps: tuple[float, ...] = ()  # shares of a student's training after which its training set is scored
    suite: str | None = None  # benchmarks for the systems' students: quick, paper or a file; default: none
    judge: str | None = None  # of the suite, as --judge of `montessori evaluate`: ENGINE:MODEL
    published: dict[str, Literal["8B", "1.1B"]] = Field({})  # by student: which of the paper's rows stand beside
    compute: Compute = Compute()
    budget: Budget = Budget()  # of the whole study

    @model_validator(mode="after")
    def _names_fit(self) -> Self:
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError("seeds: one comes twice")
        rows = [*self.systems, *(name for group in self.ablations.values() for name in group)]
        taken = next((name for name in rows if name in (NO_FINE_TUNING, SELF_INSTRUCT)), None)
        if taken:
            raise ValueError(f"the row {taken}: every study has it; leave it out, or give another name")
        for field, shares in (("teacher_steps", self.teacher_steps), ("student_steps", self.student_steps)):
            if any(not 0 < share <= 1 for share in shares):
                raise ValueError(f"{field}: shares of a training lie between 0 and 1")
        unknown = [name for name in self.published if name not in self.students]
        if unknown:
            raise ValueError(f"published.{unknown[0]}: no such student; there are {', '.join(self.students)}")
        return self
