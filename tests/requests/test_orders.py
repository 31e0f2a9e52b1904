"""What is particular to each system, read off its plan: which artifact goes where."""

from pathlib import Path

import pytest

from flows.requests.builder import Address
from flows.requests.run import plan
from montessori.artifacts import Request
from montessori.settings import files

TINY = Path(__file__).resolve().parents[2] / "montessori/configs/tiny.yaml"
RULE = "rating.engine=rule"


class Plan:
    """A run's requests, found by what they are called."""

    def __init__(self, *overrides: str):
        steps, self.run = plan(files.load(TINY, list(overrides)))
        self.requests = steps.requests

    def all(self, label: str) -> list[Request]:
        return [request for request in self.requests.values() if request.label == label]

    def one(self, label: str) -> Request:
        (found,) = self.all(label)
        return found

    def stages(self) -> set[str]:
        return {request.stage for request in self.requests.values()}

    def given(self, request: Request, name: str) -> list[Request]:
        """The requests that make an input."""
        return [self.requests[address] for address in request.inputs[name]]


def addresses(requests: list[Request]) -> list[Address]:
    return [request.address for request in requests]


# --- LLM2LLM ----------------------------------------------------------------------------------------------------------


def test_llm2llm_looks_for_mistakes_among_the_first_training_set_alone():
    found = Plan("method=llm2llm", "iterations=2")
    first_set = addresses(found.all("Self-Instruct, training set: responses"))
    for number, student in ((1, "Self-Instruct: student"), (2, "LLM2LLM iteration 1: student")):
        mistakes = found.one(f"LLM2LLM iteration {number}: mistakes")
        assert mistakes.inputs == {"student": [found.one(student).address], "pairs": first_set}


def test_llm2llm_shows_the_unchanged_teacher_the_mistakes():
    found = Plan("method=llm2llm", "iterations=2", "llm2llm.new_share=0.25", "training_size=512")
    teacher = found.one("Self-Instruct, training set: instructions").inputs["teacher"]
    for number in (1, 2):
        written = found.one(f"LLM2LLM iteration {number}: instructions")
        assert written.inputs["seeds"] == [found.one(f"LLM2LLM iteration {number}: mistakes").address]
        assert written.inputs["teacher"] == teacher
        assert written.settings["target"] == 128
    assert "teacher" not in found.stages()  # nothing is tuned


def test_llm2llm_trains_the_base_student_on_the_union_of_all_that_was_written():
    found = Plan("method=llm2llm", "iterations=2", "training_size=512")
    base = found.one("Self-Instruct: student").inputs["student"]
    union = found.one("LLM2LLM iteration 2: training set")
    written = [*found.all("LLM2LLM iteration 1: responses"), *found.all("LLM2LLM iteration 2: responses")]
    assert union.inputs["new"] == addresses(written)
    assert union.inputs["old"] == addresses(found.all("Self-Instruct, training set: responses"))
    assert union.settings == {"size": 512}
    student = found.one("LLM2LLM iteration 2: student")
    assert student.inputs == {"student": base, "pairs": [union.address]}


# --- Self-Reward ------------------------------------------------------------------------------------------------------


def test_self_reward_prefers_the_best_rated_answer_to_the_worst_of_one_instruction():
    found = Plan("method=self-reward", "iterations=1", "probing.probing=640")
    samples = found.all("Self-Reward iteration 1: samples")
    assert all(one.settings["samples"] == 4 and one.settings["limit"] == 160 for one in samples)
    preferences = found.one("Self-Reward iteration 1: preferences")
    assert preferences.settings["outputs"] == "responses"
    assert preferences.settings["preferences"] == {"split": "best_worst", "max_pairs": None, "signal": "rating"}
    assert preferences.inputs["responses"] == addresses(samples)
    assert preferences.inputs["scores"] == addresses(found.all("Self-Reward iteration 1: ratings"))
    assert not found.stages() & {"warm-up", "influence", "reference-gradient", "split"}  # no student is looked at


def test_the_temperature_of_the_samples_is_that_of_no_other_answer():
    found = Plan("method=self-reward", "iterations=1", "responses.samples_temperature=1.6")
    (sampled,) = {one.settings["sampling"]["temperature"] for one in found.all("Self-Reward iteration 1: samples")}
    (training,) = {
        one.settings["sampling"]["temperature"] for one in found.all("Self-Reward iteration 1, training set: responses")
    }
    assert (sampled, training) == (1.6, 0.6)
    same = Plan("method=self-reward", "iterations=1")
    assert {one.settings["sampling"]["temperature"] for one in same.all("Self-Reward iteration 1: samples")} == {0.6}


def test_self_reward_is_judged_by_the_model_that_wrote():
    found = Plan("method=self-reward", "iterations=2")
    for number in (1, 2):
        written = found.one(f"Self-Reward iteration {number}: instructions")
        for rating in found.all(f"Self-Reward iteration {number}: ratings"):
            assert rating.stage == "ratings" and rating.inputs["judge"] == written.inputs["teacher"]
    tuned = found.one("Self-Reward iteration 1: DPO of the teacher")
    assert found.one("Self-Reward iteration 2: instructions").inputs["teacher"] == [tuned.address]
    assert found.one("Self-Reward iteration 2: DPO of the teacher").inputs["teacher"] == [tuned.address]


def test_a_strong_judge_or_the_rule_may_rate_instead():
    strong = Plan("method=self-reward", "iterations=1", "rating={engine: openai, openai: {model: gpt-4o}}")
    assert {rating.inputs["judge"][0] for rating in strong.all("Self-Reward iteration 1: ratings")} == {
        "api:gpt-4o@https://api.openai.com/v1"
    }
    (rule,) = Plan("method=self-reward", "iterations=1", RULE).all("Self-Reward iteration 1: ratings")
    assert rule.stage == "rule"


# --- Endpoints --------------------------------------------------------------------------------------------------------

OPENAI = "generation.openai={model: m, base_url: 'http://127.0.0.1:9/v1'%s}"


def written(more: str = "", *overrides: str) -> Request:
    """The instructions of an endpoint with more settings."""
    return Plan("iterations=0", "generation.engine=openai", OPENAI % more, *overrides).all(
        "Self-Instruct, training set: instructions"
    )[0]


def test_settings_of_an_endpoint_that_change_its_texts_are_in_the_fingerprint_and_no_others():
    plain = written()
    assert plain.settings["endpoint"] == {}
    for other in (", omit: [seed]", ", extra_body: {reasoning_effort: low}", ", limit_parameter: both"):
        assert written(other).address != plain.address
    assert written("", "generation.remove_thinking=false").address != plain.address
    same = written(", timeout_s: 5, max_concurrency: 3", "generation.max_failed=0.5")
    assert (same.address, same.means["max_failed"]) == (plain.address, 0.5)


def test_a_judge_never_keeps_its_thoughts():
    for judge in ("rating.engine=teacher", "rating={engine: openai, openai: {model: gpt-4o}, max_failed: 0.2}"):
        found = Plan("method=self-reward", "iterations=1", "generation.remove_thinking=false", judge)
        rated = [request for request in found.requests.values() if request.stage == "ratings"]
        assert rated and all(request.settings.get("remove_thinking", True) for request in rated)
        (of_responses,) = {r.settings["remove_thinking"] for r in found.requests.values() if r.stage == "responses"}
        assert of_responses is False


# --- Ablations --------------------------------------------------------------------------------------------------------


def test_bootstrap_trains_the_teacher_on_its_own_outputs_and_makes_no_pairs():
    found = Plan("update=bootstrap", "iterations=1", "preferences.split=prompt_mean")
    assert not found.stages() & {"teacher", "preferences"}
    tuned = found.one("Montessori iteration 1: bootstrap")
    assert tuned.settings["preferences"]["split"] == "prompt_mean"
    assert tuned.inputs["scores"] == addresses(found.all("Montessori iteration 1: influence"))
    assert found.one("Montessori iteration 1, training set: instructions").inputs["teacher"] == [tuned.address]


def test_response_optimisation_compares_answers_by_their_influence_on_as_many_points():
    found = Plan("update=responses", "iterations=1", "probing.probing=640")
    samples = found.all("Montessori iteration 1: samples")
    split = found.one("Montessori iteration 1: split")
    for one in samples:
        assert one.inputs["instructions"] == [split.address]
        assert (one.settings["file"], one.settings["limit"], one.settings["samples"]) == ("probing.parquet", 160, 4)
    preferences = found.one("Montessori iteration 1: preferences")
    assert preferences.settings["outputs"] == "responses"
    assert preferences.inputs["scores"] == addresses(found.all("Montessori iteration 1: influence"))
    (tokens,) = found.given(found.all("Montessori iteration 1: influence")[0], "tokens")
    assert tokens.inputs["points"] == addresses(samples)


@pytest.mark.parametrize("signal", ["rating", "training_loss"])
def test_signals_are_compared_on_the_points_that_influence_is_measured_of(signal):
    usual, other = Plan("iterations=1"), Plan("iterations=1", f"preferences.signal={signal}", RULE)
    name = "Montessori iteration 1: preferences"
    assert other.one(name).inputs["instructions"] == usual.one(name).inputs["instructions"]
    (made,) = {request.stage for request in other.given(other.one(name), "scores")}
    assert made == {"rating": "rule", "training_loss": "influence"}[signal]
    assert ("warm-up" in other.stages()) == (signal == "training_loss")


def test_a_teacher_is_stopped_on_its_way_by_its_share_of_steps_alone():
    whole, part = Plan("iterations=1"), Plan("iterations=1", "dpo.stop=0.5")
    name = "Montessori iteration 1: DPO of the teacher"
    assert part.one(name).inputs == whole.one(name).inputs
    stop = part.one(name).settings["dpo"].pop("stop")
    assert stop == 0.5 and part.one(name).settings == whole.one(name).settings
    assert Plan("iterations=1", "dpo.stop=1").run == whole.run


# --- Transfer ---------------------------------------------------------------------------------------------------------


def test_a_further_student_learns_from_the_same_points_in_its_own_shape():
    other = (
        "transfer.wide={source: scratch, dtype: float32, max_length: 96, "
        "scratch: {vocabulary: 640, hidden: 128, layers: 2, heads: 4, context: 128}}"
    )
    found = Plan("iterations=1", other)
    base = found.one("No fine-tuning, wide: evaluation").inputs["student"]
    for system in ("Self-Instruct", "Montessori iteration 1"):
        taught = found.one(f"{system}, wide: student")
        assert taught.inputs == {"student": base, "pairs": found.one(f"{system}: student").inputs["pairs"]}
        assert taught.settings["max_length"] == 96
    (scratch,) = found.given(found.one("No fine-tuning, wide: evaluation"), "student")
    assert scratch.settings["scratch"]["hidden"] == 128
