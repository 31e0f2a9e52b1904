"""What `--baseline` may be, and what its answers are called in tables."""

import json
from pathlib import Path

import pytest

from flows.requests.suite import _baseline
from montessori.errors import InputError
from montessori.evaluation.subjects import Subject
from montessori.settings.suite import Suite

SUITE = Suite.model_validate({"name": "s", "alpaca_eval": {}})
MODELS = [Subject(name, f"hub:user/{name}") for name in ("mine", "theirs")]


def answers(path: Path, *generators: object) -> str:
    rows = [{"instruction": "Why?", "output": "So.", "generator": generator} for generator in generators]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_answers_are_called_by_what_wrote_them_or_the_name_that_is_given(tmp_path: Path):
    file = answers(tmp_path / "outputs.v2.jsonl", "gpt4", "gpt4")
    assert _baseline(file, MODELS, SUITE) == ("gpt4", file)
    assert _baseline(f"GPT-4={file}", MODELS, SUITE) == ("GPT-4", file)


@pytest.mark.parametrize("generators", [("gpt4", "llama"), (None, None), (7,), (" ",), ("gpt4", None)])
def test_where_rows_do_not_agree_on_it_the_file_lends_its_name(tmp_path: Path, generators: tuple[object, ...]):
    file = answers(tmp_path / "outputs.jsonl", *generators)
    assert _baseline(file, MODELS, SUITE) == ("outputs", file)


def test_an_equals_sign_in_a_folder_is_no_name(tmp_path: Path):
    (tmp_path / "a=b").mkdir()
    file = answers(tmp_path / "a=b" / "outputs.jsonl", "gpt4")
    assert _baseline(file, MODELS, SUITE) == ("gpt4", file)


def test_a_name_that_a_model_has_is_refused(tmp_path: Path):
    file = answers(tmp_path / "outputs.jsonl", "mine")
    with pytest.raises(InputError, match=r"its answers are mine's, and a model is called so too; name them: NAME="):
        _baseline(file, MODELS, SUITE)
    with pytest.raises(InputError, match="AlpacaEval's own answers"):
        _baseline(f"reference={file}", MODELS, SUITE)
    with pytest.raises(InputError, match="no file of answers"):
        _baseline("x=nowhere.jsonl", MODELS, SUITE)


@pytest.mark.parametrize(
    ("labels", "expected"), [(["a", "b"], "a"), (["a", "Self-Instruct"], "Self-Instruct"), (["a"], "reference")]
)
def test_without_a_word_a_runs_self_instruct_student_or_the_first(labels: list[str], expected: str):
    assert _baseline(None, [Subject(label, f"hub:user/{label}") for label in labels], SUITE) == (expected, None)
