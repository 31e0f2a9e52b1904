"""Compare our benchmarks' numbers with lm-evaluation-harness's own command line, item by item, 100 items a task.

    .venv/bin/python benchmarks/harness.py --model MODEL --data DATA [--gpqa gpqa_main.csv]
        [--items 100] [--tasks mmlu gpqa arc_challenge gsm8k hellaswag] [--batch-size 8]

MODEL is a model folder (benchmarks/llama2c.py writes a small one). DATA has `mmlu/{test_sample,dev}.csv`,
`arc/arc_challenge_test.jsonl`, `gsm8k/{test.jsonl,train.jsonl.gz}` and `hellaswag/hellaswag_val_1000.jsonl`. For ARC
and HellaSwag the rows after the measured ones are the few-shot examples. Both sides cut prompts longer than the model's
context on the left. Prints the table of docs/results/evaluation.md, and exits with an error where an item differs.
"""

import argparse
import csv
import gzip
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import lm_eval.tasks

from montessori.artifacts import Folder, Request
from montessori.data.rows import Row, read_rows
from montessori.evaluation import harness
from montessori.models import loading
from tasks.benchmarks import run_benchmark
from tasks.runtime.job import Job

TASKS = Path(lm_eval.tasks.__file__).parent


@dataclass(frozen=True)
class Task:
    """Hold the paper's protocol of one benchmark, and its data for both sides."""

    name: str
    metrics: tuple[str, ...]
    shots: int
    file: Path  # for our stage
    shots_file: Path | None


def main() -> None:
    """Print a line for each task and metric."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--gpqa", type=Path, help="GPQA's file, which may not be passed on")
    parser.add_argument("--items", type=int, default=100, help="of each task; of MMLU's 57 subjects alike")
    parser.add_argument("--tasks", nargs="+", default=["mmlu", "gpqa", "arc_challenge", "gsm8k", "hellaswag"])
    parser.add_argument("--batch-size", type=int, default=8)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        print("| task | shots | items | prompts cut | metric | ours | the command | largest difference of an item |")
        print("| --- | ---: | ---: | ---: | --- | ---: | ---: | ---: |", flush=True)
        same = [compare(task, options, folder) for task in tasks(options, folder)]
    if not all(same):
        sys.exit("items differ")


def tasks(options: argparse.Namespace, folder: Path) -> list[Task]:
    """Return the requested tasks that have data, and write the command's files into `folder`."""
    data, count = options.data, options.items
    made = {}
    if "mmlu" in options.tasks:
        items, examples = data / "mmlu" / "test_sample.csv", data / "mmlu" / "dev.csv"
        made["mmlu"] = Task("mmlu", ("acc,none",), 0, items, None)
        subjects = sorted({row["subject"] for row in table(items)})
        for subject in subjects:
            splits = {"test": items, "dev": examples}
            configure(folder, f"mmlu_{subject}", f"mmlu/default/mmlu_{subject}.yaml", **{
                split: [hub_mmlu(row) for row in table(path) if row["subject"] == subject]
                for split, path in splits.items()
            })  # fmt: skip
        average = [{"metric": "acc", "weight_by_size": True}]
        group = {"group": "mmlu", "task": [f"mmlu_{s}" for s in subjects], "aggregate_metric_list": average}
        (folder / "mmlu.yaml").write_text(json.dumps(group))
    if "gpqa" in options.tasks and options.gpqa:
        name = "gpqa_main_zeroshot"
        made["gpqa"] = Task(name, ("acc_norm,none", "acc,none"), 0, options.gpqa, None)
        configure(folder, name, f"gpqa/zeroshot/{name}.yaml", train=table(options.gpqa))
    if "arc_challenge" in options.tasks:
        items, examples = halves(data / "arc" / "arc_challenge_test.jsonl", count, folder)
        made["arc_challenge"] = Task("arc_challenge", ("acc_norm,none", "acc,none"), 25, items, examples)
        configure(folder, "arc_challenge", "arc/arc_challenge.yaml", test=[hub_arc(row) for row in lines(items)],
                  train=[hub_arc(row) for row in lines(examples)])  # fmt: skip
    if "gsm8k" in options.tasks:
        items, examples = data / "gsm8k" / "test.jsonl", data / "gsm8k" / "train.jsonl.gz"
        made["gsm8k"] = Task("gsm8k", ("exact_match,strict-match", "exact_match,flexible-extract"), 8, items, examples)
        configure(folder, "gsm8k", "gsm8k/gsm8k.yaml", test=lines(items), train=lines(examples))
    if "hellaswag" in options.tasks:
        items, examples = halves(data / "hellaswag" / "hellaswag_val_1000.jsonl", count, folder)
        made["hellaswag"] = Task("hellaswag", ("acc_norm,none", "acc,none"), 8, items, examples)
        configure(folder, "hellaswag", "hellaswag/hellaswag.yaml",
                  validation=[{**row, "label": str(row["label"])} for row in lines(items)],
                  train=[{**row, "label": str(row["label"])} for row in lines(examples)])  # fmt: skip
    return list(made.values())


def compare(task: Task, options: argparse.Namespace, folder: Path) -> bool:
    """Print a task's lines, and return whether all of its items are equal."""
    limit = max(2, -(-options.items // 57)) if task.name == "mmlu" else options.items
    rows, told = ours(task, options.model, limit, options.batch_size, folder)
    results, samples = command(task, options.model, limit, options.batch_size, folder)
    said = {row["id"]: row["said"] for row in rows}
    same = True
    for metric in task.metrics:
        name, _, filter = metric.partition(",")
        theirs = {id: sample for (id, its_filter), sample in samples.items() if its_filter == filter}
        values = {row["id"]: json.loads(row["values"])[metric] for row in rows}
        if values.keys() != theirs.keys():
            sys.exit(f"{task.name}: {len(values)} items here, {len(theirs)} by the command")
        apart = max(abs(values[id] - sample[name]) for id, sample in theirs.items())
        mean, error, n, _ = harness.score(rows, metric)
        their_error = results[f"{name}_stderr,{filter}"]
        same &= apart == 0 and abs(mean - results[metric]) < 1e-12 and abs(error - their_error) < 1e-12
        print(
            f"| {task.name} | {task.shots} | {n} | {told['prompts_cut']} | `{metric}` | {mean:.4f} ± {error:.4f} "
            f"| {results[metric]:.4f} ± {their_error:.4f} | {apart:g} |",
            flush=True,
        )
    if task.name == "gsm8k":
        texts = {id: sample["resps"][0][0] for (id, _), sample in samples.items()}
        print(f"gsm8k: {sum(said[id] == text for id, text in texts.items())} of {len(texts)} texts are the same")
        same &= said == texts
    return same


def ours(task: Task, model: Path, limit: int, batch_size: int, folder: Path) -> tuple[list[Row], dict[str, Any]]:
    """Return the items of the stage `benchmark`, and its summary."""
    settings = run_benchmark.Settings(
        task=task.name,
        metric=task.metrics[0],
        shots=task.shots,
        limit=limit,
        dtype="float32",
        batch_size=batch_size,
    )
    files = {"data": task.file, "shots": task.shots_file}
    inputs = {role: [f"file:{path.resolve()}#{role}"] for role, path in files.items() if path}
    inputs["model"] = [f"file:{model.resolve()}#model"]
    means = {"field": f"benchmarks.{task.name}"}
    request = Request(stage="benchmark", version=1, settings=settings.model_dump(), inputs=inputs, seed=0, means=means)
    out = folder / f"ours-{task.name}"
    out.mkdir()
    told = run_benchmark.run(Job(request, Folder(out), out), settings)
    return read_rows(out / "items.parquet"), told


def command(
    task: Task, model: Path, limit: int, batch_size: int, folder: Path
) -> tuple[dict[str, float], dict[tuple[str, str], Row]]:
    """Run `python -m lm_eval`. Return the numbers of the task, and its samples by item and filter."""
    out = folder / f"command-{task.name}"
    words = {
        "--model": "hf",
        "--model_args": f"pretrained={model},dtype=float32",
        "--tasks": task.name,
        "--num_fewshot": task.shots,
        "--limit": limit,
        "--batch_size": batch_size,
        "--device": loading.device(),
        "--include_path": folder,
        "--output_path": out,
    }
    subprocess.run(
        [sys.executable, "-m", "lm_eval", "--log_samples", *(str(word) for pair in words.items() for word in pair)],
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        check=True,
    )
    (results,) = out.rglob("results_*.json")
    samples = {}
    for file in out.rglob("samples_*.jsonl"):
        name = file.name.removeprefix("samples_").rpartition("_")[0]
        samples |= {(f"{name}/{row['doc_id']}", row["filter"]): row for row in lines(file)}
    return json.loads(results.read_text())["results"][task.name], samples


def configure(folder: Path, name: str, config: str, **splits: list[Row]) -> None:
    """Write a copy of the harness's configuration that reads these rows, which are in the hub's form."""
    files = {}
    for split, rows in splits.items():
        files[split] = str(folder / f"{name}-{split}.jsonl")
        Path(files[split]).write_text("".join(json.dumps(row) + "\n" for row in rows))
    more = {"data_files": files, "cache_dir": str(folder / "cache")}
    changed = {"task": name, "dataset_path": "json", "dataset_name": None, "dataset_kwargs": more}
    (folder / f"{name}.yaml").write_text(json.dumps({"include": str(TASKS / config), **changed}))


def hub_mmlu(row: Row) -> Row:
    """Return a row in the hub's form, written independently of our own conversion."""
    return {
        "question": row["question"],
        "choices": [row[letter] for letter in "ABCD"],
        "answer": "ABCD".index(row["answer"]),
    }


def hub_arc(row: Row) -> Row:
    """Return a row of ARC in the hub's form, written independently of our own conversion."""
    letters = "ABCDE"[: len(row["choices"])]
    return {
        "question": row["query"][len("Question: ") :],
        "choices": {"text": row["choices"], "label": list(letters)},
        "answerKey": letters[row["gold"]],
    }


def table(path: Path) -> list[Row]:
    """Return the rows of a CSV file."""
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def lines(path: Path) -> list[Row]:
    """Return the rows of a JSONL file, gzip or not."""
    with (gzip.open if path.suffix == ".gz" else open)(path, "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def halves(path: Path, count: int, folder: Path) -> tuple[Path, Path]:
    """Split a JSONL file into its first `count` rows and the others, as two files."""
    rows = iter(path.read_text(encoding="utf-8").splitlines(keepends=True))
    parts = folder / f"{path.stem}-items.jsonl", folder / f"{path.stem}-examples.jsonl"
    parts[0].write_text("".join(islice(rows, count)), encoding="utf-8")
    parts[1].write_text("".join(rows), encoding="utf-8")
    return parts


if __name__ == "__main__":
    main()
