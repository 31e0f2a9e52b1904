import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from montessori.settings.training import Training
from montessori.training.trainer import learning_rate_factor


def factors(steps, **shares):
    return [learning_rate_factor(step, steps, Training(**shares)) for step in range(steps)]


def test_a_whole_warm_up_rises_linearly_to_the_peak():
    assert factors(5, warm_up_share=1.0, decay_share=0.0) == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])


def test_warm_up_stable_decay_takes_the_shares_of_the_paper():
    rates = factors(20)  # 0.1, 0.5, 0.4
    assert rates[:2] == [0.5, 1.0]
    assert rates[2:12] == [1.0] * 10
    assert rates[12:] == pytest.approx([1e-3 + 0.999 * (1 + math.cos(math.pi * k / 8)) / 2 for k in range(1, 9)])
    assert rates[-1] == pytest.approx(1e-3)


def test_without_warm_up_and_decay_the_rate_is_the_peak():
    assert factors(4, warm_up_share=0.0, decay_share=0.0) == [1.0] * 4


def test_the_rate_after_the_last_step_is_defined():
    assert learning_rate_factor(10, 10, Training()) == pytest.approx(1e-3)
    assert learning_rate_factor(10, 10, Training(warm_up_share=1.0, decay_share=0.0)) == 1.0


@given(st.integers(1, 300), st.floats(0, 1), st.floats(0, 1))
def test_every_step_learns_and_the_rate_rises_then_falls(steps, warm_up, rest):
    rates = factors(steps, warm_up_share=warm_up, decay_share=(1 - warm_up) * rest)
    peak = rates.index(max(rates))
    assert all(0 < rate <= 1 for rate in rates)
    assert rates[: peak + 1] == sorted(rates[: peak + 1])
    assert rates[peak:] == sorted(rates[peak:], reverse=True)
