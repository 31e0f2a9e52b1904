"""How many verdicts are to come, and what they cost."""

from pathlib import Path

from flows.requests import evaluation
from montessori.artifacts import Folder
from montessori.evaluation import judge_cost
from montessori.evaluation.subjects import Subject
from montessori.settings.suite import Suite

FOUND = {name: f"hub:user/{name}" for name in ("alpaca_eval", "mt_bench", "people")} | {
    "judge": "api:gpt-4o@https://x/v1"
}
SUITE = {
    "name": "paid",
    "engine": "transformers",
    "dtype": "float32",
    "alpaca_eval": {"shards": 3},
    "mt_bench": {"questions": {"source": "user/mt_bench", "limit": 10}},
    "head_to_head": True,
    "people": "pairs.jsonl",
    "judge": {"engine": "openai", "openai": {"model": "gpt-4o"}},
}


def test_verdicts_are_those_of_all_comparisons_shards_and_orders(tmp_path: Path):
    suite = Suite.model_validate(SUITE)
    models = [Subject(name, f"hub:user/{name}") for name in ("a", "b", "c")]
    requests = list(evaluation.plan(suite, models, "a", FOUND).values())
    counts = {"people": 7}
    requests = [request.model_copy(update={"role": "another name"}) for request in requests]  # for people alone
    cost = judge_cost.estimate(suite, requests, Folder(tmp_path), counts)
    against, duels, people, grades = 2 * 805, 3 * 805 * 2, 7 * 2, 3 * 10 * 2
    assert abs(cost.verdicts - (against + duels + people + grades)) <= 6  # of three shards each a third, rounded
    few = judge_cost.estimate(suite, requests, Folder(tmp_path), {**counts, "alpaca_eval": 6, "mt_bench": 2})
    assert few.verdicts == 2 * 6 + 3 * 6 * 2 + 7 * 2 + 3 * 2 * 2
    said = judge_cost.describe(suite, requests, Folder(tmp_path), counts)
    assert said.startswith("judge  gpt-4o (openai): about 6,5") and "$" in said and "budget.usd" in said


def test_a_budget_is_held_over_what_the_judge_does_alone():
    suite = Suite.model_validate({**SUITE, "budget": {"usd": 3}})
    models = [Subject(name, f"hub:user/{name}") for name in ("a", "b")]
    requests = list(evaluation.plan(suite, models, "a", FOUND).values())
    judged = [request for request in requests if request.stage in ("verdicts", "grades")]
    assert judged and all("budget" not in request.means for request in requests if request not in judged)
    for request in judged:
        budget = request.means["budget"]
        assert budget["limits"] == {"usd": 3}
        assert budget["parts"] == list(budget["paid"]) == [one.address for one in judged]
        assert all(price == {"input": 2.5, "output": 10} for price in budget["paid"].values())
