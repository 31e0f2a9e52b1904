"""The results of an evaluation in memory, ready to compare, tabulate and plot.

A `Score` keeps the value of every item, so that two models are compared on the same items.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

SPENT = ("the models", "the judge", "the rest")  # kinds of tasks, for the usage of an evaluation

Mark = Literal["best", "second"]


@dataclass(frozen=True)
class Measure:
    """A mean with its standard error."""

    mean: float
    standard_error: float
    n: int


@dataclass(frozen=True)
class Column:
    """A quantity that models are measured on."""

    name: str  # in the table's header: "MMLU", "AlpacaEval LC"
    key: str  # in metrics.json: "mmlu", "alpaca_eval_lc"
    unit: str  # "%", "1–10", "nats/token", "bits/byte"
    lower_is_better: bool = False
    scale: float = 1.0  # factor from an item's value to `unit`
    protocol: str = ""  # "25-shot, acc_norm"
    baseline: str | None = None  # model that the others are compared with in this column, without a value of its own


@dataclass(frozen=True)
class Score:
    """The result of one model in one column. Means and items are in the items' own scale (a share, a grade, nats)."""

    measure: Measure
    items: Mapping[str, float]  # by the item's id, without items whose verdict is unreadable
    groups: Mapping[str, Measure] = field(default_factory=dict)  # by category or subject
    turns: Mapping[str, Measure] = field(default_factory=dict)  # "first turn", "second turn", where there are some
    unreadable: int = 0  # verdicts that stayed unreadable after all tries
    notes: Sequence[str] = ()  # caveats about this number


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
    """A verdict to show."""

    column: str
    question: str
    model: str
    answer: str
    other: str
    other_answer: str
    value: float  # the judge's preference for `model`, 0 to 1, or its grade
    said: str  # the judge's reply
    first: str = ""  # model whose answer the judge saw first, as A


@dataclass(frozen=True)
class Overlap:
    """How much of a benchmark is in the training data."""

    benchmark: str
    items: int
    exact: int  # items whose text is a training instruction
    ngram: int  # items that share `words` consecutive words with a training point
    examples: Sequence[str] = ()
    data: str = ""  # name of the training data
    words: int = 13


@dataclass(frozen=True)
class JudgeAbility:
    """How often the judge agrees with people."""

    judge: str
    accuracy: Measure  # share of verdicts that agree with the majority of people
    agreement_of_people: float | None  # share of one person's verdicts that agree with the others' majority
    ties: int
    unreadable: int


@dataclass(frozen=True)
class Card:
    """All results of an evaluation."""

    name: str
    id: str  # evaluations/<id>
    models: Sequence[str]  # labels, in the order of the request
    columns: Sequence[Column]
    scores: Mapping[tuple[str, str], Score]  # by model label and column key
    baseline: str | None = None  # label of the model that the others are compared with
    duels: Sequence[Duel] = ()
    examples: Sequence[Example] = ()
    overlaps: Sequence[Overlap] = ()
    ability: JudgeAbility | None = None
    judge: str | None = None
    warnings: Sequence[str] = ()
    published: str | None = None  # "8B" or "1.1B": size of the paper's students to show beside the models
    seed: int = 0  # of the bootstrap
    settings_yaml: str = ""
    command: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)
    usage: Mapping[str, Mapping[str, float]] = field(default_factory=dict)  # prompts, tokens, usd, seconds, by `SPENT`
    missing: Mapping[tuple[str, str], str] = field(default_factory=dict)  # reason for each missing score
