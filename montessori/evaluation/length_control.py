"""Compute AlpacaEval's length-controlled win rate: the rate if the answers were as long as the baseline's.

The library regresses the verdicts on the difference in length and on the difficulty of each instruction, if a file
gives it. Then it predicts the verdicts for no difference in length (arXiv 2404.04475).
"""

import tempfile
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as csv
from numpy.typing import NDArray

from montessori.data.rows import Row
from montessori.evaluation.alpaca_library import DIFFICULTY, difficulties, library, use_file

LENGTH, MODEL = "np.tanh(std_delta_len)", "not_gamed_baseline.astype(float)"  # the library's names of the effects
GAMED_WEIGHT = 0.1  # weight of a verdict on the brief or verbose GPT-4-turbo: half of the library's lambda of 0.2
SPLITS = 5  # in the cross-validation that chooses the regression's penalty
NOTHING_KNOWN = 100 / 12**0.5  # standard deviation, in %, of a uniform rate between 0 and 100

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Controlled:
    """A length-controlled win rate in %, its standard error and its caveats. Values by item id are shares."""

    rate: float | None
    used: str  # a sentence on the regression and the difficulties
    sampling_error: float | None = None  # in %, of the mean of `linearised`. The library's leaves out the regression's
    # Values whose mean is the rate and whose spread is that of the rate over other instructions. They compare two
    # models, since the predictions of a regression hardly vary. They may lie outside of 0 to 1.
    linearised: Mapping[str, float] = field(default_factory=dict)
    notes: Sequence[str] = ()


def control(rows: Sequence[Row], win_rate: float, where: str) -> Controlled:
    """Return the length-controlled rate of the model with the annotations `rows`. `win_rate` is its plain rate, in %.

    `where` says where the difficulties are: hub, a path to a file like the hub's, or none. Raises InputError for a
    wrong file.
    """
    if not any(_lengths(rows)):
        return _as_long(rows, win_rate)
    if why := _impossible(rows):
        return Controlled(None, "no length control", notes=[f"no length-controlled win rate: {why}"])
    with tempfile.TemporaryDirectory() as folder:
        file, regression, used = difficulties(where, rows, Path(folder))
        return _controlled(rows, win_rate, regression=regression, file=file, used=used, folder=Path(folder))


def _lengths(rows: Sequence[Row]) -> list[int]:
    """Return the number of characters by which each of the baseline's answers is longer."""
    return [len(row["output_1"]) - len(row["output_2"]) for row in rows]


def _as_long(rows: Sequence[Row], win_rate: float) -> Controlled:
    """Return the plain rate, for answers all as long as the baseline's. The library would divide by zero."""
    values = {row["id"]: row["preference"] - 1 for row in rows if row["preference"] is not None}
    return Controlled(
        rate=win_rate,
        used="nothing to control: every answer is as long as the baseline's",
        sampling_error=_error(list(values.values())),
        linearised=values,
    )


def _impossible(rows: Sequence[Row]) -> str | None:
    """Return the reason why the regression would crash or be meaningless, or None."""
    verdicts = [row["preference"] for row in rows if row["preference"] is not None]
    if len(verdicts) < SPLITS:
        return f"it takes {SPLITS} readable verdicts at least, and there are {len(verdicts)}"
    if len(set(verdicts)) == 1:
        return "all verdicts are the same, so there is nothing that lengths could explain"
    if len(set(_lengths(rows))) == 1:
        return "all answers differ from the baseline's by the same length, so what it does cannot be told"
    return None


def _controlled(
    rows: Sequence[Row], win_rate: float, *, regression: str, file: Path, used: str, folder: Path
) -> Controlled:
    """Return the rate that the library computes."""
    # The library makes a file name of the baseline's name, and adds its predictions to the table.
    named = [{**row, "generator_1": row["generator_1"].replace("/", "_")} for row in rows]
    table = pa.Table.from_pylist(named).to_pandas()
    try:
        with use_file(file), warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            result = library().get_length_controlled_winrate(
                table, glm_name=regression, save_weights_dir=folder, is_warn_extreme_changes=False
            )
    except ValueError as error:
        return Controlled(None, used, notes=[f"no length-controlled win rate: the regression failed ({error})"])
    (written,) = (folder / regression).glob("*.csv")
    (weights,) = csv.read_csv(written).to_pylist()
    weights = {name: weights[name] for name in (LENGTH, DIFFICULTY, MODEL) if name in weights}
    rate = float(result["length_controlled_winrate"])
    values = _linearised(rows, weights, csv.read_csv(file)).tolist()
    spread = _error(values)
    if not any(weights.values()):
        why = "the regression's penalty left no effect at all, and 50% is where it starts"
        return Controlled(None, used, notes=[f"no length-controlled win rate: {why}"])
    if not spread < NOTHING_KNOWN:
        why = f"the regression finds {rate:.1f}%, and could as well have found anything"
        return Controlled(None, used, notes=[f"no length-controlled win rate: {why}"])
    return Controlled(
        rate=rate,
        used=used,
        sampling_error=spread,
        linearised=dict(zip([row["id"] for row in rows], values, strict=True)),
        notes=_notes(win_rate, rate, {warning.category.__name__ for warning in caught}),
    )


def _notes(win_rate: float, rate: float, warned: set[str]) -> list[str]:
    """Return the caveats about a rate."""
    notes = []
    if library().get_is_extreme_changes(win_rate, rate):
        notes.append(
            f"the length-controlled win rate ({rate:.1f}%) is far from the plain one ({win_rate:.1f}%): "
            "to the library a sign that its regression may have failed"
        )
    if "ConvergenceWarning" in warned:
        notes.append("the regression of the length control did not converge")
    return notes


def _linearised(rows: Sequence[Row], weights: Mapping[str, float], table: pa.Table) -> Array:
    """Return each item's prediction plus its verdict's effect on all predictions through the weights, `[items]`.

    This is the delta method. A verdict y with expectation p moves the weights by H⁻¹x(y − p), where H is the
    information in all verdicts. The penalty is ignored.
    """
    w, lengths = np.array(list(weights.values())), np.array(_lengths(rows))
    hard = np.array(table[DIFFICULTY])[[row["index"] for row in rows]]
    columns = {LENGTH: np.tanh(lengths / lengths.std(ddof=1)), DIFFICULTY: hard, MODEL: np.ones(len(rows))}
    x = np.column_stack([columns[name] for name in weights])
    x_as_long = np.column_stack([columns[name] * (name != LENGTH) for name in weights])
    y = np.array([np.nan if row["preference"] is None else row["preference"] - 1 for row in rows])
    information = _information(x[~np.isnan(y)], w)
    if DIFFICULTY in weights:
        gamed = table.filter(pc.is_valid(table["preference"]))
        columns = {LENGTH: np.tanh(np.array(gamed["std_delta_len"])), DIFFICULTY: np.array(gamed[DIFFICULTY])}
        others = np.column_stack([columns.get(name, np.zeros(len(gamed))) for name in weights])
        information = information + GAMED_WEIGHT * _information(others, w)
    predicted = _logistic(x_as_long @ w)
    slope = (predicted * (1 - predicted)) @ x_as_long
    moved = x @ np.linalg.pinv(information) @ slope * np.nan_to_num(y - _logistic(x @ w))
    values: Array = predicted + moved - moved.mean()  # the mean effect is not 0 because of the penalty
    return values


def _information(x: Array, w: Array) -> Array:
    p = _logistic(x @ w)
    information: Array = (x.T * (p * (1 - p))) @ x
    return information


def _logistic(x: Array) -> Array:
    probability: Array = np.exp(-np.logaddexp(0, -x))
    return probability


def _error(values: Sequence[float]) -> float:
    """Return the standard error of the mean of shares, in %."""
    return float(np.std(values, ddof=1)) / len(values) ** 0.5 * 100 if len(values) > 1 else 0.0
