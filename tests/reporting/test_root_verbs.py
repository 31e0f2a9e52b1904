import pytest
from hypothesis import given
from hypothesis import strategies as st

from montessori.reporting.study.verbs import Verb, most_common, root


@pytest.mark.parametrize(
    ("instruction", "expected"),
    [
        ("Write a short story about a dragon.", ("write", "story")),
        ("Please, could you write me some funny poems?", ("write", "poem")),
        ("Can you make a detailed plan for me?", ("make", "plan")),
        ("Given a list of numbers, sort the list.", ("sort", "list")),
        ("You are given a text, and you need to identify all the categories.", ("identify", "category")),
        ("We have some data. Write a summary that sounds fluent.", ("write", "summary")),
        ("Write down the main dish of the day.", ("write", "dish")),
        ("Edit each of the sentences below.", ("edit", "sentence")),
        ("Make a list of items required to travel.", ("make", "list")),
        ("Name some festivals celebrated in India", ("name", "festival")),
        ("Generate a concise but meaningful goodbye message", ("generate", "message")),
        ("Compare and contrast the two regimes.", ("compare", "regime")),
        ("Summarize the king's speech: it was long.", ("summarize", "speech")),
        ("Tell me whether it rains.", ("tell", None)),
        ("Come up with an idea.", ("come", None)),
        ("Reply to the letter.", ("reply", None)),
        ("Re-write this phrase.", ("rewrite", "phrase")),
        ("Question: in which year did it rain?", ("which", None)),
        ("What's new?", ("what", None)),
        ("Is there life on Mars?", ("is", None)),
        ("Reverse: bread cloud cow", ("reverse", None)),
        ("???", None),
        ("", None),
    ],
)
def test_the_root_verb_and_its_object(instruction: str, expected: tuple[str, str | None] | None) -> None:
    assert root(instruction) == expected


@given(st.text(st.sampled_from("aZ é,.?!'-:\n7“請")) | st.text())
def test_any_text_has_a_verb_of_letters_or_none(text: str) -> None:
    found = root(text)
    assert found is None or (found[0][0].isalpha() and found[1] != "")


def test_the_most_common_come_first_and_equal_ones_by_name() -> None:
    asked = ["Write a poem."] * 2 + ["Write a song."] * 2 + ["Write."] + ["Name a colour."] + ["Find a key."] + ["?"]
    assert most_common(asked, verbs=2, objects=3) == (
        [Verb("write", 5, 1, [("poem", 2), ("song", 2)]), Verb("find", 1, 0, [("key", 1)])],
        7,
    )
