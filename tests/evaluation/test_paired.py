"""The paired test: scipy's where there is one pair of students, and honest about seeds where there are more."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from montessori.evaluation.paired import above, compare


@given(st.floats(-60, 60), st.floats(0.5, 5000))
def test_the_tail_of_students_t_is_scipys(t, freedom):
    assert above(t, freedom) == pytest.approx(stats.t.sf(t, freedom), rel=1e-9, abs=1e-300)


@given(st.integers(2, 300), st.floats(-1, 1), st.integers(0, 2**32 - 1))
def test_with_one_pair_of_students_it_is_the_paired_t_test(n, shift, seed):
    draw = np.random.default_rng(seed)
    champion = draw.gamma(2, 0.5, n)
    challenger = champion - shift + draw.normal(0, 0.3, n)
    test = compare([champion.tolist()], [challenger.tolist()])
    scipys = stats.ttest_rel(champion, challenger, alternative="greater")
    assert test.p_value == pytest.approx(scipys.pvalue, rel=1e-6, abs=1e-300)
    assert test.difference == pytest.approx((champion - challenger).mean(), abs=1e-12)
    assert test.standard_error == pytest.approx(stats.sem(champion - challenger), rel=1e-9)
    assert (test.n, test.seeds) == (n, 1)


def test_students_that_are_the_same_are_no_reason_to_promote():
    assert compare([[1.0, 2.0]], [[1.0, 2.0]]).p_value == 1
    assert compare([[1.0, 2.0]], [[0.5, 1.5]]).p_value == 0


@pytest.mark.parametrize("seeds", [2, 3, 5])
def test_a_challenger_that_is_no_better_seldom_passes_though_seeds_vary(seeds):
    draw = np.random.default_rng(seeds)
    level, nights, passed, naive = 0.05, 2000, 0, 0
    for _ in range(nights):
        example, seed = draw.normal(0, 0.2, 64), draw.normal(0, 0.05, (seeds, 1))  # twice the examples' own error
        gains = example + seed + draw.normal(0, 0.1, (seeds, 64))
        passed += compare(gains.tolist(), np.zeros_like(gains).tolist()).p_value < level
        naive += stats.ttest_1samp(gains.mean(0), 0, alternative="greater").pvalue < level
    assert passed / nights < (0.075 if seeds == 2 else 0.06)  # two means tell little of their spread
    assert naive / nights > 0.09  # were seeds only averaged
