"""The compared systems at work in the micro world: what each makes is checked against what it was made from."""

import json
import shutil
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
from harness import CONFIG, Montessori

from flows.execution import execute
from flows.requests.run import prepare
from montessori.artifacts import Request, Store
from montessori.data.chat import prompt_of
from montessori.data.rows import Row, read_rows
from montessori.models import loading
from montessori.settings import files
from montessori.settings.execution import Compute
from montessori.settings.generation import Sampling
from montessori.synthesis.engines.transformers import TransformersEngine
from tasks.runtime.local import local_executor

pytestmark = pytest.mark.xdist_group("systems")
Made = Callable[..., "Run"]


class Run:
    """A finished run, its artifacts by label."""

    def __init__(self, store: Store, address: str):
        self.store, self.folder = store, store.open(address)
        manifests = [store.manifest(one) for one in store.manifest(address)["request"]["inputs"]["stages"]]
        self.manifests: dict[str, list[dict[str, Any]]] = defaultdict(list)
        for manifest in manifests:
            self.manifests[Request.model_validate(manifest["request"]).label].append(manifest)

    def rows(self, label: str, file: str) -> list[Row]:
        return [row for m in self.manifests[label] for row in read_rows(self.store.open(m["address"]) / file)]

    def summary(self, label: str) -> dict[str, Any]:
        (manifest,) = self.manifests[label]
        found: dict[str, Any] = manifest["summary"]
        return found

    def model(self, label: str) -> str:
        (manifest,) = self.manifests[label]
        return str(self.store.open(manifest["address"]) / "model")


@pytest.fixture(scope="module")
def made(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Made:
    """What makes a run beside the finished one, its tasks in this process."""
    store = Path(shutil.copytree(finished, tmp_path_factory.mktemp("systems") / "store"))

    def run(*overrides: str) -> Run:
        plan = prepare(files.load(CONFIG, [f"store={store}", "rating.engine=rule", *overrides])).plan
        with local_executor(plan.store, Compute(place="inline")) as executor:
            return Run(plan.store, execute(plan, executor))

    return run


@pytest.fixture(scope="module")
def llm2llm(made: Made) -> Run:
    return made("method=llm2llm", "iterations=2")


def test_llm2llm_takes_as_wrong_what_the_student_answers_otherwise_than_it_was_taught(llm2llm: Run) -> None:
    taught = llm2llm.rows("Self-Instruct, training set: responses", "pairs.parquet")
    taught = [row for row in taught if row["response"]]
    student = llm2llm.model("Self-Instruct: student")
    engine = TransformersEngine(loading.load_model(student, "float32"), loading.load_tokenizer(student), 8)
    greedy = Sampling(temperature=0, top_p=1, presence_penalty=0, max_tokens=12)
    answers = dict(engine.generate([prompt_of(row) for row in taught], greedy, 1, [0] * len(taught)))
    wrong = {
        row["id"] for i, row in enumerate(taught) if answers[i].generations[0].text.split() != row["response"].split()
    }
    found = llm2llm.rows("LLM2LLM iteration 1: mistakes", "rows.parquet")
    assert {row["id"] for row in found if row["wrong"]} == wrong
    losses = [row["loss"] for row in found if row["wrong"]]
    assert losses == sorted(losses, reverse=True)
    assert len(found) >= 8  # as many as a prompt shows


def test_llm2llm_shows_the_teacher_nothing_but_mistakes(llm2llm: Run) -> None:
    mistakes = {row["id"] for row in llm2llm.rows("LLM2LLM iteration 1: mistakes", "rows.parquet")}
    written = llm2llm.rows("LLM2LLM iteration 1: instructions", "instructions.parquet")
    assert len(written) == 8
    assert {id for row in written[:4] for id in row["seed_ids"]} <= mistakes


def test_llm2llm_replaces_what_the_student_gets_right_by_what_is_new(llm2llm: Run) -> None:
    old = {row["id"] for row in llm2llm.rows("Self-Instruct, training set: responses", "pairs.parquet")}
    wrong = {row["id"] for row in llm2llm.rows("LLM2LLM iteration 2: mistakes", "rows.parquet") if row["wrong"]}
    union = llm2llm.rows("LLM2LLM iteration 2: training set", "pairs.parquet")
    new = [row["instruction"] for row in union if row["id"].startswith("new-")]
    expected = [
        row["instruction"]
        for number in (1, 2)
        for row in llm2llm.rows(f"LLM2LLM iteration {number}: responses", "pairs.parquet")
    ]
    assert new == expected and len(new) == 16
    kept = {row["id"] for row in union} & old
    assert len(union) == 32 == len({row["id"] for row in union})
    assert len(kept & wrong) == min(16, len(wrong))  # those first


def test_self_reward_learns_the_best_rated_answer_over_the_worst(made: Made) -> None:
    run = made("method=self-reward", "iterations=1", "responses.samples_temperature=1.5")
    name = "Self-Reward iteration 1"
    ratings = {row["id"]: row["rating"] for row in run.rows(f"{name}: ratings", "ratings.parquet")}
    samples = defaultdict(list)
    for row in run.rows(f"{name}: samples", "pairs.parquet"):
        samples[row["prompt_id"]].append(row)
    assert {len(rows) for rows in samples.values()} == {4} and len(samples) == 8
    assert all(len({row["instruction"] for row in rows}) == 1 for rows in samples.values())
    text = {row["id"]: row for rows in samples.values() for row in rows}
    pairs = run.rows(f"{name}: preferences", "preferences.parquet")
    differ = [rows for rows in samples.values() if len({ratings[row["id"]] for row in rows}) > 1]
    assert len(pairs) == len(differ) > 0
    for pair in pairs:
        chosen, rejected = text[pair["chosen_id"]], text[pair["rejected_id"]]
        assert chosen["prompt_id"] == rejected["prompt_id"]
        assert ratings[chosen["id"]] == max(ratings[row["id"]] for row in samples[chosen["prompt_id"]])
        assert ratings[rejected["id"]] == min(ratings[row["id"]] for row in samples[chosen["prompt_id"]])
        assert pair["prompt"] == [{"role": "user", "content": chosen["instruction"]}]
        assert (pair["chosen"], pair["rejected"]) == (chosen["response"], rejected["response"])


def test_a_card_is_not_written_for_what_it_could_not_tell(llm2llm: Run, here: Montessori, tmp_path: Path) -> None:
    pushed = here("push", llm2llm.folder, "me/points", "--to", tmp_path / "card")
    assert pushed.returncode == 2 and "for runs with method: montessori" in pushed.stderr
    assert not (tmp_path / "card").exists()


def test_bootstrap_trains_on_the_teachers_own_influential_outputs(made: Made) -> None:
    run = made("update=bootstrap", "bootstrap={batch_size: 8, per_device_batch_size: 8}")
    name = "Montessori iteration 1"
    scores = {row["id"]: row for row in run.rows(f"{name}: influence", "scores.parquet")}
    by_prompt = defaultdict(list)
    for row in run.rows(f"{name}: instructions", "instructions.parquet"):
        if row["id"] in scores and scores[row["id"]]["status"] == "ok":
            by_prompt[row["prompt_id"]].append(scores[row["id"]]["influence"])
    above = sum(value > fmean(values) for values in by_prompt.values() for value in values)
    assert run.summary(f"{name}: bootstrap")["positive"] == above > 0
    assert run.summary(f"{name}: bootstrap")["encoded"] == above
    labels = ("teacher from scratch", f"{name}: bootstrap")
    before, after = (loading.load_model(run.model(label), "float32") for label in labels)
    assert any((a != b).any() for a, b in zip(before.parameters(), after.parameters(), strict=True))


def test_response_optimisation_prefers_the_answer_of_larger_influence(made: Made) -> None:
    run = made("update=responses")
    name = "Montessori iteration 1"
    influence = {row["id"]: row["influence"] for row in run.rows(f"{name}: influence", "scores.parquet")}
    assert len(influence) == 32  # as many as when instructions are compared
    pairs = run.rows(f"{name}: preferences", "preferences.parquet")
    text = {row["id"]: row for row in run.rows(f"{name}: samples", "pairs.parquet")}
    assert pairs
    for pair in pairs:
        assert influence[pair["chosen_id"]] > influence[pair["rejected_id"]]
        assert text[pair["chosen_id"]]["instruction"] == text[pair["rejected_id"]]["instruction"]


def test_a_signal_by_training_loss_prefers_what_the_student_finds_hard(made: Made) -> None:
    run = made("preferences={signal: training_loss, split: prompt_mean}")
    name = "Montessori iteration 1"
    loss = {row["id"]: row["training_loss"] for row in run.rows(f"{name}: influence", "scores.parquet")}
    pairs = run.rows(f"{name}: preferences", "preferences.parquet")
    assert pairs and all(loss[pair["chosen_id"]] > loss[pair["rejected_id"]] for pair in pairs)
    report = json.loads((run.folder / "summary.json").read_text())
    assert list(report["systems"]) == ["No fine-tuning", "Self-Instruct", name]
