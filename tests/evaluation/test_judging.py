"""What a judge is asked, and what its replies mean."""

import json
import math
from pathlib import Path

import pytest

from montessori.errors import InputError
from montessori.evaluation import judge_prompts, judging
from montessori.evaluation.judge_prompts import GRADING, PAIRWISE, Template
from montessori.synthesis.engines import Generation

MT_BENCH = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "mt_bench" / "judge_prompts.jsonl"


def reply(text: str = "", **first: float) -> Generation:
    """A reply with the probabilities of its first tokens."""
    return Generation(text, "stop", 1, {token: math.log(share) for token, share in first.items()} or None)


def test_a_preference_is_the_share_of_the_letter_that_stands_for_the_right_answer() -> None:
    said = reply("B", A=0.2, B=0.6, The=0.1)
    assert judging.preference(said, swapped=False) == pytest.approx(0.75)
    assert judging.preference(said, swapped=True) == pytest.approx(0.25)


def test_a_letter_counts_however_its_token_is_written() -> None:
    first = {"A": 0.1, " a": 0.1, "a\n": 0.05, " B": 0.25, "AB": 0.2}
    said = Generation("A", "stop", 1, {token: math.log(share) for token, share in first.items()})
    assert judging.letters(said) == pytest.approx({"a": 0.25, "b": 0.25})
    assert judging.preference(said, swapped=False) == pytest.approx(0.5)


def test_a_letter_that_is_not_among_the_likely_tokens_has_no_share() -> None:
    assert judging.preference(reply("A", A=0.9, The=0.1), swapped=False) == 0.0
    assert judging.preference(reply("A", A=0.9, The=0.1), swapped=True) == 1.0


def test_letters_that_are_hardly_ever_said_are_no_preference() -> None:
    """A judge that begins with "A better answer …" once in a hundred times has not chosen A."""
    assert judging.preference(reply("The first one.", The=0.8, A=0.01), swapped=False) is None
    assert judging.preference(reply("B", The=0.8, A=0.01), swapped=False) == 1.0


@pytest.mark.parametrize(
    "text", ["B", " b\n", "B.", "[[B]]", "**B**", "Answer: B", "answer B", "__B__", "I looked.\n\nB"]
)
def test_without_probabilities_the_letter_alone_decides(text: str) -> None:
    assert judging.preference(reply(text), swapped=False) == 1.0
    assert judging.preference(reply(text), swapped=True) == 0.0
    assert judging.preference(reply(text, The=0.9), swapped=False) == 1.0  # nor where they are of neither letter


@pytest.mark.parametrize(
    "text",
    [
        "",
        "C",
        "Both",
        "A good answer",
        "a\nb",
        "A or B",
        "A: Paris is the capital.",
        "I prefer the second.",
        "Bravo",
        "7",
    ],
)
def test_what_is_no_letter_is_no_preference(text: str) -> None:
    assert judging.preference(reply(text), swapped=False) is None
    assert judging.preference(reply(text, The=0.5, I=0.3), swapped=True) is None


def test_the_order_decides_which_answer_is_a() -> None:
    (plain,) = judging.comparison("Why?", "left answer", "right answer", swapped=False)
    (swapped,) = judging.comparison("Why?", "left answer", "right answer", swapped=True)
    assert (
        plain["content"].index("Why?") < plain["content"].index("left answer") < plain["content"].index("right answer")
    )
    assert swapped["content"] == judging.comparison("Why?", "right answer", "left answer", swapped=False)[0]["content"]


def test_braces_in_a_question_are_text() -> None:
    (message,) = judging.comparison("What does {question} print?", "{", "{0}", swapped=False)
    assert "What does {question} print?" in message["content"]


@pytest.mark.parametrize(
    ("text", "grade"),
    [
        ("It is right.\nGrade: [[7]]", 7),
        ("Rating: [[8.5]]", 8.5),
        ("[[ 10 ]]", 10),
        ("[[3/10]] so [[3]]", 3),
        ("[[1]]", 1),
        ("[[0]]", None),
        ("[[11]]", None),
        ("[[rating]]", None),
        ("Grade: 7", None),
        ("First [[4]], then [[9]]", None),  # which of them?
        ("[[-3]]", None),
        ("", None),
    ],
)
def test_a_grade_is_read_or_there_is_none(text: str, grade: float | None) -> None:
    assert judging.grade(reply(text)) == grade


TURNS, ANSWERS = ["first question", "second question"], ["first answer", "second answer"]


def graded(turn: int, references: list[str] | None = None) -> str:
    (message,) = judging.grading(GRADING, TURNS, ANSWERS, references=references, turn=turn)
    return message["content"]


def test_a_first_turn_is_graded_on_its_own() -> None:
    assert "first question" in graded(0)
    assert "first answer" in graded(0)
    assert "second" not in graded(0)
    assert "eference" not in graded(0)


def test_a_second_turn_is_graded_with_the_whole_conversation() -> None:
    places = [graded(1).index(text) for text in ("first question", "first answer", "second question", "second answer")]
    assert places == sorted(places)
    assert "eference" not in graded(1)


def test_references_reach_the_turns_that_have_one() -> None:
    assert "ref one" in graded(0, ["ref one", "ref two"])
    assert "ref two" not in graded(0, ["ref one", "ref two"])
    assert all(text in graded(1, ["ref one", "ref two"]) for text in ("ref one", "ref two"))
    assert graded(1, ["ref one", ""]) == graded(1)
    assert "(none)" in graded(1, ["", "ref two"])


@pytest.mark.parametrize("name", GRADING)
def test_our_own_grading_prompts_pass_the_check_of_other_ones(name: str, tmp_path: Path) -> None:
    path = file(tmp_path, {name: {"prompt_template": GRADING[name].text} for name in GRADING})
    assert judge_prompts.load(path) == GRADING


def test_another_wording_is_another_version() -> None:
    assert judging.wording("verdicts") != judging.wording("grades")
    changed = {"pairwise": Template(PAIRWISE.text + " ")}
    assert judge_prompts.version(changed) != judging.wording("verdicts")
    assert judge_prompts.version({"pairwise": PAIRWISE}) == judging.wording("verdicts")


# --- A file of prompts ------------------------------------------------------------------------------------------------


def file(folder: Path, rows: dict[str, dict[str, object]]) -> Path:
    path = folder / "prompts.jsonl"
    lines = [json.dumps({"name": name, "type": "single", "system_prompt": "", **row}) for name, row in rows.items()]
    path.write_text("\n".join(lines) + "\n")
    return path


def test_mt_benchs_own_prompts_can_be_used() -> None:
    if not MT_BENCH.is_file():
        pytest.skip(f"{MT_BENCH} is not there")
    rows = {row["name"]: row for row in map(json.loads, MT_BENCH.read_text().splitlines())}
    prompts = judge_prompts.load(MT_BENCH)
    judging.check(str(MT_BENCH))
    system, message = judging.grading(prompts, TURNS, ANSWERS, references=["ref one", "ref two"], turn=1)
    assert system == {"role": "system", "content": rows["single-math-v1-multi-turn"]["system_prompt"].strip()}
    values = {"question_1": TURNS[0], "question_2": TURNS[1], "answer_1": ANSWERS[0], "answer_2": ANSWERS[1]}
    expected = rows["single-math-v1-multi-turn"]["prompt_template"].format(
        **values, ref_answer_1="ref one", ref_answer_2="ref two"
    )
    assert message == {"role": "user", "content": expected}
    system, message = judging.grading(prompts, TURNS, ANSWERS, references=None, turn=0)
    assert system["content"] == "You are a helpful assistant."
    expected = rows["single-v1"]["prompt_template"].format(question=TURNS[0], answer=ANSWERS[0])
    assert message == {"role": "user", "content": expected}


WHOLE = {name: {"prompt_template": template.text} for name, template in GRADING.items()}


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"single-math-v1": None}, r"judge\.prompts = .*the prompt single-math-v1 is missing"),
        (
            {"single-v1": {"prompt_template": "{question} {answer} {model}"}},
            r"single-v1 has an unknown placeholder \{model\}",
        ),
        ({"single-v1": {"prompt_template": "{question} {answer} {}"}}, r"single-v1 has an unknown placeholder \{\}"),
        ({"single-v1": {"prompt_template": "{question} {answer.x}"}}, r"unknown placeholder \{answer\.x\}"),
        (
            {"single-v1": {"prompt_template": "{question} {answer} {ref_answer_1}"}},
            r"unknown placeholder \{ref_answer_1\}",
        ),
        ({"single-v1-multi-turn": {"prompt_template": "{question_2}"}}, r"single-v1-multi-turn lacks .* \{answer_2\}"),
        ({"single-v1": {"prompt_template": '{question} {answer} {"grade"'}}, r"single-v1.*written twice"),
        ({"single-v1": {"prompt_template": 7}}, r"line \d: the field prompt_template is missing or not text"),
        (
            {"single-v1": {"prompt_template": "{question} {answer}", "system_prompt": 7}},
            r"line \d: the field system_prompt",
        ),
    ],
)
def test_a_wrong_file_of_prompts_is_named_with_what_is_wrong(
    tmp_path: Path, changed: dict[str, dict[str, object] | None], message: str
) -> None:
    rows = {name: row for name, row in {**WHOLE, **changed}.items() if row is not None}
    with pytest.raises(InputError, match=message):
        judging.check(str(file(tmp_path, rows)))


def test_a_file_of_prompts_that_is_none_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"judge\.prompts = .*none\.jsonl: cannot be read"):
        judge_prompts.load(tmp_path / "none.jsonl")
    (tmp_path / "bad.jsonl").write_text("\n{")
    with pytest.raises(InputError, match=r"judge\.prompts = .*bad\.jsonl: line 2 is not JSON"):
        judge_prompts.load(tmp_path / "bad.jsonl")
    (tmp_path / "bad.jsonl").write_text("[]")
    with pytest.raises(InputError, match=r"bad\.jsonl: line 1: expected an object with name"):
        judge_prompts.load(tmp_path / "bad.jsonl")
