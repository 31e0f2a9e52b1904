"""Points rated 1 to 5 as Self-Reward does it: by an endpoint over real HTTP, and by the pocket world's rule."""

from pathlib import Path
from typing import Any

import pytest
from endpoint import MODEL, Body, Endpoint, Reply, completion

from montessori.artifacts import Folder, Request
from montessori.data.rows import Row, read_rows, write_rows
from montessori.errors import StageError
from montessori.evaluation import judging
from montessori.settings.engines import OpenAI
from tasks.registry import TASKS
from tasks.runtime import worker

PAIRS: list[Row] = [
    {"id": f"p{number // 2}-{number % 2}", "instruction": f"Name colour {number}.", "response": f"It is hue {number}."}
    for number in range(6)
]


def points(store: Folder, rows: list[Row]) -> str:
    """The address of responses."""
    with store.staging() as folder:
        write_rows(folder / "pairs.parquet", rows)
        store.commit("responses/0", folder, {"summary": {}})
    return "responses/0"


def rated(store: Folder, url: str, shard: tuple[int, int] = (0, 1), **changes: Any) -> tuple[list[Row], dict[str, Any]]:
    """The rows and the summary of a judge's ratings."""
    request = Request(
        stage="ratings",
        version=TASKS["ratings"].version,
        settings={
            "engine": "openai",
            "file": "pairs.parquet",
            "wording": judging.wording("ratings"),
            "max_tokens": 64,
            **changes,
        },
        inputs={"judge": [f"api:{MODEL}@x"], "points": ["responses/0"]},
        seed=1,
        shard=shard,
        means={"openai": OpenAI(model=MODEL, base_url=url).model_dump(mode="json")},
    )
    worker.run(request, store)
    return read_rows(store.open(request.address) / "ratings.parquet"), store.manifest(request.address)["summary"]


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Folder:
    monkeypatch.setenv("NO_PROXY", "*")
    store = Folder(tmp_path)
    points(store, PAIRS)
    return store


def by_hue(body: Body, _: Endpoint) -> Reply:
    """Rates hue n with n; says something else of hue 3."""
    text = str(body["messages"][-1]["content"])
    hue = next(number for number in range(6) if f"hue {number}." in text)
    return Reply(body=completion(body, text="Fine." if hue == 3 else f"Good enough. Points: [[{hue}]]"))


def test_a_rating_is_read_from_1_to_5_and_nothing_is_guessed(store: Folder) -> None:
    with Endpoint(by_hue) as endpoint:
        rows, summary = rated(store, endpoint.url, tries=2)
        asked = [str(body["messages"][-1]["content"]) for body in endpoint.asked]
    assert [(row["id"], row["rating"], row["status"], row["tries"]) for row in rows] == [
        ("p0-0", None, "unreadable", 2),  # 0 is no rating
        ("p0-1", 1.0, "ok", 1),
        ("p1-0", 2.0, "ok", 1),
        ("p1-1", None, "unreadable", 2),
        ("p2-0", 4.0, "ok", 1),
        ("p2-1", 5.0, "ok", 1),
    ]
    assert rows[3]["said"] == "Fine."
    assert (summary["points"], summary["unreadable"], summary["asked_again"]) == (6, 2, 2)
    for pair in PAIRS:  # the judge sees the task and the answer to it
        assert any(pair["instruction"] in text and pair["response"] in text for text in asked)


def test_shards_rate_every_point_once(store: Folder) -> None:
    with Endpoint(by_hue) as endpoint:
        whole, _ = rated(store, endpoint.url, tries=1)
        parts = [row for index in range(2) for row in rated(store, endpoint.url, (index, 2), tries=1)[0]]
    assert sorted(parts, key=lambda row: row["id"]) == whole


def test_a_judge_that_does_not_rate_ends_the_stage(store: Folder) -> None:
    with (
        Endpoint(lambda body, _: Reply(body=completion(body, text="Hm."))) as endpoint,
        pytest.raises(StageError, match="the judge does not judge: 6 of its first 6"),
    ):
        rated(store, endpoint.url, tries=1, max_unreadable=3)


def test_the_rule_checks_the_answer(store: Folder) -> None:
    rows = [
        {"id": "0", "instruction": "Write in reverse order: king lamp moon", "response": "moon lamp king"},
        {"id": "1", "instruction": "Write in reverse order: king lamp moon", "response": "king lamp moon"},
        {"id": "2", "instruction": "Find the lucky words of: king lamp moon", "response": "king"},  # none is right
        {"id": "3", "instruction": "Tell me a story", "response": "Once"},
    ]
    with store.staging() as folder:
        write_rows(folder / "probing.parquet", rows)
        store.commit("split/0", folder, {"summary": {}})
    version, settings = TASKS["rule"].version, {"file": "probing.parquet"}
    request = Request(stage="rule", version=version, settings=settings, inputs={"points": ["split/0"]}, seed=0)
    worker.run(request, store)
    ratings = [row["rating"] for row in read_rows(store.open(request.address) / "ratings.parquet")]
    assert ratings == [5.0, 1.0, 1.0, 1.0]
