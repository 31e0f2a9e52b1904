"""Means, paired tests and Holm's correction over seeds: scipy's numbers, and no mark for noise."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from montessori.reporting.study.comparison import difference, holm, leader, over_seeds


def by_seed(values):
    return dict(enumerate(map(float, values)))


@given(st.integers(2, 30), st.floats(-2, 2), st.integers(0, 2**32 - 1))
def test_the_difference_is_scipys_paired_t_test_on_the_seeds_that_both_have(n, shift, seed):
    draw = np.random.default_rng(seed)
    left = draw.normal(shift, 1, n)
    right = draw.normal(0, 1, n)
    found = difference(by_seed(left) | {98: 5.0}, by_seed(right) | {99: -5.0})
    scipys = stats.ttest_rel(left, right)
    interval = scipys.confidence_interval(0.95)
    assert found.n == n
    assert found.mean == pytest.approx((left - right).mean(), abs=1e-12)
    assert found.p_value == pytest.approx(scipys.pvalue, rel=1e-6)
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high), abs=1e-9)


def test_a_mean_has_the_standard_error_of_its_seeds_and_one_seed_has_none():
    measure = over_seeds(by_seed([1, 2, 4]).values())
    assert (measure.mean, measure.n) == (pytest.approx(7 / 3), 3)
    assert measure.standard_error == pytest.approx(stats.sem([1, 2, 4]))
    assert math.isnan(over_seeds([1.0]).standard_error)
    assert over_seeds([]) is None


def test_fewer_than_two_shared_seeds_are_not_tested():
    assert difference({0: 1.0, 1: 2.0}, {1: 1.0, 2: 2.0}) is None


@pytest.mark.parametrize("shift", [0.0, 0.1])
def test_differences_that_never_vary_are_no_test(shift):
    values = {seed: 1.1 * seed for seed in range(5)}
    found = difference({seed: value + shift for seed, value in values.items()}, values)
    assert found.mean == pytest.approx(shift)
    assert all(map(math.isnan, (found.p_value, found.low, found.high)))


def test_holms_correction_by_hand():
    corrected = holm({"a": 0.01, "b": 0.04, "c": 0.03, "d": 0.005, "none": math.nan})
    assert corrected == pytest.approx({"d": 0.02, "a": 0.03, "c": 0.06, "b": 0.06})
    assert holm({"a": 0.7, "b": 0.9}) == {"a": 1.0, "b": 1.0}


def test_the_leader_is_better_than_every_other_row_beyond_the_noise():
    rows = {"low": by_seed([1, 2, 3, 4]), "middle": by_seed([2.1, 2.9, 4.0, 5.1]), "high": by_seed([9, 10.2, 11, 12])}
    assert leader(rows, lower_is_better=False) == "high"
    assert leader(rows, lower_is_better=True) == "low"
    assert leader({**rows, "as high": by_seed([9.1, 10, 11.1, 11.9])}, lower_is_better=False) is None
    assert leader({**rows, "one seed": {0: 3.0}}, lower_is_better=False) is None  # nobody knows
    assert leader({"alone": rows["low"], "unmeasured": {}}, lower_is_better=False) is None


def test_equal_rows_hardly_ever_have_a_leader():
    draw = np.random.default_rng(0)
    led = sum(
        leader({row: by_seed(draw.normal(0, 1, 5)) for row in range(4)}, lower_is_better=False) is not None
        for _ in range(1000)
    )
    assert led / 1000 < 0.05
