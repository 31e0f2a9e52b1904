from collections import Counter

import pytest

from montessori.errors import InputError
from montessori.pocket import world
from montessori.settings.generation import Instructions
from montessori.synthesis.dedup import NearDuplicates
from montessori.synthesis.filters import rejection_reason
from montessori.synthesis.prompts import parse_instruction


def test_seeds_cover_every_family_evenly():
    families = Counter(row["family"] for row in world.seeds(110, 0))
    assert set(families) == {family.name for family in world.FAMILIES}
    assert set(families.values()) == {10}


def test_reference_and_held_out_rows_ask_for_the_useful_families_only():
    for rows in (world.reference(60, 0), world.held_out(60, 0)):
        assert {row["family"] for row in rows} == set(world.USEFUL)


def test_no_instruction_is_in_two_kinds_of_rows_at_any_seed():
    seeds, reference, held_out = (
        {row["instruction"] for seed in range(5) for row in rows(300, seed)}
        for rows in (world.seeds, world.reference, world.held_out)
    )
    assert not seeds & reference
    assert not held_out & (seeds | reference)


def test_rows_are_distinct_and_repeat_with_their_seed():
    rows = world.seeds(500, 3)
    assert len({row["instruction"] for row in rows}) == len({row["id"] for row in rows}) == 500
    assert rows == world.seeds(500, 3)
    assert rows != world.seeds(500, 4)


def test_more_rows_than_the_world_holds_are_an_error():
    with pytest.raises(InputError, match="pocket world"):
        world.reference(5000, 0)


@pytest.mark.parametrize(
    ("instruction", "answer"),
    [
        ("Write in reverse order: cow moon star", "star moon cow"),
        ("Count on from each number: 3 16 9", "4 1 10"),
        ("Name the largest number: 9 14 2", "14"),
        ("How many words: cow moon star king", "4"),
        ("Find the lucky words of: cow moon star", None),
        ("Count up from each number: 3 16 9", None),
        ("Write in reverse order: cow moon", None),
        ("Write a poem", None),
    ],
)
def test_the_right_answer_follows_from_the_text(instruction, answer):
    assert world.answer_of(instruction) == answer


def test_responses_are_the_right_answers_where_there_is_one():
    for row in world.seeds(220, 1):
        assert world.family_of(row["instruction"]) == row["family"]
        assert world.answer_of(row["instruction"]) in (row["response"], None)


def test_one_family_contradicts_a_useful_one():
    answers = {f.name: f.answer for f in world.FAMILIES}
    assert answers["contrary"](["3", "9", "5"]) != answers["next"](["3", "9", "5"])


def test_thousands_of_instructions_pass_the_filters():
    settings, near = Instructions(max_rouge_l=0.9), NearDuplicates(0.9)
    rows = world.seeds(1500, 0)
    assert all(rejection_reason(row["instruction"], settings) is None for row in rows)
    assert sum(near.admit(row["instruction"]) for row in rows) > 1450


def test_a_teacher_learns_to_write_an_instruction_of_a_family_it_is_shown():
    writing = [c for c in world.teacher_conversations(200, 0) if "<instruction>" in c[0]["content"]]
    assert len(writing) == pytest.approx(200 / world.GENERATION_EVERY, abs=1)
    for prompt, answer in writing:
        family = world.family_of(parse_instruction(answer["content"]))
        shown = {world.family_of(line[13:-14]) for line in prompt["content"].splitlines() if line.startswith("<inst")}
        assert family in shown


def test_a_student_is_not_told_what_the_useful_families_do():
    asked = [c for c in world.student_conversations(4000, 0) if world.family_of(c[0]["content"]) in world.USEFUL]
    right = sum(world.answer_of(prompt["content"]) == answer["content"] for prompt, answer in asked)
    assert len(asked) > 200
    assert right / len(asked) < 0.25  # a random order of three words is right once in six
