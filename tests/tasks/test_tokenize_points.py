"""Points as tokens in batches, and the part of them that each shard scores."""

from pathlib import Path

import pytest
from making import Making

from montessori.models import loading
from tasks import tokenize_points


@pytest.mark.parametrize("shards", [1, 2, 3, 7])
def test_shards_share_out_every_point_exactly_once(tmp_path: Path, tiny_llama, tiny_tokenizer, shards: int) -> None:
    making = Making(tmp_path / "store")
    loading.save(tiny_llama(), tiny_tokenizer, tmp_path / "student")
    rows = [
        {"id": f"{n:02}", "instruction": "Count " * (1 + n % 5), "response": "one two " * (n % 4)} for n in range(30)
    ]
    making.put("split/x", probing=rows)
    settings = {
        "file": "probing.parquet", "limit": None, "max_length": 64, "token_budget": 64, "trust_remote_code": False
    }  # fmt: skip
    folder = making.make("tokens", settings, points="split/x", student=f"file:{tmp_path / 'student'}#0")
    parts = [tokenize_points.read(folder, (index, shards)) for index in range(shards)]
    scored = [example.id for batches, _ in parts for batch in batches for example in batch]
    dropped = [id for _, ids in parts for id in ids]
    empty = {row["id"] for row in rows if not row["response"]}
    assert empty and sorted(dropped) == sorted(empty)
    assert sorted(scored) == sorted({row["id"] for row in rows} - empty)
