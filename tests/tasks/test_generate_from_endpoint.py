"""Responses from an endpoint with reasoning, empty replies and prompts that it never answers: all are counted."""

from pathlib import Path

import pytest
from endpoint import MODEL, Endpoint, Reply, completion, error

from montessori.artifacts import Folder, Request
from montessori.data.rows import read_rows, write_rows
from montessori.settings.engines import OpenAI
from tasks.registry import TASKS
from tasks.runtime import worker

SAMPLING = {"temperature": 0.6, "presence_penalty": 0, "max_tokens": 20}


def number(body):
    return int(body["messages"][-1]["content"].split()[1])


def rule(body, endpoint):
    """Say the number after a thought; fail for 1, think without end for 2, be cut without a message for 3."""
    if number(body) == 1:
        return error(400, "this prompt is not allowed here")
    thought = "<think>Red, or" if number(body) == 2 else f"<think>\nHm.\n</think>\n\nNumber {number(body)}."
    tree = completion(body, text=thought)
    if number(body) == 3:
        tree["choices"] = [{"index": 0, "finish_reason": "length"}]
        del tree["usage"]["completion_tokens"]
    return Reply(body=tree)


@pytest.mark.parametrize("samples", [1, 2])
@pytest.mark.parametrize("removed", [True, False])
def test_what_an_endpoint_does_not_answer_is_left_out_and_counted(tmp_path: Path, monkeypatch, samples, removed):
    monkeypatch.setenv("NO_PROXY", "*")
    store = Folder(tmp_path)
    with store.staging() as out:
        rows = [{"id": f"i{i}", "prompt_id": f"p{i}", "instruction": f"Task {i} of ten"} for i in range(10)]
        write_rows(out / "instructions.parquet", rows)
        store.commit("instructions/0123", out, {})
    with Endpoint(rule) as endpoint:
        request = Request(
            stage="responses",
            version=TASKS["responses"].version,
            settings={"engine": "openai", "sampling": SAMPLING, "samples": samples, "remove_thinking": removed},
            inputs={"teacher": [f"api:{MODEL}@x"], "instructions": ["instructions/0123"]},
            seed=0,
            means={"openai": OpenAI(model=MODEL, base_url=endpoint.url).model_dump(mode="json")},
        )
        worker.run(request, store)
    pairs = read_rows(store.open(request.address) / "pairs.parquet")
    answers = [
        (row["id"], row["response"], row["finish_reason"]) for row in pairs if row["id"].endswith(("0", "2", "3"))
    ]
    shown = {
        number: f"Number {number}." if removed else f"<think>\nHm.\n</think>\n\nNumber {number}."
        for number in range(10)
    }
    cut = ("", "length") if removed else ("<think>Red, or", "stop")
    if samples == 1:
        assert answers == [("i0", shown[0], "stop"), ("i2", *cut), ("i3", "", "length")]
    assert len(pairs) == 9 * samples
    assert not [row for row in pairs if row["instruction"] == "Task 1 of ten"]
    found = store.manifest(request.address)["summary"]
    assert found["pairs"] == len(pairs)
    assert (found["failed"], [one["prompt"] for one in found["failed_prompts"]]) == (1, ["Task 1 of ten"])
    assert "this prompt is not allowed here" in found["failed_prompts"][0]["error"]
    assert found["thinking_removed"] == 8 * samples * removed
    assert found["usage"]["prompts"] == 10
