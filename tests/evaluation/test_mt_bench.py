"""MT-Bench scores, against sums made by hand."""

import math

import pytest

from montessori.errors import StageError
from montessori.evaluation.card import Measure
from montessori.evaluation.mt_bench import score


def graded(**questions):
    """Grades by question: the category, then one a turn."""
    return [
        {"id": id, "category": category, "turn": turn, "grade": grade}
        for id, (category, *grades) in questions.items()
        for turn, grade in enumerate(grades)
    ]


GRADES = graded(q1=("math", 2, 4), q2=("math", 6, None), q3=("writing", 9, 7), q4=("writing", None, None))


def test_the_score_is_the_mean_over_graded_turns():
    result = score(GRADES)
    assert result.measure.mean == pytest.approx(28 / 5)
    assert result.measure.n == 3  # questions
    assert result.unreadable == 3
    assert result.items == {"q1": 3, "q2": 6, "q3": 8}


def test_the_standard_error_is_over_questions():
    # Sums less 5.6 a turn: 6 - 11.2, 6 - 5.6 and 16 - 11.2; 5 turns of 3 questions.
    expected = math.sqrt(3 / 2 * (5.2**2 + 0.4**2 + 4.8**2)) / 5
    assert score(GRADES).measure.standard_error == pytest.approx(expected)
    same = score(graded(a=("x", 1, 1), b=("x", 9, 9), c=("x", 5, 5)))
    assert same.measure == Measure(5, pytest.approx(4 / math.sqrt(3)), 3)  # as of 3 grades, not of 6


def test_categories_and_turns_have_their_own_means():
    assert score(GRADES).groups == {
        "math": Measure(4, pytest.approx(math.sqrt(2 * 2 * 2**2) / 3), 2),
        "writing": Measure(8, 0, 1),
    }
    assert score(GRADES).turns == {
        "first turn": Measure(pytest.approx(17 / 3), pytest.approx(math.sqrt(37 / 9)), 3),
        "second turn": Measure(5.5, pytest.approx(1.5), 2),
    }
    assert list(score(graded(a=("x", 1), b=("x", 9))).turns) == ["first turn"]


def test_questions_without_a_category_make_no_group():
    assert score(graded(a=(None, 3, 4))).groups == {}


def test_nothing_readable_is_no_score():
    with pytest.raises(StageError, match="none of 2 grades could be read"):
        score(graded(a=("math", None, None)))
