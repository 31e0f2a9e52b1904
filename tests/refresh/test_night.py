"""What a night of the refresh would do, and when its challenger is promoted; no model is loaded."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from flows.commands.run import REFRESH_EXAMPLES
from flows.requests.night import plan
from flows.requests.steps import Steps
from montessori.artifacts import Folder, Request
from montessori.errors import InputError, StageError
from montessori.refresh import champions, nights
from montessori.settings import files as config_file
from montessori.settings.run import Refresh, Settings

MICRO = Path(__file__).parents[1] / "end_to_end" / "micro.yaml"
NIGHT = "2026-11-23"


@pytest.fixture
def store(tmp_path: Path) -> Folder:
    """A store with a teacher."""
    store = Folder(tmp_path / "store")
    put(store, "teacher/a")
    return store


def put(store: Folder, address: str, **files: str) -> None:
    with store.staging() as folder:
        for name, text in {"file": "", **files}.items():
            (folder / name.replace("_", ".")).write_text(text)
        store.commit(address, folder, {})


def settings(*changes: str) -> Settings:
    return config_file.load(MICRO, ["generation.engine=transformers", *changes])


def asked(steps: Steps, stage: str, label: str = "") -> list[Request]:
    return [r for r in steps.requests.values() if r.stage == stage and r.label.startswith(label)]


def input_of(steps: Steps, name: str, stage: str, label: str = "") -> str:
    addresses = {request.inputs[name][0] for request in asked(steps, stage, label)}
    (only,) = addresses
    return only


def test_the_first_night_begins_with_the_base_teacher_and_the_base_student(store):
    steps, night = plan(settings(), NIGHT, store)
    assert (night.champion, night.entry) == (None, 0)
    (base,), (student,) = asked(steps, "scratch-teacher"), asked(steps, "scratch-student")
    assert input_of(steps, "teacher", "teacher") == base.address
    assert input_of(steps, "teacher", "instructions", "Champion") == base.address
    assert input_of(steps, "student", "warm-up") == student.address
    assert set(store.root.iterdir()) == {store.root / "teacher", store.root / ".staging"}  # only looked


def test_a_later_night_begins_with_the_champion_and_probes_its_student(store):
    champions.promote(store, "micro", "teacher/a")
    steps, night = plan(settings(), NIGHT, store)
    assert (night.champion, night.entry) == ("teacher/a", 1)
    assert input_of(steps, "teacher", "teacher") == "teacher/a"
    assert input_of(steps, "teacher", "instructions", "Champion") == "teacher/a"
    assert input_of(steps, "teacher", "instructions", "Challenger: instructions") == "teacher/a"
    (champions_student,) = asked(steps, "student", "Champion")
    assert input_of(steps, "student", "warm-up") == champions_student.address
    base, _ = plan(settings("probing.student=base"), NIGHT, store)
    assert input_of(base, "student", "warm-up").startswith("scratch-student/")


def test_a_night_that_was_begun_keeps_its_champion(store):
    before, night = plan(settings(), NIGHT, store)
    nights.begin(store, night)
    champions.promote(store, "micro", "teacher/a")
    after, again = plan(settings(), NIGHT, store)
    assert again.refresh == night.refresh and list(after.requests) == list(before.requests)
    assert plan(settings(), "2026-11-24", store)[1].champion == "teacher/a"
    assert plan(settings("dpo.beta=0.2"), NIGHT, store)[1].champion == "teacher/a"  # other settings, not begun


def test_each_night_has_data_of_its_own_and_base_models_in_common(store):
    one, two = (plan(settings(), night, store)[0] for night in (NIGHT, "2026-11-24"))
    shared = {address.split("/")[0] for address in set(one.requests) & set(two.requests)}
    assert shared == {"seeds", "reference", "test", "scratch-teacher", "scratch-student"}
    other = plan(settings("seed=1"), NIGHT, store)[0]
    assert not set(one.requests) & set(other.requests)


def test_what_changes_no_artifact_makes_no_other_night(store):
    _, night = plan(settings(), NIGHT, store)
    for change in ("iterations=3", "budget.tokens=10", "compute.at_once=1", "store=elsewhere"):
        assert plan(settings(change), NIGHT, store)[1] == night
    assert plan(settings("refresh.level=0.01"), NIGHT, store)[1].refresh != night.refresh


def test_pairs_of_students_share_their_seeds_and_no_two_pairs_do(store):
    steps, _ = plan(settings("refresh.seeds=3"), NIGHT, store)
    for stage in ("student", "instructions"):
        label = "" if stage == "student" else ", training set"
        seeds = {
            whose: [asked(steps, stage, f"{whose}{pair}{label}")[0].seed for pair in ("", ", seed 2", ", seed 3")]
            for whose in ("Champion", "Challenger")
        }
        assert seeds["Champion"] == seeds["Challenger"]
        assert len(set(seeds["Champion"])) == 3
    assert len(asked(steps, "student")) == 6
    assert len(asked(steps, "teacher")) == 1


def test_an_endpoint_writes_for_the_base_teacher_and_no_other(store):
    openai = ("generation.engine=openai", "generation.tuned_engine=transformers", "generation.openai.model=gpt-4o")
    steps, _ = plan(settings(*openai), NIGHT, store)
    assert input_of(steps, "teacher", "instructions", "Champion").startswith("api:gpt-4o@")
    assert input_of(steps, "teacher", "teacher").startswith("scratch-teacher/")
    champions.promote(store, "micro", "teacher/a")
    later, _ = plan(settings(*openai), NIGHT, store)
    assert input_of(later, "teacher", "instructions", "Champion") == "teacher/a"


def test_a_champion_that_was_deleted_is_missed_before_anything_starts(store):
    champions.promote(store, "micro", "teacher/a")
    store.delete("teacher/a")
    with pytest.raises(InputError, match="champion micro: teacher/a is not there any more"):
        plan(settings(), NIGHT, store)


def test_a_base_teacher_is_known_by_its_content_wherever_it_is(store, tmp_path, tiny_llama, tiny_tokenizer):
    first, second = tmp_path / "first", tmp_path / "second"
    tiny_llama().save_pretrained(first)
    tiny_tokenizer.save_pretrained(first)
    there = ("teacher.scratch=null", f"teacher.source={first}")
    steps, _ = plan(settings(*there), NIGHT, store)
    base = steps.sources["teacher"]
    test = champions.PairedTest(difference=1, standard_error=0.1, p_value=0, n=2, seeds=1)
    champions.promote_tested(store, "micro", "teacher/a", over=base, after=0, refresh="refreshes/one", test=test)
    assert champions.rollback(store, "micro").teacher == base

    shutil.copytree(first, second)
    shutil.rmtree(first)
    moved, _ = plan(settings("teacher.scratch=null", f"teacher.source={second}"), NIGHT, store)
    assert input_of(moved, "teacher", "teacher") == moved.sources["teacher"]
    with pytest.raises(InputError, match=r"champion micro = .*first: no such folder"):
        plan(settings(), NIGHT, store)  # of a teacher from scratch, whose champion was somewhere


def test_a_refresh_needs_a_teacher_to_tune(store):
    endpoint = ("generation.engine=openai", "generation.openai.model=gpt-4o", "iterations=0", "teacher=null")
    with pytest.raises(InputError, match="teacher is missing: a refresh tunes one"):
        plan(settings(*endpoint), NIGHT, store)


def compared(store: Folder, better: bool) -> str:
    """A night's comparison with this outcome."""
    test = {"difference": 0.1, "standard_error": 0.01, "p_value": 0.01 if better else 0.3, "n": 64, "seeds": 1}
    comparison: dict[str, Any] = {"better": better, "test": test, "challenger": "teacher/b", "champion": "teacher/a"}
    put(store, "refreshes/one", summary_json=json.dumps(comparison))
    return "refreshes/one"


def test_a_challenger_is_promoted_when_it_is_better_and_its_champion_still_the_champion(store):
    from flows.execution import _promote_if_better as promote_if_better

    champions.promote(store, "micro", "teacher/a")
    night = plan(settings(), NIGHT, store)[1]
    refresh = compared(store, better=True)
    assert promote_if_better(store, night, refresh)
    assert promote_if_better(store, night, refresh)
    assert [entry.teacher for entry in champions.history(store, "micro")] == ["teacher/a", "teacher/b"]


def test_a_challenger_that_is_not_better_is_not_promoted(store):
    from flows.execution import _promote_if_better as promote_if_better

    night = plan(settings(), NIGHT, store)[1]
    assert not promote_if_better(store, night, compared(store, better=False))
    assert champions.history(store, "micro") == []


def test_a_challenger_of_a_champion_that_was_replaced_in_the_night_is_not_promoted(store):
    from flows.execution import _promote_if_better as promote_if_better

    night = plan(settings(), NIGHT, store)[1]
    champions.promote(store, "micro", "teacher/a")
    with pytest.raises(StageError, match="teacher/a has become champion since"):
        promote_if_better(store, night, compared(store, better=True))


def test_the_help_of_refresh_shows_another_number_of_pairs_than_the_default():
    assert Refresh().seeds == 3 and "refresh.seeds=5       five pairs of students instead of three" in REFRESH_EXAMPLES


def test_prefect_draws_a_form_for_the_night():
    from flows.teacher_refresh import teacher_refresh

    form = teacher_refresh.parameters.model_dump()
    assert set(form["properties"]) == {"config", "overrides", "place", "store", "night"} and not form.get("required")
    assert form["properties"]["night"]["format"] == "date"
