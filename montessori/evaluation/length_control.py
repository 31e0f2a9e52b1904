"""AlpacaEval's length-controlled win rate: what it would be were the answers as long as the baseline's.

In: annotations in the alpaca_eval library's form.  Out: `Controlled`. The library regresses the verdicts on the
difference in length, and on how hard each instruction is where a file says so, and predicts them for no difference
(arXiv 2404.04475).
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
from montessori.evaluation.alpaca_library import DIFFICULTY, difficulties, given, library

LENGTH, MODEL = "np.tanh(std_delta_len)", "not_gamed_baseline.astype(float)"  # effects, as the library calls them
GAMED_WEIGHT = 0.1  # of a verdict on the brief or the verbose GPT-4-turbo: the library's lambda of 0.2, halved
SPLITS = 5  # of the cross-validation that chooses the regression's penalty
NOTHING_KNOWN = 100 / 12**0.5  # the spread, in %, of a rate that may be anything from 0 to 100

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Controlled:
    """A length-controlled win rate, in %, and what it is worth. By item ids: shares."""

    rate: float | None
    used: str  # what it was made with, in a sentence
    sampling_error: float | None = None  # of `linearised`: the library's own leaves out what the regression may miss by
    # Values with the rate as their mean, which vary as the rate would over other instructions: two models are compared
    # on these, since predictions of a regression hardly vary. They may lie outside of 0 to 1.
    linearised: Mapping[str, float] = field(default_factory=dict)
    notes: Sequence[str] = ()


def control(rows: Sequence[Row], win_rate: float, where: str) -> Controlled:
    """The rate of the model whose annotations are `rows`; `win_rate` is its plain one, in %.

    `where` the difficulties are is hub, a path to a file like the hub's, or none. Raises InputError for a wrong file.
    """
    if not any(_lengths(rows)):
        return _as_long(rows, win_rate)
    if why := _impossible(rows):
        return Controlled(None, "no length control", notes=[f"no length-controlled win rate: {why}"])
    with tempfile.TemporaryDirectory() as folder:
        file, regression, used = difficulties(where, rows, Path(folder))
        return _controlled(rows, win_rate, regression, file, used, Path(folder))


def _lengths(rows: Sequence[Row]) -> list[int]:
    """By how many characters each of the baseline's answers is longer."""
    return [len(row["output_1"]) - len(row["output_2"]) for row in rows]


def _as_long(rows: Sequence[Row], win_rate: float) -> Controlled:
    """Of answers that are all as long as the baseline's; the library would divide by the spread of the differences."""
    values = {row["id"]: row["preference"] - 1 for row in rows if row["preference"] is not None}
    return Controlled(
        rate=win_rate,
        used="nothing to control: every answer is as long as the baseline's",
        sampling_error=_error(list(values.values())),
        linearised=values,
    )


def _impossible(rows: Sequence[Row]) -> str | None:
    """Why the regression would crash or say nothing, where it would."""
    verdicts = [row["preference"] for row in rows if row["preference"] is not None]
    if len(verdicts) < SPLITS:
        return f"it takes {SPLITS} readable verdicts at least, and there are {len(verdicts)}"
    if len(set(verdicts)) == 1:
        return "all verdicts are the same, so there is nothing that lengths could explain"
    if len(set(_lengths(rows))) == 1:
        return "all answers differ from the baseline's by the same length, so what it does cannot be told"
    return None


def _controlled(
    rows: Sequence[Row], win_rate: float, regression: str, file: Path, used: str, folder: Path
) -> Controlled:
    """What the library finds."""
    # It makes a file's name of the baseline's, and adds its predictions to the table.
    named = [{**row, "generator_1": row["generator_1"].replace("/", "_")} for row in rows]
    table = pa.Table.from_pylist(named).to_pandas()
    try:
        with given(file), warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            found = library().get_length_controlled_winrate(
                table, glm_name=regression, save_weights_dir=folder, is_warn_extreme_changes=False
            )
    except ValueError as error:
        return Controlled(None, used, notes=[f"no length-controlled win rate: the regression failed ({error})"])
    (written,) = (folder / regression).glob("*.csv")
    (weights,) = csv.read_csv(written).to_pylist()
    weights = {name: weights[name] for name in (LENGTH, DIFFICULTY, MODEL) if name in weights}
    rate = float(found["length_controlled_winrate"])
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
    """What a reader must know of a rate."""
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
    """An item's prediction, and by how much its verdict moved all predictions through the weights, `[items]`.

    The delta method: a verdict y where p was expected moves the weights by H⁻¹x(y − p), H being the information in all
    verdicts. What the penalty does is left out.
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
    values: Array = predicted + moved - moved.mean()  # a mean that the penalty leaves
    return values


def _information(x: Array, w: Array) -> Array:
    p = _logistic(x @ w)
    found: Array = (x.T * (p * (1 - p))) @ x
    return found


def _logistic(x: Array) -> Array:
    found: Array = np.exp(-np.logaddexp(0, -x))
    return found


def _error(values: Sequence[float]) -> float:
    """The standard error of the mean of shares, in %."""
    return float(np.std(values, ddof=1)) / len(values) ** 0.5 * 100 if len(values) > 1 else 0.0
