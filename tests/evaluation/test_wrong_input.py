"""`montessori evaluate` on wrong input: one sentence that names the field, before anything is loaded or started."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import save_file

from flows.commands import cli

Said = Callable[..., str]
GSM8K = {"task": "gsm8k", "metric": "exact_match,strict-match"}


@pytest.fixture
def said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Said:
    """`said(suite, *words)`: what the command says of a suite with a good model, after exit code 2."""
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text('{"model_type": "llama"}')
    (model / "tokenizer.json").write_text("{}")
    save_file({"weight": torch.zeros(64)}, model / "model.safetensors")
    (tmp_path / "items.jsonl").write_text('{"question": "1 + 1?", "answer": "#### 2"}\n' * 3)
    monkeypatch.chdir(tmp_path)

    def run(suite: dict[str, Any], *words: str) -> str:
        (tmp_path / "suite.yaml").write_text(yaml.safe_dump({"name": "wrong", **suite}))
        assert cli.main(["evaluate", "model", "--suite", "./suite.yaml", *words]) == 2
        told = capsys.readouterr()
        assert (told.out, len(told.err.splitlines())) == ("", 1), told
        assert not (tmp_path / "store").exists()
        return told.err.removeprefix("montessori: ").rstrip()

    return run


def test_a_model_folder_that_is_damaged_is_named_with_the_file(said: Said) -> None:
    suite = {"benchmarks": {"sums": {**GSM8K, "file": "items.jsonl"}}}
    weights = Path("model/model.safetensors")
    whole = weights.read_bytes()
    for damaged in (whole[:-8], whole + b"more", b"version https://git-lfs.github.com/spec/v1\n", b""):
        weights.write_bytes(damaged)
        assert said(suite).startswith(f"MODEL = {weights}: not a whole safetensors file (")
    weights.write_bytes(whole)
    for damaged in ('{"model_type": ', "[1]", ""):
        Path("model/config.json").write_text(damaged)
        assert said(suite, "--dry-run").startswith("MODEL = model/config.json: not ")


def test_a_bad_file_of_the_baselines_answers_is_the_options_fault(said: Said) -> None:
    rows = [{"instruction": "Name a colour.", "output": "Blue."}]
    Path("questions.json").write_text(json.dumps(rows))
    suite = {"alpaca_eval": {"questions": "questions.json"}, "judge": {"engine": "transformers", "source": "model"}}
    for name, content in (("a.csv", "x"), ("a.json", "{}"), ("a.jsonl", ""), ("b.json", "[]")):
        Path(name).write_text(content)
        assert said(suite, "--baseline", name).startswith(f"--baseline = {name}: ")


def test_a_judge_without_an_engine_is_told_what_to_add(said: Said) -> None:
    suite = {"mt_bench": {}, "judge": {"max_tokens": 100}}
    assert said(suite).endswith(
        "judge: engine is missing; add it with source or openai.model, or give --judge ENGINE:MODEL"
    )
    suite["judge"] = {"engin": "vllm", "source": "model"}
    assert said(suite).endswith("judge.engine is missing; unknown setting judge.engin; did you mean judge.engine?")


def test_a_folder_is_no_suite(said: Said) -> None:
    assert said({}, "--suite", "./model") == "model: a folder; expected a YAML file of settings"


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (
            {"metric": "acc,none"},
            ".metric = acc,none: gsm8k has exact_match,strict-match, exact_match,flexible-extract",
        ),
        ({"shots": 4, "shots_file": "items.jsonl"}, ".shots = 4: gsm8k needs 4 examples, and there are 3"),
        pytest.param(
            {"task": "gsm9k"},
            ".task = gsm9k: lm-evaluation-harness has no such task; it has gsm8k",
            marks=pytest.mark.long,  # all tasks of the harness are looked through
        ),
    ],
)
def test_a_benchmark_that_does_not_fit_its_task_is_named_as_it_was_written(
    said: Said, change: dict[str, Any], sentence: str
) -> None:
    suite = {"benchmarks": {"sums": {**GSM8K, "file": "items.jsonl", **change}}}
    assert said(suite, "--dry-run").startswith(f"benchmarks.sums{sentence}")


def test_a_hub_out_of_reach_is_said_once_for_all_benchmarks(
    said: Said, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    suite: dict[str, Any] = {"benchmarks": {"a": GSM8K, "b": {"task": "arc_challenge", "metric": "acc,none"}}}
    assert said(suite).startswith("benchmarks.a, benchmarks.b: the hub cannot be reached for the data (")
    assert said(suite).endswith("there is no local copy; benchmarks.NAME.file can name a file of one's own")
    (tmp_path / "cache" / "openai___gsm8k").mkdir(parents=True)
    assert said(suite).startswith("benchmarks.b: the hub")


def test_what_the_store_has_is_not_looked_at_again(said: Said, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("montessori.artifacts.Folder.exists", lambda self, address: address.startswith("benchmark/"))
    monkeypatch.setattr("montessori.evaluation.harness_tasks.check", None)
    assert cli.main(["evaluate", "model", "--suite", "quick", "--dry-run"]) == 0
