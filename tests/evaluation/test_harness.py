"""Benchmarks by lm-evaluation-harness, against its own command line on the same tiny model and the same data."""

import csv
import gzip
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from montessori import progress
from montessori.artifacts import Folder, Request
from montessori.artifacts.store import sha256
from montessori.data.rows import Row, read_rows
from montessori.errors import InputError, StageError
from montessori.evaluation import harness, harness_data, harness_tasks
from montessori.models import loading
from montessori.settings.models import Lora
from montessori.settings.suite import Benchmark
from tasks.benchmarks import run_benchmark
from tasks.runtime.job import Job

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT.parent / "shared" / "data"
VLLM = ROOT / ".venv-vllm" / "bin" / "python"
pytestmark = pytest.mark.xdist_group("harness")  # or each worker makes the files, and asks the command, anew
SUBJECTS = {"astronomy": 26, "college_biology": 26, "high_school_physics": 22, "moral_disputes": 26}  # items of each
SHOTS, LIMIT = 2, 100
ITEMS, EXAMPLES = 110, 30  # of each file
FIELD = "benchmarks.it"
GPQA = ["Question", "Correct Answer", "Incorrect Answer 1", "Incorrect Answer 2", "Incorrect Answer 3"]
Files = dict[str, tuple[Path, Path | None]]  # a task's items, and the examples shown before them
Result = tuple[dict[str, Any], list[Row], dict[str, Any]]  # summary, items.parquet, harness.json


def load(folder, task, metric, shots, items=None, examples=None):
    return harness_tasks.load(
        task, metric=metric, shots=shots, folder=folder, field=FIELD, items=items, examples=examples
    )


@pytest.fixture(scope="module")
def model(tiny_tokenizer, tmp_path_factory) -> Callable[[int], Path]:
    """`model(context)`: the folder of a Llama with random weights and a liking for digits."""

    def folder(context: int) -> Path:
        path = tmp_path_factory.getbasetemp() / f"model-{context}"
        if path.is_dir():
            return path
        shape = LlamaConfig(
            vocab_size=len(tiny_tokenizer),
            hidden_size=64,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=2,  # of 32 numbers each, which vLLM wants on a CPU
            max_position_embeddings=context,
            initializer_range=0.2,
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            llama = LlamaForCausalLM(shape)
        liked = [i for i in range(len(tiny_tokenizer)) if re.fullmatch(r"[0-9 .]+", tiny_tokenizer.decode([i]))]
        llama.lm_head.weight.data[liked] *= 4
        loading.save(llama, tiny_tokenizer, path)
        return path

    return folder


def asked(model: Path, task: str, metric: str, files: tuple[Path | None, Path | None], **more: Any) -> Request:
    shard = more.pop("shard", (0, 1))
    settings = run_benchmark.Settings(**({"task": task, "metric": metric, "dtype": "float32", "batch_size": 8} | more))
    inputs = {
        name: [f"file:{path}#{sha256(path)}"] for name, path in zip(("data", "shots"), files, strict=True) if path
    }
    return Request(
        stage="benchmark",
        version=1,
        settings=settings.model_dump(),
        inputs={"model": [f"file:{model}#{model.name}"], **inputs},
        seed=0,
        shard=shard,
        means={"vllm": {"gpu_memory_utilization": 0.9}, "field": FIELD},
    )


def run(where: Path, *given: Any, **more: Any) -> Result:
    """What the stage says and writes of `asked(*given, **more)`."""
    request = asked(*given, **more)
    out = where / request.fingerprint
    out.mkdir()
    settings = run_benchmark.Settings.model_validate(request.settings)
    summary = run_benchmark.run(Job(request, Folder(where / "store"), out), settings)
    return summary, read_rows(out / "items.parquet"), json.loads((out / "harness.json").read_text())


def lines(path: Path, rows: list[Row]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def table(path: Path, columns: list[str], rows: list[list[str]]) -> Path:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([columns, *rows])
    return path


def jsonl(path: Path, count: int) -> list[Row]:
    with (gzip.open if path.suffix == ".gz" else open)(path, "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in islice(file, count)]


@pytest.fixture(scope="module")
def files(tmp_path_factory, model) -> Files:
    """More items than are measured, of each of the paper's tasks, in forms that people have them in."""
    if not DATA.is_dir():
        pytest.skip("the shared data is not here")
    folder = tmp_path_factory.mktemp("files")
    made: Files = {"mmlu": (folder / "mmlu.csv", DATA / "mmlu" / "dev.csv")}
    with (DATA / "mmlu" / "test_sample.csv").open(newline="") as file:
        columns, *rows = csv.reader(file)
    table(made["mmlu"][0], columns, [row for s, n in SUBJECTS.items() for row in [r for r in rows if r[0] == s][:n]])
    for task, source in (("arc_challenge", "arc/arc_challenge_test"), ("hellaswag", "hellaswag/hellaswag_val_1000")):
        rows = jsonl(DATA / f"{source}.jsonl", ITEMS + EXAMPLES)
        made[task] = lines(folder / f"{task}.jsonl", rows[:ITEMS]), lines(folder / f"{task}-shots.jsonl", rows[ITEMS:])
    examples = lines(folder / "gsm8k-shots.jsonl", jsonl(DATA / "gsm8k" / "train.jsonl.gz", 40))
    made["gsm8k"] = lines(folder / "gsm8k.jsonl", jsonl(DATA / "gsm8k" / "test.jsonl", ITEMS)), examples
    sums = [[f"What is {n} and {n * n % 17} together, in words or as a number?", *answers(n)] for n in range(ITEMS)]
    made["gpqa_main_zeroshot"] = table(folder / "gpqa.csv", GPQA, sums), None
    # A model without sense is right in some items of GSM8K only where the answers are made to be its own.
    metric = "exact_match,flexible-extract"
    said = run(folder, model(768), "gsm8k", metric, made["gsm8k"], shots=SHOTS, limit=24)[1]
    right = [(re.findall(r"-?[$0-9.,]{2,}|-?[0-9]+", row["said"]) or ["1"])[-1] for row in said[::2]]
    rows = jsonl(made["gsm8k"][0], ITEMS)
    for row, answer in zip(rows[::2], right, strict=False):
        row["answer"] = f"It is so. #### {answer}"
    lines(made["gsm8k"][0], rows)
    return made


def answers(n: int) -> list[str]:
    right = n + n * n % 17
    return [f"{right}", f"{right + 1}, since one is carried", f"about {right - 2}", f"It is {right * 10}."]


@pytest.fixture(scope="module")
def command(files, model, tmp_path_factory) -> dict[str, Any]:
    """What `python -m lm_eval` finds on the same items, put into the hub's form here, by hand."""
    import lm_eval.tasks

    folder, configs = tmp_path_factory.mktemp("command"), Path(lm_eval.tasks.__file__).parent

    def configure(task: str, config: str, **splits: list[Row]) -> None:
        data = {split: str(lines(folder / f"{task}-{split}.jsonl", rows)) for split, rows in splits.items()}
        more = {"dataset_path": "json", "dataset_name": None}
        more["dataset_kwargs"] = {"data_files": data, "cache_dir": str(folder / "cache")}
        (folder / f"{task}.yaml").write_text(json.dumps({"include": str(configs / config), "task": task, **more}))

    def mmlu(path: Path, subject: str) -> list[Row]:
        with path.open(newline="") as file:
            rows = [row for row in csv.DictReader(file) if row["subject"] == subject]
        return [
            {"question": r["question"], "choices": [r[c] for c in "ABCD"], "answer": "ABCD".index(r["answer"])}
            for r in rows
        ]

    def arc(row: Row) -> Row:
        choices = {"text": row["choices"], "label": ["A", "B", "C", "D"]}
        return {"question": row["query"][len("Question: ") :], "choices": choices, "answerKey": "ABCD"[row["gold"]]}

    for subject in SUBJECTS:
        items, examples = (mmlu(path, subject) for path in files["mmlu"])
        configure(f"mmlu_{subject}", f"mmlu/default/mmlu_{subject}.yaml", test=items, dev=examples)
    average = [{"metric": "acc", "weight_by_size": True}]
    group = {"group": "mmlu", "task": [f"mmlu_{subject}" for subject in SUBJECTS], "aggregate_metric_list": average}
    (folder / "mmlu.yaml").write_text(json.dumps(group))
    items, examples = ([arc(row) for row in jsonl(path, ITEMS)] for path in files["arc_challenge"])
    configure("arc_challenge", "arc/arc_challenge.yaml", test=items, train=examples)
    items, examples = (jsonl(path, ITEMS) for path in files["gsm8k"])
    configure("gsm8k", "gsm8k/gsm8k.yaml", test=items, train=examples)
    items, examples = (
        [{**row, "label": str(row["label"])} for row in jsonl(path, ITEMS)] for path in files["hellaswag"]
    )
    configure("hellaswag", "hellaswag/hellaswag.yaml", validation=items, train=examples)
    with files["gpqa_main_zeroshot"][0].open(newline="") as file:
        configure("gpqa_main_zeroshot", "gpqa/zeroshot/gpqa_main_zeroshot.yaml", train=list(csv.DictReader(file)))
    words = {
        "--model": "hf",
        "--model_args": f"pretrained={model(768)},dtype=float32",
        # gpqa's first: it shuffles choices by Python's own generator, which the harness draws on at each further task
        "--tasks": "gpqa_main_zeroshot,mmlu,arc_challenge,gsm8k,hellaswag",
        "--num_fewshot": SHOTS,
        "--limit": LIMIT,
        "--batch_size": 8,
        "--device": "cpu",
        "--include_path": folder,
        "--output_path": folder / "out",
    }
    subprocess.run(
        [sys.executable, "-m", "lm_eval", *(str(word) for pair in words.items() for word in pair)],
        env={**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        check=True,
    )
    (results,) = (folder / "out").rglob("results_*.json")
    scores: dict[str, Any] = json.loads(results.read_text())["results"]
    return scores


@pytest.mark.long
@pytest.mark.parametrize(
    ("task", "metrics"),
    [
        ("mmlu", ["acc,none"]),
        ("arc_challenge", ["acc_norm,none", "acc,none"]),
        ("gsm8k", ["exact_match,flexible-extract", "exact_match,strict-match"]),
        ("hellaswag", ["acc_norm,none", "acc,none"]),
        ("gpqa_main_zeroshot", ["acc_norm,none", "acc,none"]),
    ],
)
def test_two_shards_have_the_numbers_of_the_harness_command(task, metrics, files, command, model, tmp_path):
    shots = 0 if task.startswith("gpqa") else SHOTS
    rows = []
    for shard in ((0, 2), (1, 2)):
        part = run(tmp_path, model(768), task, metrics[0], files[task], shots=shots, limit=LIMIT, shard=shard)
        rows += part[1]
    for metric in metrics:
        mean, error, n, groups = harness.score(rows, metric)
        assert (mean, error) == numbers(command[task], metric)
        assert n == (sum(SUBJECTS.values()) if task == "mmlu" else LIMIT)
        assert 0 < mean < 1 or metric == "exact_match,strict-match"  # no equality of nothing
        assert list(groups) == (sorted(SUBJECTS) if task == "mmlu" else [])
        for subject, measure in groups.items():
            assert (measure.mean, measure.standard_error) == numbers(command[f"mmlu_{subject}"], metric)
            assert measure.n == SUBJECTS[subject]


def numbers(result: dict[str, float], metric: str) -> tuple[Any, Any]:
    name, _, filter = metric.partition(",")
    scores = (result[metric], result[f"{name}_stderr,{filter}"])
    return tuple(pytest.approx(number, rel=0, abs=1e-12) for number in scores)


def test_items_are_the_same_in_one_shard_and_in_three(files, model, tmp_path):
    def items(index: int, count: int) -> Result:
        more = {"shots": 3, "limit": 10, "shard": (index, count)}
        return run(tmp_path, model(768), "arc_challenge", "acc_norm,none", files["arc_challenge"], **more)

    whole, parts = items(0, 1), [items(index, 3) for index in range(3)]
    assert sorted((row for part in parts for row in part[1]), key=lambda row: row["doc"]) == whole[1]
    assert [row["doc"] for row in whole[1]] == list(range(10))
    assert [row["doc"] for row in parts[1][1]] == [1, 4, 7]
    assert whole[0]["items"] == 10
    assert whole[0]["acc_norm,none"] == harness.score(whole[1], "acc_norm,none")[0]
    # The second item's examples are drawn after the first one's, in a shard that asks only the second too.
    assert parts[1][2]["example"]["id"] == "arc_challenge/1"
    assert parts[1][2]["example"]["prompt"].count("Question: ") == 4


def test_the_same_choices_are_shuffled_alike_in_every_shard(files, model, tmp_path):
    def items(index: int, count: int) -> list[Row]:
        path = files["gpqa_main_zeroshot"]
        return run(tmp_path, model(768), "gpqa_main_zeroshot", "acc,none", path, limit=6, shard=(index, count))[1]

    whole = items(0, 1)
    assert [row for row in whole if row["doc"] % 2] == items(1, 2)
    assert len({row["target"] for row in whole}) > 1


def test_a_model_is_measured_with_its_adapter(files, model, tmp_path):
    tokenizer, plain = loading.load_tokenizer(model(768)), loading.load_model(model(768))
    adapted = loading.add_lora(plain, Lora(rank=4), seed=0)
    for name, weight in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.3, generator=torch.Generator().manual_seed(0))
    loading.save_unmerged(adapted, tokenizer, tmp_path / "apart")
    loading.save(loading.load_model(tmp_path / "apart"), tokenizer, tmp_path / "merged")
    rows = [
        run(tmp_path, folder, "hellaswag", "acc,none", files["hellaswag"], limit=24)[1]
        for folder in (tmp_path / "apart", tmp_path / "merged", model(768))
    ]
    assert rows[0] == rows[1] != rows[2]
    with pytest.raises(InputError, match="apart: a model with an adapter beside it; measure it with the engine transf"):
        run(tmp_path, tmp_path / "apart", "hellaswag", "acc,none", files["hellaswag"], engine="vllm")


@pytest.mark.long
@pytest.mark.skipif(not VLLM.is_file(), reason="no .venv-vllm: `make vllm` builds it")
def test_vllm_chooses_what_transformers_chooses(files, model, tmp_path):
    given = (model(768), "arc_challenge", "acc_norm,none", files["arc_challenge"])
    request = asked(*given, shots=SHOTS, limit=LIMIT, engine="vllm")
    (tmp_path / "request.json").write_text(request.model_dump_json())
    command = [
        str(VLLM),
        "-m",
        "tasks.runtime.worker",
        str(tmp_path / "request.json"),
        "--store",
        str(tmp_path / "store"),
    ]
    subprocess.run(command, cwd=ROOT, env={**os.environ, "HF_HUB_OFFLINE": "1"}, capture_output=True, check=True)
    rows = read_rows(tmp_path / "store" / request.address / "items.parquet")
    summary, expected, _ = run(tmp_path, *given, shots=SHOTS, limit=LIMIT)
    assert rows == expected
    assert Folder(tmp_path / "store").manifest(request.address)["summary"] == summary


def test_a_shard_without_items_is_empty(files, model, tmp_path):
    summary, rows, told = run(tmp_path, model(768), "hellaswag", "acc,none", files["hellaswag"], limit=1, shard=(1, 2))
    assert (summary, rows, told["example"]) == ({"items": 0, "prompts_cut": 0, "too_long": 0}, [], None)


def test_an_item_says_what_was_asked_what_is_right_and_what_the_model_chose(files, model, tmp_path):
    rows = run(tmp_path, model(768), "hellaswag", "acc_norm,none", files["hellaswag"], limit=12)[1]
    given = jsonl(files["hellaswag"][0], 12)
    for row, item in zip(rows, given, strict=True):
        assert row["id"] == f"hellaswag/{row['doc']}"
        assert row["question"].startswith(item["activity_label"])
        assert row["text"].startswith(row["question"] + "\n")
        assert row["target"] in row["text"]
        assert row["said"] in row["text"]
        assert (row["said"] == row["target"]) == (json.loads(row["values"])["acc_norm,none"] == 1)
    rows = run(tmp_path, model(768), "arc_challenge", "acc,none", files["arc_challenge"], limit=12)[1]
    for row in rows:
        assert not row["text"].startswith("Question:")
        assert "Answer:" not in row["text"]
        assert (row["said"] == row["target"]) == (json.loads(row["values"])["acc,none"] == 1)


def test_tasks_of_other_kinds_are_told_alike(model, tmp_path):
    rows = [{"sentence": "The cup fell since _ was wet.", "option1": "the floor", "option2": "it", "answer": "1"}]
    data = lines(tmp_path / "winogrande.jsonl", rows), None
    ((row,), _) = run(tmp_path, model(256), "winogrande", "acc,none", data)[1:]
    assert row["question"] == "The cup fell since the floor was wet."
    assert row["text"] == "The cup fell since the floor was wet.\nThe cup fell since it"
    assert row["target"] == "The cup fell since the floor"
    assert row["said"] in ("The cup fell since the floor", "The cup fell since it")
    data = lines(tmp_path / "lambada.jsonl", [{"text": "He went to the sea"}]), None
    ((row,), _) = run(tmp_path, model(256), "lambada_openai", "acc,none", data)[1:]
    assert (row["question"], row["target"], row["said"]) == ("He went to the", " sea", "")
    assert json.loads(row["values"])["acc,none"] == 0


def test_what_a_reader_must_know_is_written_down(files, model, tmp_path):
    told = [
        run(tmp_path / name, model(768), "mmlu", "acc,none", files["mmlu"], shots=1, limit=1)[2]
        for name in ("one", "two")
        if not (tmp_path / name).mkdir()
    ]
    assert told[0] == told[1]  # nothing of where files lay for a while
    about = told[0]
    assert about["lm_eval"] == "0.4.13"
    assert about["files"] == {"data": f"file#{sha256(files['mmlu'][0])}", "shots": f"file#{sha256(files['mmlu'][1])}"}
    assert sorted(about["tasks"]) == sorted(f"mmlu_{subject}" for subject in SUBJECTS)
    astronomy = about["tasks"]["mmlu_astronomy"]
    assert (astronomy["version"], astronomy["shots"]) == (1.0, 1)
    assert astronomy["config"]["doc_to_text"].startswith("{{question.strip()}}\nA. {{choices[0]}}")
    assert about["example"]["prompt"].startswith("The following are multiple choice questions (with answers) about")
    assert about["example"]["prompt"].endswith("\nAnswer:")
    assert about["context"] == 768


def test_progress_is_told_in_items(files, model, tmp_path):
    seen = []
    with progress.send_to(lambda *report: seen.append(report)):
        run(tmp_path, model(768), "hellaswag", "acc,none", files["hellaswag"], limit=20, batch_size=1)
    assert [(done, total, unit) for done, total, unit, _ in seen] == [
        (0, 20, "items"),
        (16, 20, "items"),
        (20, 20, "items"),
    ]


def test_prompts_that_leave_no_room_for_a_choice_are_counted(model, tiny_tokenizer, tmp_path):
    around = len(tiny_tokenizer("Question: \nAnswer: y").input_ids)
    fits = 256 + 1 - around  # the choice's last token is not read
    rows = [arc_item("z" * length) for length in (5, fits, fits + 1, 2 * fits)]
    summary, _, told = run(tmp_path, model(256), "arc_challenge", "acc,none", (lines(tmp_path / "a.jsonl", rows), None))
    assert summary["prompts_cut"] == told["prompts_cut"] == 2


def arc_item(question: str, choice: str = "x") -> Row:
    return {"query": f"Question: {question}", "choices": ["y", choice], "gold": 0}


def test_prompts_that_leave_no_room_for_a_text_are_counted(model, tiny_tokenizer, tmp_path):
    fits = 768 - 256 - len(tiny_tokenizer("Question: \nAnswer:").input_ids)  # 256: what the harness lets it write
    rows = [{"question": "z" * length, "answer": "#### 1"} for length in (5, fits, fits + 1)]
    data = lines(tmp_path / "gsm8k.jsonl", rows), None
    summary = run(tmp_path, model(768), "gsm8k", "exact_match,strict-match", data)[0]
    assert summary["prompts_cut"] == 1


def test_items_longer_than_the_context_are_left_out_and_counted(model, tmp_path):
    data = lines(tmp_path / "gsm8k.jsonl", [{"question": "How many?", "answer": "#### 1"}]), None
    summary, rows, _ = run(tmp_path, model(256), "gsm8k", "exact_match,strict-match", data)  # which may write 256
    assert (summary, rows) == ({"items": 0, "prompts_cut": 0, "too_long": 1}, [])
    choices = [arc_item("Which?", choice="z" * length) for length in (1, 254, 255, 300)]
    data = lines(tmp_path / "arc.jsonl", choices), None
    summary, rows, told = run(tmp_path, model(256), "arc_challenge", "acc,none", data)
    assert [row["doc"] for row in rows] == [0, 1, 2]  # 255 and the space before them: all but the last are read
    assert summary["too_long"] == told["too_long"] == 1


@pytest.mark.parametrize(
    ("task", "metric", "shots", "said"),
    [
        (
            "arc_challenge",
            "exact_match,none",
            0,
            "metric = exact_match,none: arc_challenge has acc,none, acc_norm,none",
        ),
        ("gsm8k", "exact_match", 0, "metric = exact_match: gsm8k has exact_match,strict-match, exact_match,flexible-"),
        ("gpqa", "acc,none", 0, "task = gpqa: a collection of tasks; name one of them: gpqa_diamond_cot"),
        ("mmlu_stem", "acc,none", 0, "task = mmlu_stem: a collection of tasks; name one of them: mmlu_stem_tasks"),
        ("mmlu", "f1,none", 0, "metric = f1,none: the harness has no mean of f1 over all items of the group mmlu"),
        ("gpqa_main_zeroshot", "acc,none", 5, "shots = 5: the harness shows no examples in gpqa_main_zeroshot; set 0"),
        ("arc_challenge", "acc,none", 31, "shots = 31: arc_challenge needs 31 examples, and there are 30"),
        ("hellaswag", "acc,none", 30, "shots = 30: hellaswag needs 31 examples, and there are 30"),
        ("mmlu", "acc,none", 6, "shots = 6: mmlu_astronomy needs 6 examples, and there are 5"),
    ],
)
def test_settings_that_do_not_fit_the_task_are_refused(task, metric, shots, said, files, tmp_path):
    items, examples = files.get(task, files["mmlu"])
    with pytest.raises(InputError) as raised:
        load(tmp_path, task, metric, shots, items, examples or items)
    assert str(raised.value).startswith(f"{FIELD}.{said}")
    before = raised.value
    one = Benchmark(task=task, metric=metric, shots=shots)
    with pytest.raises(InputError) as raised:
        harness_tasks.check(one, FIELD, harness_data.read(items, task), harness_data.read(examples or items, task))
    assert str(raised.value) == str(before)


def test_examples_come_from_a_file_of_their_own(files, tmp_path):
    items, _ = files["mmlu"]
    with pytest.raises(InputError, match=r"benchmarks.it.shots_file is missing: 2 examples are shown before each item"):
        load(tmp_path, "mmlu", "acc,none", 2, items)
    some = table(tmp_path / "some.csv", ["subject", "question", *"ABCD", "answer"], [["virology", *"qabcd", "A"]])
    with pytest.raises(InputError, match=r"benchmarks.it.shots_file: no examples of mmlu_astronomy"):
        load(tmp_path, "mmlu", "acc,none", 2, items, some)
    with pytest.raises(InputError, match="the harness shows other items as examples"):
        load(tmp_path, "gpqa_main_n_shot", "acc,none", 2, *gpqa(tmp_path, "Which?", "What?"))
    assert load(tmp_path, "gpqa_main_n_shot", "acc,none", 2, *gpqa(tmp_path, "Which?", "Which?"))


def gpqa(folder: Path, *questions: str) -> tuple[Path, ...]:
    return tuple(
        table(folder / f"gpqa-{n}.csv", GPQA, [[question, "a", "b", "c", str(i)] for i in range(4)])
        for n, question in enumerate(questions)
    )


def test_without_files_a_group_is_the_hubs(files, model, tmp_path, monkeypatch):
    hub = tmp_path / "cais" / "mmlu"  # a folder of the data set's name stands in for it
    hub.mkdir(parents=True)
    configs = []
    for subject in harness_data.SUBJECTS:
        splits = [{"split": split, "path": f"{subject}-{split}.jsonl"} for split in ("test", "dev")]
        configs.append({"config_name": subject, "data_files": splits})
        for split in splits:
            row = {"question": f"{subject}?", "choices": ["a", "b", "c", "d"], "answer": 1}
            lines(hub / split["path"], [row, row])
    (hub / "README.md").write_text(f"---\n{json.dumps({'configs': configs})}\n---\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    summary, rows, told = run(tmp_path, model(256), "mmlu", "acc,none", (None, None), shots=1, limit=1)
    assert [row["doc"] for row in rows] == [0] * 57
    assert {row["question"] for row in rows} == {f"{subject}?" for subject in harness_data.SUBJECTS}
    assert set(harness.score(rows, "acc,none")[3]) == set(harness_data.SUBJECTS)
    assert told["files"] == {}
    assert told["tasks"]["mmlu_virology"]["config"]["dataset_path"] == "cais/mmlu"
    assert summary["items"] == 57


def test_a_group_that_weighs_its_tasks_alike_is_refused(tmp_path):
    with pytest.raises(
        InputError, match=r"it.metric = acc,none: the harness has no mean of acc over all items of the group metabench"
    ):
        load(tmp_path, "metabench", "acc,none", 0)


def test_a_hub_out_of_reach_is_not_wrong_input(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    with pytest.raises(StageError, match=r"benchmarks.it.task = arc_challenge: the hub cannot be reached"):
        load(tmp_path, "arc_challenge", "acc,none", 0)


def item(task: str, doc: int, value: float) -> Row:
    return {"task": task, "doc": doc, "id": f"{task}/{doc}", "values": json.dumps({"acc,none": value})}


def test_a_score_of_single_items_has_the_error_over_all_of_them():
    assert harness.score([item("arc_easy", 0, 1.0)], "acc,none") == (1.0, 0.0, 1, {})
    rows = [item(f"mmlu_{name}", 0, value) for name, value in (("virology", 1.0), ("anatomy", 0.0), ("marketing", 1.0))]
    mean, error, n, groups = harness.score(rows, "acc,none")
    assert (mean, n) == (pytest.approx(2 / 3), 3)
    assert error == pytest.approx(1 / 3)
    assert {name: one.mean for name, one in groups.items()} == {"virology": 1.0, "anatomy": 0.0, "marketing": 1.0}


def test_a_score_of_nothing_or_of_another_metric_is_refused():
    with pytest.raises(InputError, match=r"metric = acc,none: there are no items"):
        harness.score([], "acc,none")
    with pytest.raises(InputError, match=r"metric = acc_norm,none: item arc_easy/3 has acc,none"):
        harness.score([item("arc_easy", 3, 1.0)], "acc_norm,none")
