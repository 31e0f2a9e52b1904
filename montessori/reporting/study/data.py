"""The data of a study's tables and figures: plain values, which the task of the study reads from artifacts.

Losses are nats per token, accuracies and shares lie between 0 and 1, times are seconds. What was not measured, or has
failed, is missing.
"""

from dataclasses import dataclass, field

from montessori.evaluation.card import Column, Duel
from montessori.reporting.run.data import ScoredPoint
from montessori.settings.study import SYSTEMS


@dataclass(frozen=True)
class Cost:
    """What a system took, from the base models on, as if nothing had been shared with another one."""

    teacher_tokens: float  # read and written; a judge's are among them only where the teacher is its own judge
    writing_s: float  # of the teacher
    scoring_s: float  # influence or ratings, with the warm-up of the student that they need
    tuning_s: float  # of the teacher
    training_s: float  # of the student
    usd: float | None = None  # paid to an endpoint

    @property
    def whole_s(self) -> float:
        """Return the seconds of computing."""
        return self.writing_s + self.scoring_s + self.tuning_s + self.training_s


@dataclass(frozen=True)
class Result:
    """How the student of one row of a table did with one seed."""

    row: str  # as tables call the system
    group: str  # SYSTEMS, or the title of an ablation
    student: str  # which student was trained; "" where a study has one
    seed: int
    values: dict[str, float]  # by metric
    cost: Cost
    training_points: int


@dataclass(frozen=True)
class Published:
    """A row of the paper's table of the same students, beside the study's own."""

    row: str
    values: dict[str, float]  # by metric, in its unit
    student: str  # of the study, beside which it stands
    size: str  # of the paper's student, "8B"


@dataclass(frozen=True)
class TeacherStep:
    """Figure 3a, 3b, 3c: a teacher that was stopped on the way, and the student that learned from it."""

    seed: int
    step: int  # DPO steps so far
    share: float  # of all steps
    values: dict[str, float]  # of the student, by metric
    influences: list[float]  # of what the teacher then writes, by one and the same student


@dataclass(frozen=True)
class StudentStep:
    """Figure 3d: how much of its training set helps a student that has learned from part of it."""

    row: str
    seed: int
    share: float  # of the training done
    positive: float  # share of the points whose step lowers the reference loss, I > 0


@dataclass(frozen=True)
class Scored:
    """Points of one seed by every estimator that scored the same ones; lists of one length, NaN where it failed."""

    seed: int
    training_loss: list[float]
    influences: dict[str, list[float]]  # by estimator, "taylor" and so on


@dataclass(frozen=True)
class Texts:
    """What a teacher wrote for its student, all seeds together (figures 6, 11 and 12)."""

    row: str
    instructions: list[str]
    instruction_tokens: list[int]
    response_tokens: list[int]


@dataclass(frozen=True)
class Missing:
    """A cell without a result, and why."""

    row: str
    student: str
    seed: int
    error: str
    group: str = SYSTEMS  # as of a result


@dataclass(frozen=True)
class Study:
    """Everything that is shown."""

    name: str
    id: str
    command: str  # that makes it again
    settings_yaml: str
    metrics: list[Column]  # the first is the one that figures with a single one show
    baseline: str  # the row that others are tested against
    results: list[Result]
    seeds: list[int]
    students: list[str]
    published: list[Published] = field(default_factory=list)
    teacher_steps: list[TeacherStep] = field(default_factory=list)
    student_steps: list[StudentStep] = field(default_factory=list)
    duels: list[Duel] = field(default_factory=list)  # figure 4: on the same items, all seeds together
    transfer: list[Result] = field(default_factory=list)  # rows as in `results`, `student` the one that it went to
    scored: list[Scored] = field(default_factory=list)
    highest: list[ScoredPoint] = field(default_factory=list)
    lowest: list[ScoredPoint] = field(default_factory=list)
    texts: list[Texts] = field(default_factory=list)
    hyperparameters: dict[str, str] = field(default_factory=dict)  # what all cells begin with, as the first one has it
    changes: dict[str, dict[str, str]] = field(default_factory=dict)  # of settings, by what has them: "system LLM2LLM"
    missing: list[Missing] = field(default_factory=list)
    seconds: float = 0.0  # computing time of all artifacts, each counted once
    versions: dict[str, str] = field(default_factory=dict)
