"""What a run reads from outside: found and checked before anything starts, and known by its content."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import hub as hubs
import pytest

from flows.requests.run import plan
from montessori.artifacts import Request
from montessori.data import sources
from montessori.errors import InputError
from montessori.settings import files
from montessori.settings.data import DataSource
from montessori.settings.execution import Compute
from montessori.settings.run import Settings
from tasks.runtime import engines


def jsonl(path: Path, instructions: list[str]) -> str:
    rows = ({"instruction": text, "response": "Yes."} for text in instructions)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.fixture
def model(tiny_llama, tiny_tokenizer, tmp_path) -> Path:
    tiny_llama().save_pretrained(tmp_path / "model")
    tiny_tokenizer.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def tree(tmp_path: Path) -> dict:
    """Settings with eight seeds and models from the hub."""
    return {
        "name": "run",
        "seeds": jsonl(tmp_path / "seeds.jsonl", [f"Seed {n}" for n in range(8)]),
        "reference": jsonl(tmp_path / "reference.jsonl", ["Reference 0", "Reference 1"]),
        "test": jsonl(tmp_path / "test.jsonl", ["Test 0", "Test 1"]),
        "teacher": {"source": "user/teacher"},
        "student": {"source": "user/student@v2"},
    }


def settings(tree: dict, **changes: object) -> Settings:
    return files.parse(tree | changes, "run.yaml")


def refused(tree: dict, **changes: object) -> str:
    with pytest.raises(InputError) as error:
        sources.addresses(settings(tree, **changes))
    return str(error.value)


def test_every_source_gets_its_address(tree, tmp_path, model):
    found = sources.addresses(settings(tree, seeds="user/seeds@main", teacher={"source": str(model)}))
    assert found["seeds"] == "hub:user/seeds@main"
    assert found["student"] == "hub:user/student@v2"
    assert found["reference"].startswith(f"file:{tmp_path}/reference.jsonl#")
    assert found["teacher"].startswith(f"file:{model}#")
    assert found.keys() == {"seeds", "reference", "test", "teacher", "student"}


def test_the_pocket_world_and_models_from_scratch_need_no_file(tree):
    scratch = {"source": "scratch", "scratch": {}}
    pocket = dict.fromkeys(("seeds", "reference", "test"), "pocket")
    assert sources.addresses(settings(tree, **pocket, teacher=scratch, student=scratch)) == pocket


def test_without_test_points_there_is_no_address_for_them(tree):
    del tree["test"]
    assert "test" not in sources.addresses(settings(tree))


def test_fewer_seeds_than_a_prompt_shows_are_refused(tree, tmp_path):
    few = jsonl(tmp_path / "few.jsonl", [f"Seed {n}" for n in range(7)])
    assert "seeds: 7 rows, but a prompt shows 8" in refused(tree, seeds=few)
    assert "seeds: 4 rows" in refused(tree, seeds={"source": tree["seeds"], "limit": 4})
    assert "seeds: 5 rows" in refused(tree, seeds="pocket", pocket={"seeds": 5})
    sources.addresses(settings(tree, seeds=few, instructions={"seed_shots": 5}))


@pytest.mark.parametrize("role", ["seeds", "reference", "test"])
def test_an_empty_file_is_refused_by_its_field(tree, tmp_path, role):
    empty = tmp_path / "empty.jsonl"
    empty.touch()
    assert refused(tree, **{role: str(empty)}).startswith(f"{role}.source = {empty}: the file is empty")


def test_a_bad_line_is_found_before_a_run_starts(tree, tmp_path):
    (tmp_path / "reference.jsonl").write_text('{"instruction": "x", "response": "y"}\n{"instruction": "x"}\n')
    assert "reference.jsonl, line 2: lacks an answer" in refused(tree)


@pytest.mark.parametrize("role", ["seeds", "reference", "test"])
def test_a_missing_file_is_named_with_its_field(tree, role):
    assert refused(tree, **{role: "./no.jsonl"}).startswith(f"{role}.source = ./no.jsonl: no such file")


def test_test_points_that_are_in_the_reference_set_are_refused(tree, tmp_path):
    both = jsonl(tmp_path / "both.jsonl", ["Test 0", "Reference 1"])
    message = refused(tree, test=both)
    assert message.startswith("test: 1 of its instructions are in the reference set too")
    assert "Reference 1" in message
    sources.addresses(settings(tree, test={"source": both, "limit": 1}))


def test_conversations_with_the_same_last_question_are_not_the_same_prompt(tree, tmp_path):
    for role, first in (("reference", "Hello."), ("test", "Good evening.")):
        turns = [("user", first), ("assistant", "Hi."), ("user", "And in French?"), ("assistant", "Oui.")]
        row = {"messages": [{"role": who, "content": text} for who, text in turns]}
        (tmp_path / f"{role}.jsonl").write_text(json.dumps(row) + "\n")
    sources.addresses(settings(tree))
    shutil.copy(tmp_path / "reference.jsonl", tmp_path / "test.jsonl")
    assert "for example 'And in French?'" in refused(tree)


def test_a_source_is_read_with_its_columns_and_the_others_are_named(tree, tmp_path, caplog):
    (tmp_path / "test.csv").write_text("frage,antwort,quelle\nTest 0,Ja.,web\n")
    assert "columns: {instruction: frage, response: antwort}" in refused(tree, test=str(tmp_path / "test.csv"))
    columns = {"instruction": "frage", "response": "antwort"}
    sources.addresses(settings(tree, test={"source": str(tmp_path / "test.csv"), "columns": columns}))
    assert caplog.messages == [f"test.source = {tmp_path / 'test.csv'}: not used are the columns quelle"]
    with pytest.raises(InputError, match=r"test\.columns: frage is no part of a row; expected your names after"):
        settings(tree, test={"source": "test.csv", "columns": {"frage": "instruction"}})


def test_a_model_from_scratch_needs_seeds_with_answers(tree, tmp_path):
    silent = {"instruction": "Seed 8"}
    path = tmp_path / "seeds.jsonl"
    path.write_text(path.read_text() + json.dumps(silent) + "\n")
    sources.addresses(settings(tree))
    for role in ("teacher", "student"):
        assert f"{path}, line 9: lacks an answer" in refused(tree, **{role: {"source": "scratch", "scratch": {}}})


@pytest.mark.parametrize("role", ["teacher", "student"])
def test_a_missing_model_folder_is_named_with_its_field(tree, role):
    assert refused(tree, **{role: {"source": "./nowhere"}}) == (
        f"{role}.source = ./nowhere: no such folder (a hub name looks like user/name)"
    )


def test_a_model_folder_without_a_tokenizer_is_refused(tree, model):
    for file in model.glob("tokenizer*"):
        file.unlink()
    assert "no tokenizer" in refused(tree, student={"source": str(model)})


def test_a_model_folder_with_pickled_weights_alone_is_refused(tree, model):
    (model / "model.safetensors").rename(model / "pytorch_model.bin")
    assert "only pickled weights (pytorch_model.bin)" in refused(tree, teacher={"source": str(model)})


def test_a_home_folder_is_expanded(tree, model, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    home = sources.addresses(settings(tree, seeds="~/seeds.jsonl", teacher={"source": "~/model"}))
    assert home == sources.addresses(settings(tree, teacher={"source": str(model)}))


def fingerprint(address: str) -> str:
    return Request(stage="seeds", version=1, settings={}, inputs={"source": [address]}, seed=0).fingerprint


def test_a_file_is_known_by_its_content_wherever_it_lies(tree, tmp_path):
    here = sources.addresses(settings(tree))["seeds"]
    (tmp_path / "other").mkdir()
    copy = shutil.copy(tmp_path / "seeds.jsonl", tmp_path / "other" / "moved.jsonl")
    there = sources.addresses(settings(tree, seeds=str(copy)))["seeds"]
    assert here != there
    assert fingerprint(here) == fingerprint(there)
    with Path(copy).open("a") as file:
        file.write('{"instruction": "One more."}\n')
    assert fingerprint(sources.addresses(settings(tree, seeds=str(copy)))["seeds"]) != fingerprint(here)


def test_a_store_and_results_in_a_models_folder_do_not_make_it_another_model(model):
    before = sources.model(str(model), "--student")
    (model / "store" / "points").mkdir(parents=True)
    (model / "store" / "points" / "manifest.json").write_text("{}")
    for name in ("scores.jsonl", "scores.summary.json", "scores.svg", "README.md"):
        (model / name).write_text("{}")
    assert sources.model(str(model), "--student") == before
    (model / "chat_template.jinja").write_text("{{ messages }}")
    assert sources.model(str(model), "--student") != before


def test_a_model_is_known_by_its_files_wherever_it_lies(tree, model, tmp_path):
    def known(folder: Path) -> str:
        return fingerprint(sources.addresses(settings(tree, student={"source": str(folder)}))["student"])

    before = known(model)
    copy = Path(shutil.copytree(model, tmp_path / "other" / "copy"))
    assert known(copy) == before
    weights = copy / "model.safetensors"
    whole = bytearray(weights.read_bytes())
    whole[-1] ^= 1
    weights.write_bytes(bytes(whole))
    assert known(copy) != before
    (model / "generation_config.json").rename(model / "generic.json")
    assert known(model) != before


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[hubs.Hub]:
    """A hub that has user/student, and nothing of it here yet."""
    sources._hub_problem.cache_clear()
    with hubs.running() as hub:
        hub.repositories["models/user/student"] = hubs.Repository(private=False, files={"config.json": b"{}"})
        hub.repositories["models/user/adapter"] = hubs.Repository(private=False, files={"README.md": b""})
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", hub.url)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
        yield hub


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("user/studnet", "the hub has no such model or revision, or HF_TOKEN may not see it (40"),
        ("user/adapter", "it has no config.json, so transformers cannot load it"),
    ],
)
def test_a_model_that_the_hub_does_not_give_is_wrong_input(hub: hubs.Hub, source: str, reason: str) -> None:
    with pytest.raises(InputError) as caught:
        sources.check_hub([("student.source", source)])
    assert str(caught.value).startswith(f"student.source = {source}: {reason}")


def test_a_hub_out_of_reach_matters_only_for_models_without_a_copy_here(
    hub: hubs.Hub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    sources.check_hub([("student.source", "user/student")])
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:1")
    sources._hub_problem.cache_clear()  # as the next command begins
    with pytest.raises(InputError, match=r"^student\.source = user/student: the hub cannot be reached"):
        sources.check_hub([("student.source", "user/student")])
    copy = tmp_path / "hub/models--user--student"
    for file, text in (("refs/main", "abc"), ("snapshots/abc/config.json", "{}")):  # as the hub's client keeps it
        (copy / file).parent.mkdir(parents=True)
        (copy / file).write_text(text)
    sources._hub_problem.cache_clear()
    sources.check_hub([("student.source", "user/student")])


def test_only_models_that_are_still_needed_are_asked_for(tree: dict, hub: hubs.Hub) -> None:
    settings = engines.resolve(files.parse(tree, "run.yaml"))
    requests = list(plan(settings)[0].requests.values())
    with pytest.raises(InputError, match=r"^teacher\.source = user/teacher: the hub has no such model"):
        engines.check(settings, requests)
    engines.check(settings, [request for request in requests if request.stage == "report"])
    engines.check(settings.model_copy(update={"compute": Compute(place="pool")}), requests)  # workers have theirs


def test_a_missing_folder_or_file_beside_others_is_not_taken_for_a_name_on_the_hub(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models").mkdir()
    with pytest.raises(InputError, match=r"^student\.source = models/none: no such folder, though models is one$"):
        sources.model("models/none", "student.source")
    with pytest.raises(InputError, match=r"^seeds\.source = models/rows: no such file, though models is a folder$"):
        sources.rows(DataSource(source="models/rows"), "seeds.source")
    assert sources.model("user/none", "student.source") == "hub:user/none"
