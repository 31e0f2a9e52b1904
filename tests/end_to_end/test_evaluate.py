"""`montessori evaluate` as a user calls it: a run's students, local files of every benchmark, a judge that is served.

The benchmarks' data is real, the students are the micro run's, and the judge is a tiny model that has learned the form
of verdicts: numbers are checked against what the stages wrote, not against what a good model would get.
"""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tiny_judge
import yaml
from harness import CONFIG, Montessori, free_port
from vllm_server import PYTHON, serving

from montessori.artifacts import Folder, Request
from montessori.data.rows import read_rows

DATA = Path(__file__).resolve().parents[2].parent / "shared" / "data"
GPQA = ["Question", "Correct Answer", "Incorrect Answer 1", "Incorrect Answer 2", "Incorrect Answer 3"]

pytestmark = [
    pytest.mark.xdist_group("evaluate"),
    pytest.mark.skipif(not DATA.is_dir(), reason="no ../shared/data: the benchmarks' files"),
]


def suite(folder: Path) -> dict[str, Any]:
    """A suite with every benchmark on local files, a few items of each."""
    rows = [",".join(GPQA), *(f"What is {n} + {n}?,{2 * n},{n},{n + 1},0" for n in range(6))]
    (folder / "gpqa.csv").write_text("\n".join(rows) + "\n")
    arc, gsm8k, hellaswag = "arc/arc_challenge_test.jsonl", "gsm8k/test.jsonl", "hellaswag/hellaswag_val_1000.jsonl"
    return {
        "name": "local",
        "benchmarks": {
            "mmlu": _on("mmlu", "acc,none", 0, 1, "mmlu/test_sample.csv"),
            "gpqa": {**_on("gpqa_main_zeroshot", "acc_norm,none", 0, 6, ""), "file": str(folder / "gpqa.csv")},
            "arc_challenge": {**_on("arc_challenge", "acc_norm,none", 1, 8, arc), "shards": 2, **_after(arc)},
            "gsm8k": {**_on("gsm8k", "exact_match,strict-match", 1, 4, gsm8k), **_after("gsm8k/train.jsonl.gz")},
            "hellaswag": _on("hellaswag", "acc_norm,none", 0, 8, hellaswag),
        },
        "alpaca_eval": {
            "questions": {"source": str(DATA / "alpaca_eval/gpt4_1106_preview.jsonl"), "limit": 10},
            "sampling": {"max_tokens": 12},
            "difficulties": "none",
            "selected_on": 4,
        },
        "mt_bench": {
            "questions": {"source": str(DATA / "mt_bench/question.jsonl"), "skip": 20, "limit": 4},
            "references": str(DATA / "mt_bench/reference_answer_gpt-4.jsonl"),
            "max_tokens": 12,
        },
        "head_to_head": True,
    }  # fmt: skip


def _on(task: str, metric: str, shots: int, limit: int, file: str) -> dict[str, Any]:
    return {"task": task, "metric": metric, "shots": shots, "limit": limit, "file": str(DATA / file)}


def _after(file: str) -> dict[str, str]:
    return {"shots_file": str(DATA / file)}


@pytest.fixture(scope="module")
def judge(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_judge.build(tmp_path_factory.mktemp("judge"))


@pytest.fixture(scope="module")
def store(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(shutil.copytree(finished, tmp_path_factory.mktemp("evaluate") / "store"))


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("suite")
    (folder / "local.yaml").write_text(yaml.safe_dump(suite(folder)))
    return folder / "local.yaml"


@pytest.fixture(scope="module")
def served(judge: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    if not PYTHON.is_file():
        pytest.skip("no .venv-vllm: `make vllm` builds it")
    with serving(judge, tmp_path_factory.mktemp("served") / "log") as url:
        yield url


def label_of(manifest: dict[str, Any]) -> str:
    return Request.model_validate(manifest["request"]).label


def run_of(store: Path) -> str:
    (run,) = (store / "runs").iterdir()
    return run.name


@pytest.mark.long
def test_every_benchmark_of_a_runs_students_by_a_served_judge(store: Path, config: Path, served: str, here: Montessori):
    words = ["evaluate", run_of(store), "--suite", config, "--store", store, "--judge", "openai:teacher"]
    words += ["--set", f"judge.openai.base_url={served}"]
    done = here(*words)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "judge  teacher (openai): about" in done.stdout
    (folder,) = (store / "evaluations").iterdir()
    metrics = json.loads((folder / "metrics.json").read_text())
    models = metrics["models"]
    assert list(models) == ["No fine-tuning", "Self-Instruct", "Montessori iteration 1"]
    expected = {"mmlu": 57, "gpqa": 6, "arc_challenge": 8, "mt_bench": 4, "reference_loss": 12}
    for model, columns in models.items():
        assert {name: columns[name]["n"] for name in expected} == expected, model
        assert 1 <= columns["mt_bench"]["mean"] <= 10
        assert ("alpaca_eval" in columns) == (model != "Self-Instruct")  # whom the others are compared with

    manifests = list(Folder(store).manifests("verdicts"))
    for model in ("No fine-tuning", "Montessori iteration 1"):
        (one,) = [m for m in manifests if f"{model} against Self-Instruct" in label_of(m)]
        verdicts = read_rows(store / one["address"] / "verdicts.parquet")
        preferences = [row["preference"] for row in verdicts if row["preference"] is not None]
        assert len(preferences) == models[model]["alpaca_eval"]["n"]
        assert models[model]["alpaca_eval"]["mean"] == pytest.approx(100 * sum(preferences) / len(preferences))
        assert any(preference not in (0, 1) for preference in preferences)  # by its log-probabilities
        others = [row["preference"] for row in verdicts if row["index"] >= 4 and row["preference"] is not None]
        assert models[model]["alpaca_eval_others"]["n"] == len(others)
    assert len(metrics["duels"]) == 3 and all(
        sum(duel[name] for name in ("wins", "ties", "losses", "unreadable")) == 10 for duel in metrics["duels"]
    )
    grades = [
        row for m in Folder(store).manifests("grades") for row in read_rows(store / m["address"] / "grades.parquet")
    ]
    assert len(grades) == 3 * 4 * 2

    again = here(*words)
    assert again.returncode == 0, again.stdout + again.stderr
    assert "every verdict is in the store" in again.stdout
    assert "done " not in again.stdout.split("#")[0]
    assert len(list((store / "evaluations").iterdir())) == 1


def test_a_model_that_is_added_later_is_all_that_is_measured(store: Path, config: Path, judge: Path, here: Montessori):
    """And a judge in a folder does as well as one behind an endpoint."""
    few = [f"--set=benchmarks.{name}=null" for name in ("mmlu", "gpqa", "arc_challenge", "gsm8k")]
    words = [
        "--suite",
        config,
        "--store",
        store,
        *few,
        "--set",
        "mt_bench=null",
        "--set",
        "head_to_head=false",
        "--judge",
        f"transformers:{judge}",
    ]
    first = here("evaluate", f"{run_of(store)}:Self-Instruct", *words)
    assert first.returncode == 0, first.stdout + first.stderr
    card = Path(first.stdout.split()[-1])
    assert "AlpacaEval WR" in (card / "result.md").read_text()  # against the reference answers
    both = [f"{run_of(store)}:{system}" for system in ("Self-Instruct", "Montessori iteration 1")]
    more = here("evaluate", *both, *words, "--baseline", "reference")
    assert more.returncode == 0, more.stdout + more.stderr
    made = [line for line in more.stdout.splitlines() if line.startswith("done")]
    assert made and all("Montessori iteration 1" in line or "scorecard" in line for line in made)


URL = "judge.openai.base_url=http://127.0.0.1:PORT"


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["nothing/there/at/all"], "MODEL = nothing/there/at/all: no such folder"),
        (["student/3f2a"], "MODEL = student/3f2a: not in the store"),
        (["micro-00000000"], "no such folder, and no such run in"),
        (["RUN:nobody"], "the run has no such system; it has: No fine-tuning, Self-Instruct, Montessori iteration 1"),
        (["RUN:Self-Instruct", "RUN:Self-Instruct"], "two are called 'Self-Instruct'; name one"),
        (["reference=RUN:Self-Instruct"], "reference means AlpacaEval's own answers; name it otherwise"),
        (["RUN", "--suite", "best"], "--suite = best: no suite of that name; known: paper, quick"),
        (["RUN", "--suite", "paper"], "need a judge; add --judge openai:NAME"),
        (["RUN", "--judge", "gpt-4o"], "--judge gpt-4o: expected openai:NAME, vllm:MODEL or transformers:MODEL"),
        (["RUN", "--judge", "openai:gpt-4o"], "--judge: nothing in this suite is judged"),
        (["RUN", "--judge", "openai:judge", "--set", "alpaca_eval={}", "--set", URL], "cannot be reached"),
        (["RUN", "--baseline", "nobody"], "--baseline nobody: no file of answers, and none of the models is called so"),
        (["RUN", "--baseline", "WRONG"], "answers are compared in AlpacaEval"),
        (["RUN", "--set", "people=WRONG"], "people: measures the judge, and there is none"),
        (["RUN", "--reference", "WRONG"], "WRONG, line 1: no instruction and no conversation among the fields"),
        (["RUN", "--set", "benchmarks.gsm8k.file=WRONG"], "benchmarks.gsm8k: shots_file is missing"),
        (["RUN", "--set", "benchmarks.gsm8k={task: gsm8k, metric: x, file: WRONG}"], "column question is missing"),
        (["RUN", "--set", "benchmarks.gsm8k.shot=1"], "did you mean benchmarks.gsm8k.shots?"),
        (["RUN", "--set", "benchmarks.losses={task: gsm8k, metric: x}"], "benchmarks.losses: this name is taken"),
        (
            ["RUN", "--set", "engine=vllm", "--set", "vllm.python=no/python", "--place", "process"],
            "vllm.python = no/python: no such",
        ),
    ],
)  # fmt: skip
def test_wrong_input_is_one_sentence_before_anything_starts(
    store: Path, tmp_path: Path, here: Montessori, words: list[str], sentence: str
):
    (tmp_path / "wrong.jsonl").write_text('{"ask": "1 + 1?", "answer": "#### 2"}\n')
    given = {"RUN": run_of(store), "WRONG": str(tmp_path / "wrong.jsonl"), "PORT": str(free_port())}
    for name, value in given.items():
        words, sentence = [word.replace(name, value) for word in words], sentence.replace(name, value)
    done = here("evaluate", *words, "--store", store)
    assert done.returncode == 2, done.stdout + done.stderr
    assert len(done.stderr.splitlines()) == 1 and sentence in done.stderr


def test_a_run_measures_its_students_as_they_come(copy: Path, here: Montessori, tmp_path: Path):
    arc = "arc/arc_challenge_test.jsonl"
    few = {"name": "few", "benchmarks": {"arc": _on("arc_challenge", "acc_norm,none", 0, 3, arc)}}
    (tmp_path / "few.yaml").write_text(yaml.safe_dump(few))
    words = ["run", CONFIG, "--store", copy, "--suite", tmp_path / "few.yaml"]
    done = here(*words)
    assert done.returncode == 0, done.stdout + done.stderr
    (folder,) = (copy / "evaluations").iterdir()
    assert str(folder / "report.html") in done.stdout and f"run     {copy / 'runs' / run_of(copy)}" in done.stdout
    models = json.loads((folder / "metrics.json").read_text())["models"]
    assert list(models) == ["No fine-tuning", "Self-Instruct", "Montessori iteration 1"]
    assert all(columns["arc"]["n"] == 3 for columns in models.values())
    alone = here("evaluate", run_of(copy), "--store", copy, "--suite", tmp_path / "few.yaml")
    assert alone.returncode == 0 and "\ndone " not in alone.stdout, alone.stdout
    wrong = here("run", CONFIG, "--store", copy, "--suite", "nope")
    assert wrong.returncode == 2 and "--suite = nope: no suite of that name" in wrong.stderr
