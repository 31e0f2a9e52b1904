"""Thoughts of a reasoning model do not become data."""

import pytest

from montessori.synthesis.engines import Answer, Generation
from montessori.synthesis.thinking import remove_thinking


@pytest.mark.parametrize(
    ("text", "left", "finish"),
    [
        ("<think>\nHm.\n</think>\n\nRed.", "Red.", "stop"),
        ("\n<think></think>Red.", "Red.", "stop"),
        ("Hm, red or blue?\n</think>\n\nRed.", "Red.", "stop"),  # the chat template opened the thought
        ("Hm.</think>Red.", "Red.", "stop"),
        ("<think>Red, or", "", "length"),
        ("  \n<think>\nRed, or", "", "length"),
        ("One.\n<think>a</think>\nTwo.<think>b</think> Three.", "One.\nTwo.Three.", "stop"),
        ("<think>a</think>\n\n    if x:\n        y()\n", "    if x:\n        y()\n", "stop"),
        ("<think>a</think>", "", "stop"),
        ("<think>a</think>Red.\n<think>but", "Red.", "length"),
        ("<think>a <think> b</think> c</think> Red.", "Red.", "stop"),
    ],
)
def test_thoughts_are_removed(text, left, finish):
    answer, count = remove_thinking(
        Answer([Generation(text, "stop", 9, {"<": -0.1}), Generation("Blue.", "stop", 2)], 5)
    )
    assert count == 1
    assert answer.generations == [Generation(left, finish, 9), Generation("Blue.", "stop", 2)]


@pytest.mark.parametrize(
    "text",
    ["Red.", "I think>that.", "Split it at `</think>`.", 'text.split("</think>")[-1]', "Write <think> and go on."],
)
def test_texts_without_thoughts_stay_as_they_are(text):
    answer = Answer([Generation(text, "stop", 3, {"R": -0.1})], 5)
    assert remove_thinking(answer) == (answer, 0)
