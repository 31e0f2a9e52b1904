"""The engines on real parts: vLLM in its own environment, offline and as a server, beside transformers."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from endpoint import Proxy
from harness import CONFIG, Montessori, the_run
from vllm_server import PYTHON, serving

from flows.requests.builder import Requests
from montessori.artifacts import Folder
from montessori.data.chat import user
from montessori.data.rows import Row, read_rows, write_rows
from montessori.models.loading import load_model, load_tokenizer
from montessori.settings.generation import Sampling
from montessori.synthesis.engines.transformers import TransformersEngine

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not PYTHON.is_file(), reason="no .venv-vllm: `make vllm` builds it"),
]
QUESTIONS = ["Name three colours of the rainbow.", "Sort: pear apple.", "Say it backwards: one two three", "a"]
GREEDY = Sampling(temperature=0, top_p=1, presence_penalty=0, max_tokens=16)
PENALISED = Sampling(temperature=0, presence_penalty=0.8, frequency_penalty=0.3, repetition_penalty=1.3, max_tokens=16)
OFFLINE = """
import json, sys
from montessori.data.chat import user
from montessori.settings.generation import Sampling
from montessori.models.loading import load_tokenizer
from montessori.synthesis.engines.vllm import VllmEngine

source, questions, samplings = sys.argv[1], json.loads(sys.argv[2]), json.loads(sys.argv[3])
engine = VllmEngine(
    source, load_tokenizer(source), dtype="float32", trust_remote_code=False, context=None, gpu_memory_utilization=0.9
)
for sampling in samplings:
    answers = dict(engine.generate([user(q) for q in questions], Sampling(**sampling), 2, range(len(questions))))
    print(json.dumps([
        [answers[i].prompt_tokens, *([g.text, g.finish_reason, g.tokens] for g in answers[i].generations)]
        for i in range(len(questions))
    ]))
"""


@pytest.fixture(scope="session")
def teacher(finished: Path) -> Path:
    """The micro run's teacher, before any update."""
    (model,) = (finished / "scratch-teacher").glob("*/model")
    return model


@pytest.fixture(scope="module")
def server(teacher: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The teacher behind vLLM's own server, started as the README says."""
    with serving(teacher, tmp_path_factory.mktemp("server") / "log") as url:
        yield url


def by_transformers(teacher: Path, sampling: Sampling) -> list[list[object]]:
    engine = TransformersEngine(load_model(teacher, "float32"), load_tokenizer(teacher))
    answers = dict(engine.generate([user(q) for q in QUESTIONS], sampling, 2, range(len(QUESTIONS))))
    return [
        [answers[i].prompt_tokens, *([g.text, g.finish_reason, g.tokens] for g in answers[i].generations)]
        for i in range(len(QUESTIONS))
    ]


def test_vllm_and_transformers_write_the_same_where_nothing_is_drawn(teacher: Path):
    """With every penalty at work: the two count what was said in the same way."""
    stopped = GREEDY.model_copy(update={"stop": (" ",)})
    samplings = [GREEDY, PENALISED, stopped]
    arguments = [str(teacher), json.dumps(QUESTIONS), json.dumps([s.model_dump() for s in samplings])]
    done = subprocess.run([PYTHON, "-c", OFFLINE, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("[[")]
    assert lines == [by_transformers(teacher, sampling) for sampling in samplings]


def rows_of(store: Path, stage: str, engine: str) -> list[Row]:
    rows = [row for file in sorted((store / stage).glob("*/*.parquet")) for row in read_rows(file)]
    return [row for row in rows if row["engine"] == engine]


def test_a_run_in_which_vllm_writes(only_models: Path, montessori: Montessori):
    changes = ["--set", "generation.engine=vllm", "--set", f"generation.vllm.python={PYTHON}"]
    done = montessori("run", CONFIG, "--store", only_models, *changes)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "engine vllm" in done.stdout
    assert len(rows_of(only_models, "instructions", "vllm")) == 32 + 56 + 32
    assert len(rows_of(only_models, "responses", "vllm")) == 32 + 56 + 32
    assert "engine: vllm" in (the_run(only_models) / "run.yaml").read_text()


def test_a_run_in_which_a_faulty_endpoint_writes_for_the_teacher(
    only_models: Path, montessori: Montessori, server: str
):
    """The base teacher is behind the endpoint; its tuned copy is here, and writes here."""
    with Proxy(server, seed=0, overloaded=0.1, resets=0.05, truncated=0.05) as proxy:
        settings = {"engine": "openai", "openai.model": "teacher", "openai.base_url": proxy.url}
        changes = [word for name, value in settings.items() for word in ("--set", f"generation.{name}={value}")]
        done = montessori("run", CONFIG, "--store", only_models, *changes)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"engine teacher at {proxy.url}, its tuned copies by transformers" in done.stdout
    written = rows_of(only_models, "instructions", "openai")
    assert len(written) == 32 + 56
    assert {row["model"] for row in written} == {f"api:teacher@{proxy.url}"}
    assert len(rows_of(only_models, "instructions", "transformers")) == 32
    for manifest in map(Folder(only_models).manifest, artifacts(only_models, "responses")):
        if manifest["request"]["settings"]["engine"] == "openai":
            assert manifest["summary"]["usage"]["prompts"] == manifest["summary"]["pairs"]


def artifacts(store: Path, stage: str) -> list[str]:
    return [f"{stage}/{folder.name}" for folder in sorted((store / stage).iterdir())]


def test_what_vllm_had_written_when_it_was_killed_is_not_written_again(tmp_path: Path, teacher: Path):
    store = Folder(tmp_path)
    questions = [{"id": f"{n}", "prompt_id": f"{n}", "instruction": f"Say {n} and {n + 1}."} for n in range(3000)]
    with store.staging() as folder:
        write_rows(folder / "instructions.parquet", questions)
        store.commit("instructions/all", folder, {"seconds": 0, "summary": {}})
    settings = {"engine": "vllm", "dtype": "float32", "sampling": Sampling(top_p=1, presence_penalty=0, max_tokens=24)}
    inputs = {"teacher": [f"file:{teacher}#0"], "instructions": ["instructions/all"]}
    asked = Requests()
    means = {"vllm": {"gpu_memory_utilization": 0.9}}
    request = asked.by_address[asked.add("responses", settings, inputs, seed=0, means=means)]
    # An address outside the store names the model's folder itself.
    order = tmp_path / "order.json"
    order.write_text(request.model_dump_json())
    command = [PYTHON, "-m", "tasks.runtime.worker", str(order), "--store", str(tmp_path)]

    def answered() -> list[dict[str, object]]:
        with store.journal(request.address) as journal:
            return journal.entries()

    first = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    journal = tmp_path / ".journals" / request.address.replace("/", "+") / "answers.jsonl"
    wait_for(lambda: journal.is_file() and journal.read_bytes().count(b"\n") > 100, first)
    os.killpg(first.pid, signal.SIGKILL)
    first.wait()
    before = answered()
    assert 100 < len(before) < 3000
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    manifest = store.manifest(request.address)
    assert manifest["summary"]["usage"]["prompts"] == 3000
    responses = {row["response"] for row in read_rows(tmp_path / request.address / "pairs.parquet")}
    assert {entry["generations"][0]["text"].strip() for entry in before} <= responses
    assert not journal.exists()


def wait_for(condition: Callable[[], bool], process: "subprocess.Popen[bytes]") -> None:
    for _ in range(3000):
        if condition():
            return
        assert process.poll() is None, "it ended by itself"
        time.sleep(0.1)
    raise AssertionError("it did not come to that")


def test_a_context_that_the_model_does_not_have_is_wrong_input(only_models: Path, montessori: Montessori):
    changes = ["generation.engine=vllm", f"generation.vllm.python={PYTHON}", "generation.context=100000"]
    done = montessori("run", CONFIG, "--store", only_models, *(w for c in changes for w in ("--set", c)))
    assert done.returncode == 2, done.stdout + done.stderr
    assert "vLLM cannot serve it" in done.stderr
    assert "lower generation.context" in done.stderr


def test_an_interpreter_without_vllm_is_found_before_anything_starts(tmp_path: Path, montessori: Montessori):
    for python, sentence in ((sys.executable, "not both installed there"), ("nowhere/python", "no such interpreter")):
        changes = ["--set", "generation.engine=vllm", "--set", f"generation.vllm.python={python}"]
        done = montessori("run", CONFIG, "--store", tmp_path / "store", *changes)
        assert done.returncode == 2
        assert sentence in done.stderr
        assert "make vllm" in done.stderr
        assert not (tmp_path / "store").exists()
