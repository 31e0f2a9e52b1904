"""Compute AlpacaEval 2.0's win rates, plain and length-controlled, with the alpaca_eval library.

In rows of `verdicts.parquet`, `left` is the baseline's answer and `right` the model's. `length_control.py` explains
the length-controlled rate.
"""

import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from montessori.data.rows import Row
from montessori.errors import StageError
from montessori.evaluation import length_control
from montessori.evaluation.alpaca_library import library


@dataclass(frozen=True)
class WinRates:
    """A model's win rates against the baseline. Rates and errors are in %, items are shares."""

    win_rate: float
    standard_error: float
    n: int  # items with a readable verdict
    unreadable: int
    length_controlled: float | None  # None: the notes say why
    lc_sampling_error: float | None  # standard error of the mean of `linearised`
    control: str  # a sentence on the regression and the difficulties
    items: Mapping[str, float]  # by id: the judge's preference for the model, 0 to 1
    linearised: Mapping[str, float]  # by id, unreadable ones too: values to compare two models' rates with
    notes: Sequence[str]  # caveats about the length-controlled rate


def win_rates(verdicts: Sequence[Row], *, model: str, baseline: str, judge: str, difficulties: str = "hub") -> WinRates:
    """Return the win rates of `model`.

    `difficulties` is hub, a path to a file like the hub's df_gamed.csv, or none. With difficulties, an item's `index`
    must be its place among AlpacaEval's 805 instructions. When the hub cannot be reached, there are none, and `control`
    says so. Raises InputError for a wrong file, StageError when no verdict can be read.
    """
    rows = annotations(verdicts, model, baseline, judge)
    readable = [row for row in rows if row["preference"] is not None]
    if not readable:
        raise StageError(f"AlpacaEval: none of the judge's {len(rows)} verdicts on {model} could be read")
    plain = library().get_winrate(readable)
    lengths = length_control.control(rows, float(plain["win_rate"]), difficulties)
    return WinRates(
        win_rate=float(plain["win_rate"]),
        standard_error=float(plain["standard_error"]) if len(readable) > 1 else 0.0,
        n=len(readable),
        unreadable=len(rows) - len(readable),
        length_controlled=lengths.rate,
        lc_sampling_error=lengths.sampling_error,
        control=lengths.used,
        items={row["id"]: row["preference"] - 1 for row in readable},
        linearised=lengths.linearised,
        notes=lengths.notes,
    )


def annotations(verdicts: Sequence[Row], model: str, baseline: str, judge: str) -> list[Row]:
    """Return the verdicts in the library's form, one per item, the mean of an item judged in both orders.

    `preference` is 1 for the baseline (output_1), 2 for the model (output_2), None without a readable verdict.
    """
    items: dict[str, Row] = {}
    preferences: dict[str, list[float]] = defaultdict(list)
    for row in verdicts:
        items.setdefault(row["id"], row)
        if row["preference"] is not None:
            preferences[row["id"]].append(row["preference"])
    return [
        {
            "id": id,
            "index": row["index"],
            "instruction": row["question"],
            "output_1": row["left"],
            "generator_1": baseline,
            "output_2": row["right"],
            "generator_2": model,
            "annotator": judge,
            "preference": 1 + statistics.fmean(preferences[id]) if preferences[id] else None,
        }
        for id, row in items.items()
    ]
