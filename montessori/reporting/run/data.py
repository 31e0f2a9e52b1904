"""The data of the report of one run: plain values, which the task of the report reads from artifacts.

Losses are nats per token, shares and accuracies lie between 0 and 1, times are seconds.
Anything optional may be missing; the report then leaves out what it would have shown.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field

from montessori.evaluation.card import Measure


@dataclass(frozen=True)
class Run:
    """Which run this is, and what replays it."""

    name: str
    id: str
    settings_yaml: str
    command: str = "montessori run run.yaml"
    versions: dict[str, str] = field(default_factory=dict)  # package → version
    started: str = ""  # dates as they are to be read
    finished: str = ""


@dataclass(frozen=True)
class System:
    """One way of making training data, and how the student that learned from it did."""

    name: str
    training_points: int
    reference_loss: Measure
    held_out_loss: Measure | None = None
    accuracy: Measure | None = None
    baseline: bool = False  # drawn in grey, so that the method stands out
    instruction_tokens: list[int] = field(default_factory=list)  # lengths of its training points
    response_tokens: list[int] = field(default_factory=list)


@dataclass(frozen=True)
class Step:
    """One logged step of a training run; margin and reward accuracy are of DPO."""

    step: int
    loss: float
    learning_rate: float = math.nan
    reward_margin: float = math.nan
    reward_accuracy: float = math.nan


@dataclass(frozen=True)
class Iteration:
    """One iteration of Montessori-Instruct."""

    number: int
    influences: list[float]  # of the probing points; NaN or infinite where scoring failed
    positive_share: float  # of the points written before the teacher's update, above `threshold`
    pairs: int
    split: str  # "" where no influence was measured
    momentum_influence: float | None = None  # I(∅): of a step with zero gradient
    influences_after: list[float] = field(default_factory=list)  # of what the updated teacher wrote, same student
    positive_share_after: float | None = None
    split_share: float | None = None  # of the scored points, those that the split called positive
    threshold: float = 0.0  # above it an influence counts as positive: 0, or I(∅)
    warning: str | None = None
    families_before: dict[str | None, float] = field(default_factory=dict)  # label → share; None: unrecognised
    families_after: dict[str | None, float] = field(default_factory=dict)
    warm_up: list[Step] = field(default_factory=list)
    dpo: list[Step] = field(default_factory=list)
    sft: list[Step] = field(default_factory=list)


@dataclass(frozen=True)
class ScoredPoint:
    """A training point and its influence."""

    instruction: str
    response: str
    influence: float
    iteration: int | None = None  # that scored it, in the report of a run
    family: str | None = None


@dataclass(frozen=True)
class Rejection:
    """A generation that a filter dropped."""

    reason: str
    text: str


@dataclass(frozen=True)
class Stage:
    """One artifact of the run and what making it took."""

    stage: str
    address: str
    seconds: float
    label: str = ""  # what it is for, the same for all shards: "iteration 1, probing"
    shard: str = ""  # "2 of 4"
    seed: int | None = None
    bytes: int = 0
    parents: list[str] = field(default_factory=list)  # addresses


@dataclass(frozen=True)
class Cost:
    """What a stage was estimated to take before the run, and what it took; dollars only where an API was paid."""

    stage: str
    tokens: tuple[float, float]  # estimated, actual; read and written by the teacher
    hours: tuple[float | None, float]
    usd: tuple[float | None, float | None] = (None, None)


@dataclass(frozen=True)
class Report:
    """Everything that the report of a run shows, in the order in which it is shown."""

    run: Run
    systems: list[System]
    verdict: list[str] = field(default_factory=list)  # sentences in place of those that the systems' table gives
    accuracy_kind: str = "next token"  # or "exact match"
    iterations: list[Iteration] = field(default_factory=list)
    reference_families: set[str] = field(default_factory=set)
    highest: list[ScoredPoint] = field(default_factory=list)  # most influential first
    lowest: list[ScoredPoint] = field(default_factory=list)  # least influential first
    rejections: dict[str, int] = field(default_factory=dict)  # reason → count
    rejected: list[Rejection] = field(default_factory=list)  # a few of them
    stages: list[Stage] = field(default_factory=list)
    costs: list[Cost] = field(default_factory=list)


def finite(values: Iterable[float]) -> list[float]:
    """Return `values` without NaN and infinities."""
    return [value for value in values if math.isfinite(value)]


def positive_means(iterations: Iterable[Iteration]) -> str:
    """Say which points the share of positive points counts."""
    if all(iteration.threshold == 0 for iteration in iterations):
        return "the step on the point lowers the reference loss, I > 0"
    return "the step on the point lowers the reference loss by more than its momentum alone, I > I(∅)"
