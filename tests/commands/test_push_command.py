"""`montessori push`, with the real client against a hub of our own: what gets there, what does not, what is refused."""

import io
import json
import os
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hub as hubs
import pyarrow.parquet as pq
import pytest
import yaml

from flows.commands import cli
from flows.requests.run import plan
from montessori.artifacts import Folder
from montessori.data import rows as data
from montessori.data.chat import Message
from montessori.settings import files as config_file
from montessori.synthesis.engines import Answer, Generation
from tasks.runtime import engines, worker

pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=<...>':DeprecationWarning")  # the hub's client, of its own
TOKEN = "hf_alices-secret"
SIZE = 6
USER, HOST = "carol-who-ran-it", "machine-of-carol"
RESULT = "# hand\n\n| System | Reference loss |\n| --- | ---: |\n| Self-Instruct | 1.25 ± 0.10 |\n"
READ_BACK = """
import json, sys
from datasets import load_dataset
from montessori.data import rows as data
from montessori.settings.data import DataSource
source = DataSource(source="alice/points")
found = {"rows": load_dataset("alice/points", split="train").to_list(), "seeds": data.read(source, "seeds")}
open(sys.argv[1], "w").write(json.dumps(found))
"""


class Teacher:
    """An engine that writes random numbers; one text in four lacks its tags."""

    def generate(self, prompts: list[list[Message]], sampling: Any, samples: int, seeds: list[int], **_: Any) -> Any:
        for i, prompt in enumerate(prompts):
            draw = random.Random(seeds[i])
            words = [" ".join(str(draw.randrange(10**6)) for _ in range(5)) for _ in range(samples)]
            if "New task:" in prompt[0]["content"]:
                words = [f"<instruction>Add {w}</instruction>" if n % 4 else w for n, w in enumerate(words)]
            yield i, Answer([Generation(f"{w} ü", "stop", 5) for w in words], prompt_tokens=11)


@pytest.fixture
def finished(tmp_path: Path, tiny_llama: Any, tiny_tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, str]:
    """A store with a run of two iterations from local files, and the run's name."""
    return run_in(tmp_path, tiny_llama, tiny_tokenizer, monkeypatch, {"engine": "transformers"})


def run_in(
    here: Path, tiny_llama: Any, tiny_tokenizer: Any, monkeypatch: pytest.MonkeyPatch, generation: dict[str, Any]
) -> tuple[Path, str]:
    """All artifacts of a run: the texts made by the real stages, models copied, the rest empty."""
    monkeypatch.setattr("tasks.runtime.generation._engine", lambda *_: Teacher())
    monkeypatch.setattr("montessori.artifacts.store._user", lambda: USER)
    monkeypatch.setattr("socket.gethostname", lambda: HOST)
    for name in ("teacher-model", "student-model"):
        tiny_llama().save_pretrained(here / name)
        tiny_tokenizer.save_pretrained(here / name)
    for name in ("seeds", "reference"):
        rows = ({"instruction": f"{name} {n}", "output": f"{n}"} for n in range(9))
        (here / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    tree = {
        "name": "hand",
        "seeds": str(here / "seeds.jsonl"),
        "reference": str(here / "reference.jsonl"),
        "teacher": {"source": str(here / "teacher-model"), "dtype": "float32"},
        "student": {"source": str(here / "student-model"), "dtype": "float32"},
        "generation": generation,
        "instructions": {"sampling": {"temperature": 0.875}},
        "responses": {"shards": 2, "sampling": {"max_tokens": 77, "stop": ["```", "|"]}},
        "probing": {"warm_up": 3, "probing": 3},
        "training_size": SIZE,
    }
    requests = plan(engines.resolve(config_file.parse(tree, "settings")))[0].requests
    store = Folder(here / "store")
    for address, request in requests.items():
        if request.stage in ("seeds", "reference", "instructions", "responses"):
            worker.run(request, store)
            continue
        with store.staging() as folder:
            files = {"result.md": RESULT} if request.stage == "report" else {"log.json": "[]"}
            if request.stage in ("teacher", "student"):
                (folder / "model").mkdir()
                for file in (here / f"{request.stage}-model").iterdir():
                    (folder / "model" / file.name).write_bytes(file.read_bytes())
            for name, content in files.items():
                (folder / name).write_text(content)
            summary = {"teacher": {"trained": 4}, "student": {"encoded": SIZE}}.get(request.stage, {})
            store.commit(address, folder, worker.build_manifest(request, summary, 1.0))
    (name,) = (path.name for path in (here / "store" / "runs").iterdir())
    return here / "store", name


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[hubs.Hub]:
    """A hub that knows alice, who is logged in here."""
    with hubs.running(alice=TOKEN, bob="hf_bobs") as hub:
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", hub.url)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
        monkeypatch.setenv("NO_PROXY", "*")
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield hub


def push(finished: tuple[Path, str], *words: str, repo: str = "alice/points") -> int:
    store, name = finished
    return cli.main(["push", name, repo, "--store", str(store), *words])


def inputs(finished: tuple[Path, str]) -> dict[str, list[str]]:
    """What the run was made from, by name."""
    store, name = finished
    found: dict[str, list[str]] = json.loads((store / "runs" / name / "manifest.json").read_text())["request"]["inputs"]
    return found


def joined(finished: tuple[Path, str], system: str) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """A system's instructions, each with its answer: the rows of the artifacts."""
    store, made = finished[0], inputs(finished)
    (address,) = made[f"{system}:instructions"]
    pairs = {row["id"]: row for a in made[f"{system}:pairs"] for row in data.read_rows(store / a / "pairs.parquet")}
    return [(row, pairs[row["id"]]) for row in data.read_rows(store / address / "instructions.parquet")]


def header(card: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(card.split("---\n")[1])
    return found


def test_rows_are_the_artifacts_own_with_all_that_tells_how_each_was_made(
    finished: tuple[Path, str], hub: hubs.Hub, capsys: pytest.CaptureFixture[str]
) -> None:
    assert push(finished) == 0
    assert capsys.readouterr().out.splitlines()[-1] == f"{hub.url}/datasets/alice/points"
    repository = hub.repositories["datasets/alice/points"]
    assert repository.private
    assert [commit["paths"] for commit in repository.commits] == [["README.md", "data/train.parquet"]]
    rows = pq.read_table(io.BytesIO(repository.files["data/train.parquet"])).to_pylist()
    expected = joined(finished, "Montessori iteration 2")
    assert len(rows) == len(expected) == SIZE
    for row, (asked, answered) in zip(rows, expected, strict=True):
        assert row["instruction"] == asked["instruction"] == answered["instruction"]
        for name in ("id", "prompt_id", "round", "sample", "seed_ids", "prompt", "raw", "prompt_version"):
            assert row[name] == asked[name]
        assert row["prompt"][0]["content"].startswith("You write tasks")
        for name in ("response", "engine", "model", "instruction_tokens", "response_tokens"):
            assert row[name] == answered[name]
        assert (row["instruction_seed"], row["response_seed"]) == (asked["seed"], answered["seed"])
        assert (row["raw_tokens"], row["prompt_tokens"]) == (asked["tokens"], asked["prompt_tokens"])
        assert row["instruction_finish_reason"] == row["response_finish_reason"] == "stop"
        assert json.loads(row["instruction_sampling"])["temperature"] == 0.875
        assert json.loads(row["response_sampling"])["max_tokens"] == 77
        assert row["model"].startswith("teacher/")


def test_the_card_says_how_it_was_made_and_heads_what_the_hub_wants(finished: tuple[Path, str], hub: hubs.Hub) -> None:
    assert push(finished, "--public", "--license", "mit") == 0
    assert not hub.repositories["datasets/alice/points"].private
    card = hub.repositories["datasets/alice/points"].files["README.md"].decode()
    assert header(card) == {
        "license": "mit",
        "pretty_name": "points",
        "task_categories": ["text-generation"],
        "size_categories": ["n<1K"],
        "tags": ["synthetic", "montessori", "instruction-tuning"],
        "configs": [
            {"config_name": "default", "data_files": [{"split": "train", "path": "data/train.parquet"}]},
        ],
    }
    (teacher,) = inputs(finished)["2:teacher"]
    (written,) = inputs(finished)["Montessori iteration 2:instructions"]
    made = json.loads((finished[0] / written / "manifest.json").read_text())
    done = made["summary"]
    for said in (
        f"the run `{finished[1]}`",
        f"| teacher | `{teacher}` |",
        "| base teacher | `teacher-model` (SHA-256 `",
        "| engine | transformers, weights in float32 |",
        "temperature 0.875, top_p 0.9, presence_penalty 1.0",
        "max_tokens 77, stop ```` '```', '\\|' ```` |",
        f"version `{made['request']['settings']['prompt']}`",
        "| influence | taylor; pairs split by zero |",
        "| reference set | `reference.jsonl` (SHA-256 `",
        "| seeds | `seeds.jsonl` (SHA-256 `",
        f"{len(done['rounds'])}: {sum(each['prompts'] for each in done['rounds'])} prompts",
        f"{done['rejected']['no tagged instruction']} no tagged instruction",
        f"{done['usage']['completion_tokens'] + 5 * SIZE:,} written by the teacher",
        f"transformers {made['versions']['transformers']}",
        "| Self-Instruct | 1.25 ± 0.10 |",
        "`montessori run run.yaml`",
    ):
        assert said in card, said
    assert card.count("| DPO into ") == 2
    fence, text = card.split("<summary>run.yaml</summary>\n\n")[1].split("yaml\n", 1)
    settings = config_file.parse(yaml.safe_load(text.split(f"\n{fence}\n")[0]), "run.yaml")
    assert settings.seeds.source == "seeds.jsonl" and settings.teacher and settings.teacher.source == "teacher-model"
    assert settings.responses.sampling.stop == ("```", "|")


def test_a_pushed_data_set_is_read_back_by_datasets_and_as_the_seeds_of_another_run(
    finished: tuple[Path, str], hub: hubs.Hub, tmp_path: Path
) -> None:
    command = [sys.executable, "-m", "flows.commands.cli", "push", finished[1], "alice/points", "--store", finished[0]]
    environment = hub.environment(tmp_path / "hf", TOKEN)
    pushed = client([*command, "--system", "Self-Instruct"], environment)
    assert pushed.returncode == 0, pushed.stderr
    assert TOKEN not in pushed.stdout + pushed.stderr and pushed.stderr == ""
    read = client([sys.executable, "-c", READ_BACK, tmp_path / "found.json"], environment)
    assert read.returncode == 0, read.stderr
    found = json.loads((tmp_path / "found.json").read_text())
    expected = [answered for _, answered in joined(finished, "Self-Instruct")]
    wanted = ("id", "instruction", "response")
    assert [[row[name] for name in wanted] for row in found["rows"]] == [[r[n] for n in wanted] for r in expected]
    assert found["seeds"] == [{name: row[name] for name in wanted} for row in expected]


def client(command: list[Any], environment: dict[str, str]) -> "subprocess.CompletedProcess[str]":
    kept = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
    return subprocess.run(
        list(map(str, command)), env={**kept, **environment}, capture_output=True, text=True, check=False, timeout=300
    )


@pytest.mark.parametrize("what", ["teacher", "student"])
def test_a_model_is_pushed_with_its_tokenizer_and_a_card(
    finished: tuple[Path, str], hub: hubs.Hub, capsys: pytest.CaptureFixture[str], what: str
) -> None:
    assert push(finished, "--what", what, "--system", "Montessori iteration 1", repo="alice/model") == 0
    assert capsys.readouterr().out.splitlines()[-1] == f"{hub.url}/alice/model"
    repository = hub.repositories["models/alice/model"]
    (address,) = inputs(finished)["1:teacher" if what == "teacher" else "Montessori iteration 1:student"]
    files = {path.name: path.read_bytes() for path in (finished[0] / address / "model").iterdir()}
    card = repository.files.pop("README.md").decode()
    assert repository.files == files
    assert "model.safetensors" in files and "tokenizer.json" in files
    assert header(card)["tags"][-1] == {"teacher": "dpo", "student": "sft"}[what]
    assert f"| model | `{address}` |" in card
    assert f"| trained from | `{what}-model` (SHA-256 `" in card
    assert ("4 pairs" if what == "teacher" else f"{SIZE} points") in card
    assert "learning_rate" in card and "1.25 ± 0.10" in card


@pytest.mark.parametrize("what", ["data", "teacher", "student"])
def test_nothing_that_is_sent_names_the_machine_or_the_token(
    what: str,
    tmp_path: Path,
    tiny_llama: Any,
    tiny_tokenizer: Any,
    monkeypatch: pytest.MonkeyPatch,
    hub: hubs.Hub,
) -> None:
    endpoint = {"model": "/srv/models-of-carol/llama", "base_url": "http://gpu7.intranet:8000/v1"}
    generation = {"engine": "openai", "tuned_engine": "transformers", "openai": endpoint}
    monkeypatch.setenv("OPENAI_API_KEY", "sk-of-carol")
    finished = run_in(tmp_path, tiny_llama, tiny_tokenizer, monkeypatch, generation)
    for system in ["Montessori iteration 1"] + ["Self-Instruct"] * (what != "teacher"):
        assert push(finished, "--what", what, "--system", system) == 0
    sent = hub.uploaded()
    assert b"README.md" in sent and b"llama" in sent
    for name in (tmp_path, USER, HOST, TOKEN, "sk-of-carol", "/srv/", "models-of-carol", "intranet", "8000"):
        assert str(name).encode() not in sent, name
    card = next(iter(hub.repositories.values())).files["README.md"].decode()
    assert "`llama` behind an OpenAI-compatible endpoint" in card and "The endpoint's URL is not told." in card
    if what == "data":
        content = next(iter(hub.repositories.values())).files["data/train.parquet"]
        assert set(pq.read_table(io.BytesIO(content))["model"].to_pylist()) == {"api:llama"}


def test_a_second_push_of_the_same_is_no_second_commit_and_another_system_replaces_it(
    finished: tuple[Path, str], hub: hubs.Hub
) -> None:
    for system in ("Self-Instruct", "Self-Instruct", "Montessori iteration 1"):
        assert push(finished, "--system", system) == 0
    repository = hub.repositories["datasets/alice/points"]
    assert len(repository.commits) == 2
    assert "*Montessori iteration 1*" in repository.files["README.md"].decode()


def test_a_folder_is_written_without_a_hub_or_a_token(
    finished: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("huggingface_hub.HfApi", None)
    monkeypatch.setattr("huggingface_hub.get_token", None)
    store, name = finished
    look = tmp_path / "look"
    assert cli.main(["push", str(store / "runs" / name), "alice/points", "--to", str(look)]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == str(look)
    assert sorted(p.relative_to(look).as_posix() for p in look.rglob("*") if p.is_file()) == [
        "README.md",
        "data/train.parquet",
    ]
    assert push(finished, "--to", str(look)) == 2
    assert f"--to = {look}: there is something already" in capsys.readouterr().err


def refused(capsys: pytest.CaptureFixture[str], code: int, expected: int = 2) -> str:
    """The one sentence on the screen."""
    said = capsys.readouterr()
    assert code == expected, said.err
    assert said.out == "" and said.err.count("\n") == 1 and said.err.startswith("montessori: ")
    assert TOKEN not in said.err
    return said.err.removeprefix("montessori: ").strip()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["hand-0", "alice/points"], "RUN = hand-0: no run's folder, and no run in {store}, which has: {run}"),
        (["{run}", "points"], "REPO = points: expected user/name"),
        (["{run}", "a/b/c"], "REPO = a/b/c: expected user/name"),
        (["{run}", "alice/a--b"], "REPO = alice/a--b: the hub does not take it (Cannot have -- or .."),
        (["{run}", "bob/points"], "REPO = bob/points: the token may not write there (403: You don't have the rights"),
        (["{run}", "alice/points", "--license", "mine"], 'Invalid metadata in README.md. - "license" must be one of'),
        (
            ["{run}", "alice/points", "--system", "Montessori"],
            "--system = Montessori: the run has no data of such a system; it has: Self-Instruct, "
            "Montessori iteration 1, Montessori iteration 2",
        ),
        (
            ["{run}", "alice/points", "--what", "teacher", "--system", "Self-Instruct"],
            "--system = Self-Instruct: the run has no teacher of such a system; it has: Montessori iteration 1, "
            "Montessori iteration 2",
        ),
    ],
)  # fmt: skip
def test_wrong_input_is_one_sentence_that_names_it(
    finished: tuple[Path, str], hub: hubs.Hub, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    store, run = finished
    code = cli.main(["push", *(word.format(run=run) for word in words), "--store", str(store)])
    assert message.format(store=store, run=run) in refused(capsys, code)
    assert not any(repository.files for repository in hub.repositories.values())


def test_a_token_that_is_missing_or_refused_is_wrong_input(
    finished: tuple[Path, str],
    hub: hubs.Hub,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_unknown")
    assert f"HF_TOKEN: the hub at {hub.url} refuses the token (401)" in refused(capsys, push(finished))
    monkeypatch.setenv("HF_TOKEN", "hf_ü")
    assert refused(capsys, push(finished)).startswith("HF_TOKEN: not a token")
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "no-login"))
    assert refused(capsys, push(finished)).startswith("no Hugging Face token: set HF_TOKEN")


def test_a_repository_that_is_public_gets_nothing_unless_told_so(
    finished: tuple[Path, str], hub: hubs.Hub, capsys: pytest.CaptureFixture[str]
) -> None:
    for private, words in ((False, []), (True, ["--public"])):
        hub.repositories["datasets/alice/points"] = repository = hubs.Repository(private)
        said = refused(capsys, push(finished, *words))
        assert f"REPO = alice/points: is there and {'private' if private else 'public'}" in said
        assert not repository.files


def test_somebody_elses_repository_is_not_written_to(
    finished: tuple[Path, str], hub: hubs.Hub, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.repositories["datasets/bob/points"] = hubs.Repository(private=False)
    code = push(finished, "--public", repo="bob/points")
    assert "REPO = bob/points: the token may not write there (403" in refused(capsys, code)


def test_a_hub_that_cannot_be_reached_or_is_broken_is_no_wrong_input(
    finished: tuple[Path, str],
    hub: hubs.Hub,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    hub.broken = 500
    assert f"the hub at {hub.url} could not do it now (500" in refused(capsys, push(finished), expected=1)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:1")
    said = refused(capsys, push(finished), expected=1)
    assert said.startswith("the hub at http://127.0.0.1:1 cannot be reached")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert refused(capsys, push(finished)).startswith("HF_HUB_OFFLINE is set")


def test_a_changed_artifact_is_not_pushed(
    finished: tuple[Path, str], hub: hubs.Hub, capsys: pytest.CaptureFixture[str]
) -> None:
    for file in finished[0].glob("responses/*/pairs.parquet"):
        file.write_bytes(file.read_bytes()[:-1])
    assert "differs from what was committed" in refused(capsys, push(finished), expected=1)
    assert not hub.repositories


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"method": "self-reward"}, "its method is self-reward; cards are for runs with method: montessori"),
        ({"update": "bootstrap"}, "its update is bootstrap; cards are for runs with update: instructions"),
        ({"preferences": {"signal": "rating"}}, "its signal is rating; cards are for runs with signal: influence"),
    ],
)
def test_a_run_of_which_a_card_would_tell_something_else_is_not_pushed(
    finished: tuple[Path, str], hub: hubs.Hub, capsys: pytest.CaptureFixture[str], change: dict[str, Any], message: str
) -> None:
    store = Folder(finished[0])
    about = store.manifest(f"runs/{finished[1]}")
    about["request"]["settings"]["run"] |= change
    with store.staging() as folder:
        (folder / "result.md").write_text(RESULT)
        store.commit("runs/other-12345678", folder, about)
    assert message in refused(capsys, push((finished[0], "other-12345678")))
    assert not hub.repositories
