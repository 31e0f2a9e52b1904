"""The results of a suite in memory: what the stages measured, ready to be compared, tabled and drawn.

A `Score` keeps the value of every item, so that two models are compared on the same ones.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

SPENT = ("the models", "the judge", "the rest")  # what takes time: the stages of an evaluation by kind

Mark = Literal["best", "second"]


@dataclass(frozen=True)
class Measure:
    """A mean with what it is worth."""

    mean: float
    standard_error: float
    n: int


@dataclass(frozen=True)
class Column:
    """Something that models are measured on."""

    name: str  # as the table's header shows it: "MMLU", "AlpacaEval LC"
    key: str  # as metrics.json calls it: "mmlu", "alpaca_eval_lc"
    unit: str  # "%", "1–10", "nats/token", "bits/byte"
    lower_is_better: bool = False
    scale: float = 1.0  # from an item's value to `unit`
    protocol: str = ""  # "25-shot, acc_norm"
    baseline: str | None = None  # what it is measured against: then that model has no value of its own


@dataclass(frozen=True)
class Score:
    """One model in one column. Means and items are in the items' own scale (a share, a grade, nats)."""

    measure: Measure
    items: Mapping[str, float]  # by the item's id; those without a readable verdict are left out
    groups: Mapping[str, Measure] = field(default_factory=dict)  # by category or subject
    turns: Mapping[str, Measure] = field(default_factory=dict)  # "first turn", "second turn", where there are some
    unreadable: int = 0  # verdicts that could not be read, after all tries
    notes: Sequence[str] = ()  # what a reader must know of this number


@dataclass(frozen=True)
class Duel:
    """Two models head to head."""

    left: str
    right: str
    wins: int  # of left
    ties: int
    losses: int
    unreadable: int = 0


@dataclass(frozen=True)
class Example:
    """A verdict to look at."""

    column: str
    question: str
    model: str
    answer: str
    other: str
    other_answer: str
    value: float  # the judge's preference for `model`, 0 to 1, or its grade
    said: str  # the judge's reply
    first: str = ""  # whose answer the judge was shown first, as A


@dataclass(frozen=True)
class Overlap:
    """How much of a benchmark is in the training data."""

    benchmark: str
    items: int
    exact: int  # items whose text is a training instruction
    ngram: int  # items that share `words` words in a row with a training point
    examples: Sequence[str] = ()
    data: str = ""  # whose training data it is
    words: int = 13


@dataclass(frozen=True)
class JudgeAbility:
    """How often the judge agrees with people."""

    judge: str
    accuracy: Measure  # against the majority of the people
    agreement_of_people: float | None  # of one of them with the majority of the others, on the same pairs
    ties: int
    unreadable: int


@dataclass(frozen=True)
class Card:
    """All results of one evaluation."""

    name: str
    id: str  # evaluations/<id>
    models: Sequence[str]  # labels, in the order that was asked for
    columns: Sequence[Column]
    scores: Mapping[tuple[str, str], Score]  # by model label and column key
    baseline: str | None = None  # a model's label: whom the others are compared with
    duels: Sequence[Duel] = ()
    examples: Sequence[Example] = ()
    overlaps: Sequence[Overlap] = ()
    ability: JudgeAbility | None = None
    judge: str | None = None
    warnings: Sequence[str] = ()
    published: str | None = None  # "8B" or "1.1B": whose rows of the paper stand beside
    seed: int = 0  # of the bootstrap
    settings_yaml: str = ""
    command: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)
    usage: Mapping[str, Mapping[str, float]] = field(default_factory=dict)  # prompts, tokens, usd, seconds, by `SPENT`
    missing: Mapping[tuple[str, str], str] = field(default_factory=dict)  # why a model has no score in a column
