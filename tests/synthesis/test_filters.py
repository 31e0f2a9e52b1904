"""Parsing the teacher's output, and the filters of its instructions."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from montessori.settings.generation import Instructions
from montessori.synthesis import prompts
from montessori.synthesis.filters import rejection_reason
from montessori.synthesis.prompts import parse_instruction

DEFAULTS = Instructions()


@pytest.mark.parametrize(
    ("raw", "instruction"),
    [
        ("It trains sums.\n<instruction>Add 2 and 3.</instruction>", "Add 2 and 3."),
        ("<instruction>First.</instruction> or <instruction>Second.</instruction> end", "Second."),
        ("<instruction>\n  Add \t 2\n\nand 3. </instruction>", "Add 2 and 3."),
        ("<instruction></instruction>", ""),
        ("<instruction>Whole.</instruction> <instruction>Cut off at the", "Whole."),
        ("<instruction>Begun <instruction>Begun again.</instruction>", "Begun again."),
        ("<instruction>Closed.</instruction> twice</instruction>", "Closed."),
        ("Add 2 and 3.", None),
        ("<instruction>Cut off at the", None),
        ("</instruction>Add<instruction>", None),
        ("", None),
    ],
)
def test_the_last_tagged_instruction_is_taken_with_its_white_space_collapsed(raw, instruction):
    assert parse_instruction(raw) == instruction


@pytest.mark.parametrize(
    ("instruction", "reason"),
    [
        ("", "too short"),
        ("Add 2", "too short"),
        ("Add 2.", None),
        ("x" * 400, None),
        ("x" * 401, "too long"),
        ("- Add 2 and 3.", "begins with punctuation or a non-ASCII character"),
        ("'Add' is what?", "begins with punctuation or a non-ASCII character"),
        ("Überlege dir etwas.", "begins with punctuation or a non-ASCII character"),
        ("写一首关于大海的诗。", "begins with punctuation or a non-ASCII character"),
        ("2 and 3 make what?", None),
        ("Describe this image.", "needs more than text"),
        ("Describe these IMAGES.", "needs more than text"),
        ("Open the file, then close it.", "needs more than text"),
        ("Plot the function.", "needs more than text"),
        ("Go to the shop and buy milk.", "needs more than text"),
        ("Write a profile of a mapmaker.", None),
        ("Explain withdrawals and a graphic novel's plotline.", None),
        ("Where did she go today?", None),
    ],
)
def test_the_filters_keep_and_reject_as_the_method_says(instruction, reason):
    assert rejection_reason(instruction, DEFAULTS) == reason


def test_the_word_list_and_the_limits_are_settings():
    changed = Instructions(forbidden_words=("c++", "poem"), min_characters=3, max_characters=20)
    assert rejection_reason("Poems are fine", changed) is None
    assert rejection_reason("Write a poem", changed) == "needs more than text"
    assert rejection_reason("Map", changed) is None
    assert rejection_reason("x" * 21, changed) == "too long"
    assert rejection_reason("Describe this image.", Instructions(forbidden_words=())) is None


@settings(deadline=None)  # an example may take long on a busy machine
@given(st.text(max_size=500))
def test_no_output_of_a_teacher_breaks_the_filters(raw):
    for text in (raw, f"<instruction>{raw}</instruction>"):
        instruction = parse_instruction(text)
        if instruction is not None:
            assert instruction == " ".join(instruction.split())
            assert rejection_reason(instruction, DEFAULTS) in {
                None,
                "too short",
                "too long",
                "begins with punctuation or a non-ASCII character",
                "needs more than text",
            }


@settings(deadline=None)  # an example may take long on a busy machine
@given(st.text(), st.text(st.characters(exclude_characters="<")))
def test_what_the_prompt_asks_for_is_what_is_parsed(rationale, instruction):
    assert parse_instruction(prompts.teacher_output(rationale, instruction)) == " ".join(instruction.split())


def test_the_prompt_shows_every_example_in_order_and_once():
    examples = [f"Example {n}." for n in range(8)]
    (message,) = prompts.few_shot(examples)
    assert message["role"] == "user"
    shown = message["content"].split("Examples:\n")[1]
    positions = [shown.index(f"<instruction>{example}</instruction>") for example in examples]
    assert positions == sorted(positions)
    assert shown.count("<instruction>") == 8
