"""Bits per byte: what the stage writes, against float64 by hand, and that tokenizers do not change it."""

import json
import math

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from montessori.artifacts import Folder, Request
from montessori.data.chat import encode_pairs
from montessori.data.rows import read_rows
from montessori.evaluation.metrics import bits_per_byte, linearise, ratio
from tasks.registry import TASKS
from tasks.runtime import worker

ROWS = [
    {"id": "short", "instruction": "Name a colour.", "output": "Red."},
    {"id": "accents", "instruction": "Say it in French.", "output": "Le café était fermé à Noël."},
    {"id": "cut", "instruction": "Repeat.", "output": "één ☃ twee ☃ drie ☃ " * 12},
    {"id": "capital", "instruction": "What is the capital of France?", "output": "The capital of France is Paris."},
]


def test_a_ratio_and_its_error_are_those_of_the_delete_one_jackknife():
    draw = np.random.default_rng(0)
    b = draw.integers(20, 200, 400).astype(float)
    a = 0.9 * b + draw.normal(0, 9, 400)
    measured = ratio(a.tolist(), b.tolist())
    without = (a.sum() - a) / (b.sum() - b)
    assert measured["mean"] == pytest.approx(a.sum() / b.sum(), rel=1e-12)
    assert measured["standard_error"] == pytest.approx(math.sqrt(399 * without.var()), rel=0.01)
    assert measured["n"] == 400


def test_a_ratio_by_hand():
    assert linearise([1, 5], [2, 4]) == [pytest.approx(2 / 3), pytest.approx(4 / 3)]  # 1 ± (1 - 2) / 3, (5 - 4) / 3
    assert ratio([1, 5], [2, 4]) == {"mean": pytest.approx(1), "standard_error": pytest.approx(1 / 3), "n": 2}
    assert ratio([3], [2]) == {"mean": 1.5, "standard_error": 0, "n": 1}


@pytest.fixture
def evaluated(tmp_path, tiny_llama, tiny_tokenizer):
    """The rows of losses.parquet and the numbers of metrics.json of a tiny model; the third row is cut."""
    tiny_llama().save_pretrained(tmp_path / "model")
    tiny_tokenizer.save_pretrained(tmp_path / "model")
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    store = Folder(tmp_path / "store")

    def make(name, settings, **inputs):
        request = Request(
            stage=name,
            version=TASKS[name].version,
            settings=settings,
            inputs={role: [address] for role, address in inputs.items()},
            seed=0,
        )
        worker.run(request, store)
        return request.address

    def of(max_length):
        rows = make("reference", {}, source=f"file:{tmp_path}/rows.jsonl#1")
        asked = {"evaluation": {}, "dtype": "float32", "max_length": max_length, "trust_remote_code": False}
        folder = store.open(make("evaluation", asked, student=f"file:{tmp_path}/model#1", reference=rows))
        return read_rows(folder / "losses.parquet"), json.loads((folder / "metrics.json").read_text())

    return of


def pieces(tokenizer, ids):
    """The bytes of each token's text: a byte-level piece has a character for each; special tokens have none."""
    special = set(tokenizer.all_special_ids)
    return [0 if i in special else len(tokenizer.convert_ids_to_tokens(i)) for i in ids]


@pytest.mark.parametrize("max_length", [150, 151, 152, 153, 154, 155, 156])  # some of them inside a character
def test_the_stage_counts_the_bits_and_bytes_that_a_float64_pass_does(
    evaluated, tiny_llama, tiny_tokenizer, max_length
):
    rows, metrics = evaluated(max_length)
    model = tiny_llama().double()
    pairs = [{**row, "response": row["output"]} for row in ROWS]
    examples = encode_pairs(tiny_tokenizer, pairs, max_length).examples
    assert [example.truncated for example in examples] == [False, False, True, False]
    bits, sizes = [], []
    for row, example, pair in zip(rows, examples, pairs, strict=True):
        ids = torch.tensor([example.input_ids])
        with torch.no_grad():
            logs = model(ids).logits[0, :-1].log_softmax(-1).gather(1, ids[0, 1:, None])[:, 0]
        nats = -logs[example.prompt_length - 1 :].sum().item()
        answer = example.input_ids[example.prompt_length :]
        whole = pair["response"].encode()
        kept = whole[: sum(pieces(tiny_tokenizer, answer))].decode(errors="ignore").encode()
        assert (row["set"], row["id"], row["tokens"], row["bytes"]) == (
            "reference", pair["id"], len(answer), len(kept),
        )  # fmt: skip
        assert row["loss"] * row["tokens"] == pytest.approx(nats, rel=1e-5)
        bits.append(nats / math.log(2))
        sizes.append(len(kept))
    measured = metrics["reference_bits_per_byte"]
    assert measured["mean"] == pytest.approx(sum(bits) / sum(sizes), rel=1e-5)
    off = np.array(bits) - measured["mean"] * np.array(sizes)
    assert measured["standard_error"] == pytest.approx(math.sqrt((off**2).sum() * 4 / 3) / sum(sizes), rel=1e-4)
    assert measured["n"] == 4
    assert "held_out_bits_per_byte" not in metrics


def test_a_text_costs_the_same_bits_a_byte_in_large_and_small_tokens(tiny_tokenizer):
    """A model that gives every byte 1 in 256, and so a token of k bytes 1 in 256^k."""
    alphabet = {piece: i for i, piece in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    small = Tokenizer(models.BPE(vocab=alphabet | {"</s>": 256}, merges=[]))
    small.pre_tokenizer, small.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    one_byte = PreTrainedTokenizerFast(tokenizer_object=small, eos_token="</s>")
    rates, losses = [], []
    for tokenizer in (tiny_tokenizer, one_byte):
        ids = [tokenizer(row["output"], add_special_tokens=False)["input_ids"] for row in ROWS]
        nats = [[size * math.log(256) for size in pieces(tokenizer, one)] for one in ids]
        losses.append([sum(one) / len(one) for one in nats])
        sizes = [len(row["output"].encode()) for row in ROWS]
        rates.append(bits_per_byte(losses[-1], [len(one) for one in ids], sizes)["mean"])
    assert rates == [pytest.approx(8), pytest.approx(8)]
    assert losses[0][3] > 1.5 * losses[1][3]  # which nats a token are not
