"""Tokenize points for a student and batch them, once for all shards that score them.

`tokens.parquet` has `batch, id, input_ids, prompt_length, truncated`. `dropped.json` has the reason for each point
without a batch.
"""

import json
from pathlib import Path
from typing import Any, Literal

import pyarrow.parquet as pq

from montessori.data.chat import Example
from montessori.data.rows import write_rows
from montessori.influence import make_batches
from montessori.influence.batches import Batch
from montessori.models import loading
from montessori.settings.base import Frozen
from montessori.settings.models import Chat
from montessori.synthesis.instructions import stable_seed
from tasks.runtime.inputs import encode
from tasks.runtime.job import Job


class Settings(Frozen):
    """The points, and how they are cut and batched."""

    file: Literal["probing.parquet", "pairs.parquet", "rows.parquet"]  # of the input `points`
    limit: int | None
    max_length: int
    token_budget: int
    trust_remote_code: bool
    chat: Chat = Chat()


def run(job: Job, settings: Settings) -> dict[str, Any]:
    """Tokenize the rows with the student's tokenizer and put them into batches."""
    source = job.model("student")
    tokenizer = loading.load_tokenizer(source, settings.trust_remote_code, settings.chat)
    student = loading.skeleton(source, trust_remote_code=settings.trust_remote_code)
    # In the order of a hash, so that a limit takes a sample and not the first rounds.
    rows = sorted(job.rows("points", settings.file), key=lambda row: stable_seed(row["id"]))[: settings.limit]
    encoded = encode(student, tokenizer, rows, settings.max_length)
    batches = make_batches(encoded.examples, settings.token_budget)
    planned = [{"batch": number, **vars(example)} for number, batch in enumerate(batches) for example in batch]
    write_rows(job.out / "tokens.parquet", planned)
    (job.out / "dropped.json").write_text(json.dumps(encoded.dropped) + "\n")
    return {**encoded.counts, "batches": len(batches)}


def read(folder: Path, shard: tuple[int, int]) -> tuple[list[Batch], dict[str, str]]:
    """Return the batches and the dropped points of a `shard` (index, count): every n-th of each."""
    index, count = shard
    batches: dict[int, Batch] = {}
    if (table := pq.read_table(folder / "tokens.parquet")).num_rows:
        mine = table.filter(table["batch"].to_numpy() % count == index)
        for row in mine.to_pylist():
            batches.setdefault(row.pop("batch"), []).append(Example(**row))
    dropped: dict[str, str] = json.loads((folder / "dropped.json").read_text())
    return list(batches.values()), dict(list(dropped.items())[index::count])
