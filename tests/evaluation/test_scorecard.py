"""The scorecard stage: what it gathers from the other stages, and says of their numbers beside them."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from montessori.artifacts import Folder, Request
from montessori.data.rows import Row, write_rows
from montessori.evaluation.card import Card
from tasks.benchmarks import build_scorecard
from tasks.runtime.generation import PLAIN_TEMPLATE
from tasks.runtime.job import Job

SUITE = {
    "name": "local",
    "alpaca_eval": {"difficulties": "none", "selected_on": 0},
    "judge": {"engine": "transformers", "source": "judge"},
    "mt_bench": {},
}


class Bench:
    """A store that is filled by hand, and the scorecard of what is in it."""

    def __init__(self, folder: Path):
        self.store, self.out = Folder(folder / "store"), folder

    def put(self, stage: str, file: str = "", rows: Sequence[Row] = (), seconds: float = 1.0, **summary: Any) -> str:
        """The address of an artifact with these rows."""
        address = f"{stage}/{len(list(self.store.addresses())):020x}"
        inputs = {"teacher": [summary.pop("model")]} if "model" in summary else {}
        request = {"stage": stage, "label": "a name from another evaluation", "inputs": inputs}
        with self.store.staging() as folder:
            if file.endswith(".json"):
                (folder / file).write_text(json.dumps(list(rows)))
            elif file:
                write_rows(folder / file, list(rows))
            if stage == "evaluation":
                told = {"reference_loss": {"mean": 1.0, "standard_error": 0.1, "n": len(rows)}}
                (folder / "metrics.json").write_text(json.dumps(told))
            about = {"request": request, "summary": summary, "seconds": seconds, "versions": {}}
            self.store.commit(address, folder, about)
        return address

    def verdicts(self, preferences: list[float | None], **more: Any) -> str:
        rows = [
            {
                "id": str(n), "index": n, "question": f"Why {n}?", "left": "b" * (5 + n), "right": "m" * (9 - n % 3),
                "swapped": n % 2 == 0, "preference": preference, "said": "A", "tries": 1,
            }
            for n, preference in enumerate(preferences)
        ]  # fmt: skip
        summary = {"unmatched": 0, "letters": None, **more}
        return self.put("verdicts", "verdicts.parquet", rows, **summary)

    def grades(self, grades: list[float | None]) -> str:
        rows = [
            {"id": str(n // 2), "category": "math", "turn": n % 2, "question": "q", "answer": "a", "grade": grade}
            for n, grade in enumerate(grades)
        ]
        return self.put("grades", "grades.parquet", [{**row, "said": "[[1]]"} for row in rows])

    def overlap(self, benchmark: str) -> str:
        shared = {"benchmark": benchmark, "items": 4, "exact": 1, "ngram": 2, "examples": [], "words": 13}
        return self.put("overlap", "overlap.json", [shared])

    def gather(self, baseline: str | None, training_sets: Sequence[str] = (), **inputs: list[str]) -> Card:
        labels = ("mine", "theirs")
        named = {name.replace("_", ":", 1): given for name, given in inputs.items()}
        stages = [address for given in named.values() for address in given]
        whole = {**named, "stages": stages, "models": ["hub:user/mine@main", "hub:user/theirs@main"]}
        settings = build_scorecard.Settings(suite=SUITE, models=labels, baseline=baseline)
        means = {"training_sets": list(training_sets)}
        request = Request(stage="scorecard", version=1, settings={}, inputs=whole, seed=0, means=means)
        return build_scorecard.gather(Job(request, self.store, self.out), settings)


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def test_a_sentence_about_several_models_is_said_once_and_names_them(bench: Bench):
    answers = [
        bench.put("answers", model=f"hub:user/{name}@main", chat_template=template)
        for name, template in (("mine", PLAIN_TEMPLATE), ("theirs", PLAIN_TEMPLATE), ("theirs", PLAIN_TEMPLATE))
    ]
    shards = [bench.verdicts([0.4, 0.5], unmatched=2, letters=0.9), bench.verdicts([0.4], unmatched=1, letters=0.3)]
    other = bench.verdicts([0.1, None], unmatched=3, letters=0.9)
    card = bench.gather("reference", **{"0_alpaca_eval": shards, "1_alpaca_eval": [other], "answers": answers})
    assert card.warnings == [
        "AlpacaEval, theirs: 1 of 2 verdicts could not be read, and are left out",
        "mine and theirs: no chat template of its own, so Montessori's plain one was used",
        "AlpacaEval, mine and theirs: 3 instructions answered on one side alone, and left out",
        "AlpacaEval, mine: the judge's reply begins with A or B with a probability of 30% on average: its verdicts are "
        "hardly more than guesses",
    ]


def test_why_a_model_has_no_number_is_known(bench: Bench):
    losses = bench.put("evaluation", "losses.parquet", [{"set": "reference", "id": "0", "loss": 1.0}])
    card = bench.gather(
        "reference",
        **{
            "0_alpaca_eval": [bench.verdicts([0.2] * 8)],
            "1_alpaca_eval": [bench.verdicts([None] * 8)],
            "0_mt_bench": [bench.grades([3, 5])],
            "1_mt_bench": [bench.grades([None, None])],
            "0_losses": [losses],
        },
    )
    assert "all verdicts are the same" in card.missing["mine", "alpaca_eval_lc"]
    assert card.missing["theirs", "alpaca_eval"] == card.missing["theirs", "mt_bench"] == build_scorecard.UNREAD
    assert "--reference" in card.missing["theirs", "reference_loss"]
    assert not card.missing.keys() & card.scores.keys()
    assert [example.value for example in card.examples if example.column == "mt_bench"] == [5, 3]
    assert {example.first for example in card.examples if example.column == "alpaca_eval"} == {"mine", "reference"}


def test_an_overlap_is_told_by_the_name_that_this_evaluation_gives_the_training_set(bench: Bench):
    overlaps = {"0_overlap": [bench.overlap("mmlu")], "1_overlap": [bench.overlap("arc_challenge")]}
    card = bench.gather("reference", ["mine", "theirs"], **overlaps)
    assert [(one.data, one.benchmark, one.exact) for one in card.overlaps] == [
        ("mine", "MMLU", 1),
        ("theirs", "ARC-C", 1),
    ]


@pytest.mark.parametrize(("baseline", "expected"), [("reference", "mine"), ("answers", "mine"), ("theirs", "theirs")])
def test_models_are_compared_with_one_of_them_whoever_win_rates_are_against(bench: Bench, baseline: str, expected: str):
    assert bench.gather(baseline).baseline == expected


def test_time_is_counted_by_who_spent_it(bench: Bench):
    usage = {"prompts": 3, "prompt_tokens": 10, "completion_tokens": 5, "seconds": 9.0}
    stages = [
        bench.put("answers", seconds=4, usage=usage, model="hub:user/mine@main", chat_template="the model's own"),
        bench.put("benchmark", seconds=5),
        bench.put("grades", seconds=2, usage={**usage, "usd": 0.5}),
        bench.put("questions", seconds=7),
    ]
    card = bench.gather(None, **{"all": stages})
    assert {kind: used["seconds"] for kind, used in card.usage.items()} == {
        "the models": 14, "the judge": 9, "the rest": 7,
    }  # fmt: skip
    assert card.usage["the judge"]["usd"] == 0.5
