"""Self-Instruct data from a model behind an endpoint alone: nothing is tuned, and the budget is in dollars."""

import hashlib
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from endpoint import Body, Endpoint, Reply
from harness import CONFIG, Montessori, summary, the_run

from montessori.artifacts import Folder
from montessori.data.rows import read_rows

KEY = "sk-not-to-be-seen-anywhere-0123456789"
WORDS = [hashlib.sha256(str(n).encode()).hexdigest()[:6] for n in range(4000)]


def strong(body: Body, endpoint: Endpoint) -> Reply:
    """A new instruction for a few-shot prompt, an answer for anything else; 100 tokens in, 10 a text out."""
    text = body["messages"][-1]["content"]
    first = int(hashlib.sha256(f"{text} {body['seed']}".encode()).hexdigest(), 16)

    def written(n: int) -> str:
        some = " ".join(WORDS[(first + 7 * n + 131 * i) % len(WORDS)] for i in range(6))
        return f"It trains.\n<instruction>Explain {some}.</instruction>" if "New task:" in text else f"About {some}."

    choices = [
        {"index": n, "finish_reason": "stop", "message": {"role": "assistant", "content": written(n)}}
        for n in range(body.get("n", 1))
    ]
    usage = {
        "prompt_tokens": 100,
        "completion_tokens": 10 * body.get("n", 1),
        "total_tokens": 100 + 10 * body.get("n", 1),
    }
    tree = {"id": "x", "object": "chat.completion", "created": 0, "model": body["model"], "choices": choices}
    return Reply(body={**tree, "usage": usage})


@pytest.fixture
def settings(tmp_path: Path, only_models: Path) -> Path:
    """The micro settings without a teacher, and a store that has the student."""
    tree = yaml.safe_load(CONFIG.read_text())
    del tree["teacher"]
    tree |= {"iterations": 0, "store": str(only_models), "generation": {"engine": "openai"}}
    tree["generation"]["openai"] = {"model": "teacher", "price": {"input": 1.0, "output": 10.0}}
    shutil.rmtree(only_models / "scratch-teacher")
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(tree))
    return path


def run(settings: Path, url: str, here: Montessori, *changes: str) -> "subprocess.CompletedProcess[str]":
    words = [word for change in (f"generation.openai.base_url={url}", *changes) for word in ("--set", change)]
    return here("run", settings, *words, OPENAI_API_KEY=KEY)


def test_a_budget_in_dollars_is_kept_and_nothing_is_paid_for_twice(settings: Path, only_models: Path, here: Montessori):
    """8 prompts for 32 instructions and 32 for their responses: 8 × 500 + 32 × 200 millionths of a dollar."""
    with Endpoint(strong) as endpoint:
        stopped = run(settings, endpoint.url, here, "budget.usd=0.006")
        assert stopped.returncode == 1, stopped.stdout + stopped.stderr
        assert "budget.usd = 0.006 is reached" in stopped.stderr
        paid = len(endpoint.asked)
        assert 8 < paid < 40
        done = run(settings, endpoint.url, here, "budget.usd=1")
        assert done.returncode == 0, done.stdout + done.stderr
        assert set(endpoint.times().values()) == {1}
        assert len(endpoint.asked) == 40
        assert {headers["authorization"] for headers in endpoint.headers} == {f"Bearer {KEY}"}
    found = summary(only_models)
    assert list(found["systems"]) == ["No fine-tuning", "Self-Instruct"]
    assert found["systems"]["Self-Instruct"]["training_points"] == 32
    spent = [cost["usd"][1] for cost in found["cost"].values() if cost["usd"][1] is not None]
    assert sum(spent) == pytest.approx(0.0104)
    assert not (only_models / "scratch-teacher").exists()
    rows = [row for f in (only_models / "responses").glob("*/pairs.parquet") for row in read_rows(f)]
    assert {row["model"] for row in rows} == {f"api:teacher@{endpoint.url}"}
    assert "US dollars" in (the_run(only_models) / "report.html").read_text()

    written = [path for path in only_models.rglob("*") if path.is_file()]
    assert not [path for path in written if KEY.encode() in path.read_bytes()]
    assert KEY not in stopped.stdout + stopped.stderr + done.stdout + done.stderr


@pytest.mark.parametrize(
    ("reply", "changes", "sentence"),
    [
        (Reply(401, {"error": {"message": f"Incorrect API key provided: {KEY}"}}), [], "OPENAI_API_KEY"),
        (("another",), [], "generation.openai.model = teacher: not known there; known are another"),
        (("teacher",), ["instructions.sampling.repetition_penalty=1.2"], "instructions.sampling.repetition_penalty"),
        (
            ("teacher",),
            ["generation.openai.price=null", "budget.usd=1"],
            "budget.usd: the price of teacher is not known",
        ),
    ],
    ids=["key", "model", "penalty", "price"],
)
def test_what_the_endpoint_will_not_do_is_found_before_anything_starts(
    settings: Path, only_models: Path, here: Montessori, reply: Any, changes: list[str], sentence: str
):
    before = sorted(Folder(only_models).root.rglob("*"))
    with Endpoint(strong, models=reply) as endpoint:
        done = run(settings, endpoint.url, here, *changes)
        assert endpoint.asked == []
    assert done.returncode == 2, done.stdout + done.stderr
    assert sentence in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert KEY not in done.stderr
    assert sorted(Folder(only_models).root.rglob("*")) == before


def test_an_address_that_is_not_the_apis_is_found_before_anything_starts(settings: Path, here: Montessori):
    with Endpoint(strong) as endpoint:
        done = run(settings, endpoint.url.removesuffix("/v1"), here)
    assert done.returncode == 2
    assert "usually ends in /v1" in done.stderr


def test_nothing_listening_is_found_before_anything_starts(settings: Path, here: Montessori):
    done = run(settings, "http://127.0.0.1:9/v1", here)
    assert done.returncode == 2
    assert "generation.openai.base_url = http://127.0.0.1:9/v1: cannot be reached" in done.stderr
