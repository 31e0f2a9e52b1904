"""The sentence about an estimator that is far from a better one, and the numbers behind it."""

import statistics
from typing import Any

import pytest

from montessori.influence import Score
from montessori.reporting.scores import estimator_doubt
from tasks.reports.run import _doubts
from tasks.score_influence import _agreement

TRUTHS = [1e-4 * n for n in range(20)]


def check(estimates: list[float]) -> dict[str, Any]:
    better = [Score(f"p{n}", truth, 1.0, 5, "ok") for n, truth in enumerate(TRUTHS)]
    scored = [{"id": f"p{n}", "influence": value, "status": "ok"} for n, value in enumerate(estimates)]
    return _agreement("taylor in float32", better, scored)


def test_ranks_that_agree_do_not_hide_large_errors() -> None:
    estimates = [*TRUTHS[:-1], 6e-3]  # the first point stays first, by a multiple of all differences
    found = check(estimates)
    assert found["spearman"] == 1.0
    assert found["deviation_of_error"] == pytest.approx(statistics.stdev([0.0] * 19 + [6e-3 - 19e-4]))
    doubt = estimator_doubt(found)
    assert doubt is not None
    assert "p19 has 6.0×10⁻³ for 1.9×10⁻³" in doubt and "the errors spread 9.2×10⁻⁴" in doubt
    assert found["furthest"][0] == {"id": "p19", "influence": 6e-3, "better": TRUTHS[19]}
    assert len(found["furthest"]) == 3


@pytest.mark.parametrize(("share", "doubtful"), [(0.29, False), (0.31, True)])
def test_errors_may_spread_up_to_a_share_of_the_influences(share: float, doubtful: bool) -> None:
    wave = [(-1) ** n for n in range(20)]  # in the spread of errors, not in the ranks' order
    size = share * statistics.stdev(TRUTHS) / statistics.stdev(wave)
    found = check([truth + size * sign for truth, sign in zip(TRUTHS, wave, strict=True)])
    found["spearman"] = 0.99  # only the errors count here
    assert (estimator_doubt(found) is not None) == doubtful


def test_an_error_that_all_points_share_moves_no_point() -> None:
    assert estimator_doubt(check([truth + 1.0 for truth in TRUTHS])) is None


def test_the_report_of_a_run_gives_the_same_warning() -> None:
    found = check(TRUTHS[::-1])
    shards = [{"summary": {"check": found}}, {"summary": {}}, {"summary": {"check": check(TRUTHS)}}]
    assert _doubts(shards) == [estimator_doubt(found)]


def test_wrong_ranks_and_equal_scores_are_doubtful_and_few_points_are_not() -> None:
    assert estimator_doubt(check(TRUTHS[::-1])) is not None
    equal = estimator_doubt(check([1e-4] * 20))
    assert equal is not None and "rank correlation is none" in equal
    assert estimator_doubt(check(TRUTHS[::-1]) | {"points": 9}) is None
