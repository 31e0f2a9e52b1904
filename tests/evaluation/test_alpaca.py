"""Win rates: the published ones to the last digit, and the length control against fits and resamples of our own."""

import csv
import gzip
import json
import math
from pathlib import Path

import huggingface_hub
import numpy as np
import pytest
from scipy.optimize import minimize

from montessori.errors import InputError, StageError
from montessori.evaluation import alpaca_library
from montessori.evaluation.alpaca import annotations, win_rates
from montessori.evaluation.alpaca_library import BASELINE, JUDGE, library, use_file

DATA = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "alpaca_eval"
PUBLISHED = ["alpaca-7b", "gpt-3.5-turbo-1106", "FuseChat-Llama-3.1-8B-Instruct"]
WEIGHTS = np.array([-1.1271666967241551, 0.7265708972653502, 0.8583100053446140])  # FuseChat's, of the leaderboard
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="the published annotations are not on this machine")


def published(model):
    """The verdicts on a model of the leaderboard."""
    with gzip.open(DATA / model / "annotations.json.gz", "rt") as file:
        return [
            verdict(n, row["output_1"], row["output_2"], row["preference"] - 1, row["instruction"])
            for n, row in enumerate(json.load(file))
        ]


def verdict(n, left, right, preference, question="Why?", swapped=False):
    return {
        "id": f"item-{n}", "index": n, "question": question, "left": left, "right": right, "swapped": swapped,
        "preference": preference,
    }  # fmt: skip


def made(n=200, seed=0, baseline=60, strength=0.4):
    """Verdicts of 0 to 1 on answers of drawn lengths, which the judge prefers the longer of."""
    draw = np.random.default_rng(seed)
    rows = []
    for index, (left, right) in enumerate(draw.integers(baseline // 2, baseline * 2, (n, 2))):
        share = 1 / (1 + math.exp(-strength - 0.02 * (int(right) - int(left))))
        rows.append(verdict(index, "b" * left, "m" * right, float(draw.beta(4 * share, 4 * (1 - share)))))
    return rows


def of(rows, difficulties="none", baseline=BASELINE, judge=JUDGE):
    return win_rates(rows, model="model", baseline=baseline, judge=judge, difficulties=difficulties)


def gamed(path, seed=0, n=805, order=None, **changed):
    """A file of difficulties as the hub's: two gamed baselines, each on all instructions."""
    draw = np.random.default_rng(seed)
    hard = draw.normal(0, 1.5, n)
    table = []
    for name, by in (("concise", 1.2), ("verbose", -1.2)):
        lengths = draw.normal(by, 1, n)
        share = 1 / (1 + np.exp(1.5 * np.tanh(lengths) - 0.8 * hard))
        for index in order or range(n):
            row = {
                "model": f"gpt4_1106_preview_{name}",
                "index": index,
                "preference": draw.beta(4 * share[index], 4 - 4 * share[index]),
                "std_delta_len": lengths[index],
                "instruction_difficulty": hard[index],
                "not_gamed_baseline": False,
            }
            table.append({**row, **changed})
    with path.open("w") as file:
        writer = csv.DictWriter(file, list(table[0]))
        writer.writeheader()
        writer.writerows(table)
    return hard, table


@needs_data
@pytest.mark.parametrize("model", PUBLISHED)
def test_win_rates_are_those_of_the_leaderboard(model):
    with (DATA / "leaderboard.csv").open() as file:
        (row,) = (row for row in csv.DictReader(file) if row[""] == model)
    rates = of(published(model))
    exact = {"rel": 1e-14, "abs": 0}
    assert rates.win_rate == pytest.approx(float(row["win_rate"]), **exact)
    assert rates.standard_error == pytest.approx(float(row["standard_error"]), **exact)
    assert (rates.n, rates.unreadable) == (int(row["n_total"]), 0)
    assert sum(rates.items.values()) / rates.n * 100 == pytest.approx(rates.win_rate)


@needs_data
def test_the_length_control_recovers_what_the_verdicts_were_drawn_from(tmp_path):
    hard, _ = gamed(tmp_path / "gamed.csv")
    rows = published("FuseChat-Llama-3.1-8B-Instruct")
    lengths = np.array([len(row["left"]) - len(row["right"]) for row in rows])
    x = np.column_stack([np.tanh(lengths / lengths.std(ddof=1)), hard, np.ones(805)])
    share = 1 / (1 + np.exp(-x @ WEIGHTS))
    drawn = np.random.default_rng(1).beta(6 * share, 6 - 6 * share)
    rates = of(
        [{**row, "preference": float(y)} for row, y in zip(rows, drawn, strict=True)], str(tmp_path / "gamed.csv")
    )
    truth = 100 * (1 / (1 + np.exp(-(x[:, 1:] @ WEIGHTS[1:])))).mean()
    assert rates.lc_sampling_error < 2.5
    assert rates.length_controlled == pytest.approx(truth, abs=2.5 * rates.lc_sampling_error)


def test_the_length_control_is_a_logistic_fit_of_the_same_design(tmp_path):
    """Without its penalty, which 805 items leave little of; the gamed baselines count a tenth each."""
    hard, table = gamed(tmp_path / "gamed.csv")
    rows = made(805)
    lengths = np.array([len(row["left"]) - len(row["right"]) for row in rows])
    x = np.column_stack([np.tanh(lengths / lengths.std(ddof=1)), hard, np.ones(805)])
    others = np.array([[np.tanh(row["std_delta_len"]), row["instruction_difficulty"], 0] for row in table])
    design = np.vstack([x, others])
    y = np.array([row["preference"] for row in [*rows, *table]])
    weight = np.repeat([1, 0.1], [805, 1610])

    def loss(w):
        z = design @ w
        gradient = design.T @ (weight * (1 / (1 + np.exp(-z)) - y))
        return weight @ (np.logaddexp(0, z) - y * z), gradient

    fit = minimize(loss, np.zeros(3), jac=True, method="BFGS", options={"gtol": 1e-10}).x
    expected = 1 / (1 + np.exp(-(x[:, 1:] @ fit[1:])))
    rates = of(rows, str(tmp_path / "gamed.csv"))
    assert rates.length_controlled == pytest.approx(100 * expected.mean(), abs=0.5)
    assert abs(rates.length_controlled - rates.win_rate) > 0.3 or rates.notes  # it does control


@pytest.mark.filterwarnings("ignore::FutureWarning")  # of scikit-learn, about the library
def test_without_difficulties_the_file_that_the_library_still_reads_changes_nothing(tmp_path):
    gamed(tmp_path / "gamed.csv")
    rows = made()
    with use_file(tmp_path / "gamed.csv"):
        librarys = library().get_length_controlled_winrate(
            annotations(rows, "model", BASELINE, JUDGE), glm_name="length_controlled_minimal", save_weights_dir=None
        )
    rates = of(rows)
    assert rates.length_controlled == librarys["length_controlled_winrate"]
    assert "lengths alone" in rates.control
    assert "not the leaderboard's" in rates.control


@pytest.mark.parametrize("with_difficulties", [False, True])
def test_the_sampling_error_is_that_of_resampled_items(tmp_path, with_difficulties):
    gamed(tmp_path / "gamed.csv", seed=3)
    where = str(tmp_path / "gamed.csv") if with_difficulties else "none"
    rows = made(150, seed=5)
    result = of(rows, where)
    draw = np.random.default_rng(0)
    rates = []
    for _ in range(24):
        again = [{**rows[n], "id": str(i)} for i, n in enumerate(draw.integers(0, len(rows), len(rows)))]
        rates.append(of(again, where).length_controlled)
    assert result.lc_sampling_error == pytest.approx(np.std(rates, ddof=1), rel=0.45)  # three errors of 24 resamples'
    values = list(result.linearised.values())
    assert 100 * np.mean(values) == pytest.approx(result.length_controlled)
    assert 100 * np.std(values, ddof=1) / 150**0.5 == pytest.approx(result.lc_sampling_error)


def test_an_item_has_the_difficulty_of_its_index_wherever_its_row_stands(tmp_path):
    gamed(tmp_path / "gamed.csv")
    rows = made(300)[100:]  # as when the first instructions are left out
    one, other = (of(order, str(tmp_path / "gamed.csv")) for order in (rows, rows[::-1]))
    assert one.length_controlled == pytest.approx(other.length_controlled, abs=0.01)
    assert one.lc_sampling_error == pytest.approx(other.lc_sampling_error, rel=1e-3)
    assert {id: pytest.approx(value, abs=1e-4) for id, value in one.linearised.items()} == dict(other.linearised)


def test_where_lengths_hardly_differ_the_rate_is_the_plain_one():
    rows = [{**row, "right": row["left"] + "." * (row["index"] % 2)} for row in made(400)]
    rates = of(rows)
    assert rates.length_controlled == pytest.approx(rates.win_rate, abs=1.5)
    assert rates.notes == []


def test_where_lengths_are_equal_the_rate_is_the_plain_one_to_the_last_digit():
    rates = of([{**row, "right": "m" * len(row["left"])} for row in made(20)])
    assert rates.length_controlled == rates.win_rate
    assert rates.lc_sampling_error == pytest.approx(rates.standard_error)
    assert rates.linearised == rates.items
    assert "as long as the baseline's" in rates.control


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (made(4), "5 readable verdicts"),
        (made(1), "5 readable verdicts"),
        ([{**row, "preference": None if row["index"] > 3 else 0.1 * row["index"]} for row in made(30)], "5 readable"),
        ([{**row, "preference": 0.0} for row in made(30)], "all verdicts are the same"),
        ([{**row, "right": row["left"] + "..."} for row in made(30)], "by the same length"),
    ],
)
def test_where_there_is_nothing_to_fit_there_is_no_rate_but_a_note(rows, said):
    rates = of(rows)
    assert rates.length_controlled is None
    assert said in rates.notes[0]
    assert math.isfinite(rates.win_rate)
    assert math.isfinite(rates.standard_error)


@needs_data
def test_the_librarys_doubt_becomes_a_note():
    rates = of(published("gpt-3.5-turbo-1106"))  # a third as long as the baseline's: lengths alone mislead
    assert rates.length_controlled > 30
    assert any("may have failed" in note for note in rates.notes)


def test_a_rate_that_the_penalty_alone_made_is_none():
    rates = of([{**row, "preference": 0.5 + 0.2 * (-1) ** row["index"]} for row in made(50)])
    assert rates.length_controlled is None
    assert rates.notes == [
        "no length-controlled win rate: the regression's penalty left no effect at all, and 50% is where it starts"
    ]


def test_a_rate_that_could_have_been_any_is_none():
    rates = of([{**row, "right": "mmm", "preference": 0.002 * (row["index"] % 3)} for row in made(12)])  # all too short
    assert rates.length_controlled is None
    assert "could as well have found anything" in rates.notes[0]


def test_unreadable_verdicts_are_counted_and_left_out():
    rows = made(40)
    rows[7]["preference"] = rows[9]["preference"] = None
    rates = of(rows)
    rest = [row["preference"] for row in rows if row["preference"] is not None]
    assert (rates.n, rates.unreadable) == (38, 2)
    assert rates.win_rate == pytest.approx(100 * np.mean(rest))
    assert "item-7" not in rates.items
    assert {"item-7", "item-9"} < rates.linearised.keys()
    with pytest.raises(StageError, match="none of the judge's 3 verdicts on model could be read"):
        of([{**row, "preference": None} for row in rows[:3]])


def test_an_item_judged_in_both_orders_counts_once():
    rows = [
        verdict(n, "left", "right", p, swapped=swapped) for n in range(6) for swapped, p in ((False, 0.2), (True, 0.8))
    ]
    rows[0]["preference"] = None
    assert of(rows).n == 6
    assert of(rows).items == {"item-0": pytest.approx(0.8), **{f"item-{n}": pytest.approx(0.5) for n in range(1, 6)}}


def test_annotations_have_the_librarys_form():
    (row,) = annotations([verdict(3, "baseline's", "model's", 0.25, "Why?")], "student", "teacher", "judge")
    assert row == {
        "id": "item-3", "index": 3, "instruction": "Why?", "output_1": "baseline's", "generator_1": "teacher",
        "output_2": "model's", "generator_2": "student", "annotator": "judge", "preference": 1.25,
    }  # fmt: skip


def test_another_baseline_or_judge_is_spoken_of(tmp_path):
    gamed(tmp_path / "gamed.csv")
    where, rows = str(tmp_path / "gamed.csv"), made(40)
    assert "GPT-4-turbo" not in of(rows, where).control
    assert "the judge here is tiny" in of(rows, where, judge="tiny").control
    other = of(rows, where, baseline="user/Self-Instruct").control
    assert "the baseline here is user/Self-Instruct" in other
    assert "not the leaderboard's" in other


def test_a_wrong_file_of_difficulties_is_named(tmp_path):
    path, rows = tmp_path / "gamed.csv", made(40)
    with pytest.raises(InputError, match=r"alpaca_eval.difficulties = .*gamed.csv: not a CSV file"):
        of(rows, str(path))
    path.write_text("index,preference\n0,0.5\n")
    columns = "model, std_delta_len, instruction_difficulty, not_gamed_baseline"
    with pytest.raises(InputError, match=f"lacks the columns {columns}; expected is a file like df_gamed.csv$"):
        of(rows, str(path))
    gamed(path, not_gamed_baseline=0)
    with pytest.raises(InputError, match="the column not_gamed_baseline holds something else than True and False"):
        of(rows, str(path))
    gamed(path, std_delta_len="")
    with pytest.raises(InputError, match="the column std_delta_len holds something else than numbers"):
        of(rows, str(path))
    gamed(path, n=30)
    with pytest.raises(InputError, match="row 31 is not that of the instruction with index 30"):
        of(rows, str(path))
    gamed(path, order=list(reversed(range(805))))
    with pytest.raises(InputError, match="row 1 is not that of the instruction with index 0"):
        of(rows, str(path))


@pytest.fixture
def offline(tmp_path, monkeypatch):
    """The hub out of reach, and its cache, empty."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    alpaca_library._published.cache_clear()
    yield tmp_path / "cache" / "datasets--tatsu-lab--alpaca_eval"
    alpaca_library._published.cache_clear()


def test_without_the_hub_lengths_alone_are_controlled_and_that_is_said(offline):
    rows = made(60)
    rates = of(rows, "hub")
    assert rates.control.startswith("the hub could not be reached for instruction difficulties")
    assert rates.length_controlled == of(rows).length_controlled


@pytest.mark.filterwarnings("ignore::FutureWarning")  # of scikit-learn, about the library
def test_the_hubs_file_is_the_one_that_the_library_takes(offline):
    snapshot = offline / "snapshots" / ("a" * 40)
    snapshot.mkdir(parents=True)
    (offline / "refs").mkdir()
    (offline / "refs" / "main").write_text("a" * 40)
    gamed(snapshot / "df_gamed.csv")
    rows = made(60)
    rates, before = of(rows, "hub"), library().hf_hub_download
    librarys = library().get_length_controlled_winrate(annotations(rows, "m", BASELINE, JUDGE), save_weights_dir=None)
    assert rates.length_controlled == librarys["length_controlled_winrate"]
    assert rates.control.endswith("from the hub")
    assert before is huggingface_hub.hf_hub_download  # put back


def test_nothing_is_written_beside_the_library():
    of(made(40))
    assert not (Path(library().__file__).parent / "weights").exists()
