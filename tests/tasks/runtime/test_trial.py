"""Templates, tokenizers and lengths of a run's models fail before anything starts, with the field in the message."""

import json
from pathlib import Path

import pytest

from flows.requests.run import plan
from montessori.errors import InputError
from montessori.models import loading
from montessori.settings import files
from tasks.runtime import engines

ONLY_PROMPTS = "{% for m in messages %}{{ m['content'] if m['role'] == 'user' }}{% endfor %}"


@pytest.fixture
def tree(tmp_path: Path, tiny_llama, tiny_tokenizer) -> dict:
    """Settings of a run with two real models, whose contexts are 256 and 2,048 tokens, and nine seeds."""
    for name, rows in (("seeds", 9), ("reference", 2)):
        lines = [json.dumps({"instruction": f"{name} {n}", "response": "Yes."}) for n in range(rows)]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines))
    for name, context in (("student", 256), ("teacher", 2048)):
        loading.save(tiny_llama(max_position_embeddings=context), tiny_tokenizer, tmp_path / name)
    return {
        "name": "run",
        "iterations": 1,
        "seeds": str(tmp_path / "seeds.jsonl"),
        "reference": str(tmp_path / "reference.jsonl"),
        "teacher": {"source": str(tmp_path / "teacher")},
        "student": {"source": str(tmp_path / "student")},
        "generation": {"engine": "transformers"},
        "store": str(tmp_path / "store"),
    }


def check(tree: dict, **changes: dict) -> None:
    for block, fields in changes.items():
        tree[block] = {**tree.get(block, {}), **fields}
    settings = engines.resolve(files.parse(tree, "run.yaml"))
    requests = list(plan(settings)[0].requests.values())
    engines.check(settings, requests)
    engines.check_room(settings, requests)


def refused(tree: dict, **changes: dict) -> str:
    with pytest.raises(InputError) as error:
        check(tree, **changes)
    return str(error.value)


def test_models_that_fit_are_accepted(tree: dict) -> None:
    check(tree)


@pytest.mark.parametrize("role", ["student", "teacher"])
def test_a_template_that_cannot_show_an_answer_is_refused_with_the_models_field(tree: dict, role: str) -> None:
    message = refused(tree, **{role: {"chat_template": ONLY_PROMPTS}})
    assert message.startswith(f"{role}.source = {tree[role]['source']}: the chat template shows the answer")


def test_a_length_beyond_the_models_context_is_refused_where_it_was_set(tree: dict) -> None:
    message = refused(tree, student={"max_length": 300})
    assert message.startswith("student.max_length = 300: ") and "a context of 256 tokens" in message


def test_an_answer_that_leaves_no_room_for_its_prompt_is_refused(tree: dict) -> None:
    message = refused(tree, responses={"sampling": {"max_tokens": 2048}})
    assert message.startswith("responses.sampling.max_tokens = 2048: leaves no room for a prompt in the 2048 tokens of")


def test_a_chat_template_is_a_file_or_its_text_and_its_variables_are_checked(tree: dict, tmp_path: Path) -> None:
    (tmp_path / "own.jinja").write_text(ONLY_PROMPTS)
    assert "shows the answer" in refused(tree, student={"chat_template": str(tmp_path / "own.jinja")})
    assert "nowhere.jinja: no such file" in refused(tree, student={"chat_template": "nowhere.jinja"})
    tree["student"].pop("chat_template")
    assert "messages: set by Montessori itself" in refused(tree, student={"chat_template_kwargs": {"messages": 1}})


def test_a_teacher_from_scratch_needs_room_for_its_prompts(tree: dict) -> None:
    tree["teacher"] = {"source": "scratch", "scratch": {}}
    message = refused(tree)
    assert message.startswith("instructions.sampling.max_tokens = 1024: leaves no room for a prompt")
    assert "teacher.scratch.context (512)" in message
