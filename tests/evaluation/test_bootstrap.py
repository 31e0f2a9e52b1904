"""The paired bootstrap: scipy's interval, a p-value that keeps its promise, marks that equal models never get."""

import math

import numpy as np
import pytest
from scipy import stats

from montessori.evaluation.bootstrap import Difference, against_baseline, compare, difference, marks
from montessori.evaluation.card import Card, Column, Measure, Score

SHARE = Column("Share", "share", "%", scale=100)
LOSS = Column("Loss", "loss", "nats/token", lower_is_better=True)
WINS = Column("Wins", "wins", "%", scale=100, baseline="base")


def items(values) -> dict[str, float]:
    return {str(i): float(value) for i, value in enumerate(values)}


def card(column: Column, models: dict[str, dict[str, float]], **more) -> Card:
    """A card of one column; a model without items has no score."""
    scores = {
        (model, column.key): Score(Measure(float(np.mean(list(own.values()))), 0.1, len(own)), own)
        for model, own in models.items()
        if own
    }
    return Card("c", "c", list(models), [column], scores, **more)


def gap_of(left, right, seed: int = 0) -> Difference:
    gap = difference(items(left), items(right), seed)
    assert gap
    return gap


@pytest.mark.parametrize("kind", ["losses", "right or wrong", "grades"])
def test_the_interval_is_scipys_percentile_interval(kind):
    draw = np.random.default_rng(5)
    left, right = {
        "losses": lambda: (draw.gamma(2, 0.5, 300), draw.gamma(2, 0.6, 300)),
        "right or wrong": lambda: (draw.random(500) < 0.6, draw.random(500) < 0.5),
        "grades": lambda: (draw.integers(1, 11, 160), draw.integers(1, 10, 160)),
    }[kind]()
    gaps = left.astype(float) - right.astype(float)
    gap = gap_of(left, right)
    scipys = stats.bootstrap(
        (gaps,), np.mean, n_resamples=10_000, method="percentile", rng=np.random.default_rng(1)
    ).confidence_interval
    error = gaps.std() / len(gaps) ** 0.5
    assert gap.mean == pytest.approx(gaps.mean(), abs=1e-12)
    # A 2.5% quantile of 10,000 normal draws has a standard error of 0.027 of their spread; the two differ by 1.4 of it.
    assert gap.low == pytest.approx(scipys.low, abs=4 * 1.4 * 0.027 * error + 1 / len(gaps) * (kind != "losses"))
    assert gap.high == pytest.approx(scipys.high, abs=4 * 1.4 * 0.027 * error + 1 / len(gaps) * (kind != "losses"))
    assert gap.n == len(gaps)


def test_items_drawn_in_several_portions_are_still_resampled_whole():
    left = np.random.default_rng(0).normal(0, 1, 14_000)  # 143 resamples at once
    gap = gap_of(left, np.zeros(14_000))
    error = left.std() / 14_000**0.5
    assert (gap.high - gap.low) / 2 == pytest.approx(1.96 * error, rel=0.06)


def test_the_interval_covers_the_truth_nineteen_times_in_twenty():
    draw = np.random.default_rng(2)
    tries, covered, rejected = 200, 0, 0
    for n in range(tries):
        left, right = draw.random(120) < 0.7, draw.random(120) < 0.6
        gap = gap_of(left, right, seed=n)
        covered += gap.low <= 0.1 <= gap.high
        same = gap_of(draw.gamma(2, 1, 60), draw.gamma(2, 1, 60), seed=n)
        rejected += same.p_value < 0.05
    assert 0.91 < covered / tries < 0.99
    assert 0.01 < rejected / tries < 0.1


def test_the_p_value_is_close_to_the_paired_t_tests():
    draw = np.random.default_rng(3)
    left = draw.normal(0, 1, 200)
    right = left + draw.normal(0.1, 1, 200)
    assert gap_of(left, right).p_value == pytest.approx(stats.ttest_rel(left, right).pvalue, abs=0.02)


def test_no_p_value_is_zero_and_equal_models_have_one():
    assert gap_of(np.ones(50), np.zeros(50)).p_value == pytest.approx(2 / 10_001)
    assert gap_of([0.1, 0.7, 0.3], [0.1, 0.7, 0.3]) == Difference(0, 0, 0, 1, 3)


def test_a_few_items_that_agree_claim_no_more_than_a_sign_test_would():
    assert gap_of([1], [0]).p_value == 1
    assert gap_of(np.ones(5), np.zeros(5)).p_value == 2**-4
    # Three answers of a thousand differ: nearly all resamples that hold one of them agree.
    assert gap_of([1, 1, 1, *[0] * 997], np.zeros(1000)).p_value == pytest.approx(0.25, abs=0.001)


def test_only_items_that_both_have_are_compared_whatever_their_order():
    left = {"a": 1.0, "b": 0.5, "only left": 9.0}
    right = {"only right": 9.0, "b": 0.0, "a": 0.0}
    gap = difference(left, right)
    assert gap and (gap.mean, gap.n) == (0.75, 2)
    assert difference(dict(reversed(left.items())), right) == gap
    assert difference(left, {"z": 1.0}) is None


def test_the_same_seed_gives_the_same_difference():
    draw = np.random.default_rng(4)
    left, right = draw.random(100), draw.random(100)
    assert gap_of(left, right, 1) == gap_of(left, right, 1) != gap_of(left, right, 2)


def test_the_best_and_the_second_are_marked_where_they_lead_beyond_the_noise():
    draw = np.random.default_rng(0)
    three = {name: items(draw.random(400) < share) for name, share in (("a", 0.3), ("b", 0.9), ("c", 0.6))}
    assert marks(card(SHARE, three), SHARE) == {"b": "best", "c": "second"}
    assert marks(card(LOSS, three), LOSS) == {"a": "best", "c": "second"}
    assert marks(card(SHARE, {name: three[name] for name in "ac"}), SHARE) == {"c": "best"}


def test_of_two_leaders_that_cannot_be_told_apart_neither_is_marked():
    draw = np.random.default_rng(1)
    leader = draw.random(400) < 0.8
    other = np.where(np.arange(400) < 2, ~leader, leader)
    models = {"a": items(leader), "b": items(other), "c": items(draw.random(400) < 0.2)}
    assert marks(card(SHARE, models), SHARE) == {}


def test_equal_models_are_never_marked():
    same = items(np.random.default_rng(0).random(100))
    assert marks(card(SHARE, {"a": same, "b": dict(same), "c": dict(same)}), SHARE) == {}
    draw = np.random.default_rng(7)
    tries = 100
    marked = sum(
        bool(marks(card(SHARE, {name: items(draw.random(150) < 0.5) for name in "abc"}), SHARE)) for _ in range(tries)
    )
    assert marked / tries < 0.06


def test_a_mark_needs_a_smaller_p_value_the_more_models_it_leads():
    ones, zeros = items(np.ones(6)), items(np.zeros(6))  # six items of one sign: p = 2^-5 = 0.031
    assert marks(card(SHARE, {"a": ones, "b": zeros}), SHARE) == {"a": "best"}
    assert marks(card(SHARE, {"a": ones, "b": zeros, "c": zeros}), SHARE) == {}


def test_a_model_that_was_not_measured_or_shares_no_item_is_not_beaten():
    many = np.ones(50)
    assert marks(card(SHARE, {"a": items(many)}), SHARE) == {}
    assert marks(card(SHARE, {"a": {}, "b": {}}), SHARE) == {}
    assert marks(card(SHARE, {"a": items(many), "b": items(0 * many), "c": {}}), SHARE) == {"a": "best"}
    elsewhere = {f"other {i}": 0.0 for i in range(50)}
    assert marks(card(SHARE, {"a": items(many), "b": elsewhere}), SHARE) == {}


def test_a_diverged_model_neither_wins_nor_hides_the_winner():
    models = card(LOSS, {"a": items(np.ones(50)), "b": items(np.zeros(50)), "c": items([math.nan])})
    assert marks(models, LOSS) == {"b": "best"}


def test_win_rates_are_compared_with_each_other_and_with_the_even_score_of_their_baseline():
    draw = np.random.default_rng(0)
    better, worse = items(draw.normal(0.7, 0.1, 100)), items(draw.normal(0.3, 0.1, 100))
    models = {"better": better, "base": {}, "worse": worse}
    assert marks(card(WINS, models), WINS) == {"better": "best", "base": "second"}
    assert marks(card(WINS, {"base": {}, "worse": worse}), WINS) == {"base": "best"}
    gap = compare(card(WINS, models), WINS, "base", "worse")
    assert gap and gap.mean == pytest.approx(0.5 - np.mean(list(worse.values()))) and gap.n == 100


def test_every_other_model_is_compared_with_the_baseline():
    models = {"a": items(np.ones(30)), "base": items(np.zeros(30)), "c": {}}
    gaps = against_baseline(card(SHARE, models, baseline="base"))
    assert {key: gap.mean for key, gap in gaps.items()} == {("a", "share"): 1}
    assert against_baseline(card(SHARE, models)) == {}
    wins = against_baseline(card(WINS, {"a": items(np.ones(30)), "base": {}}, baseline="base"))
    assert wins["a", "wins"].mean == 0.5


def test_few_items_reject_no_more_often_than_they_should():
    """Of six normal gaps the bootstrap alone would reject one in seven at 5%."""
    draw = np.random.default_rng(5)
    rejected = sum(gap_of(draw.normal(size=6), np.zeros(6), seed).p_value < 0.05 for seed in range(200))
    assert rejected <= 20  # 10 are to be expected
