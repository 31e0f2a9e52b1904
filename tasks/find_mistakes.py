"""Find the points of its training set that a student still gets wrong, as `rows.parquet`.

With accuracy by exact match, a point is wrong if the greedy answer differs. Otherwise it is wrong if its loss is above
the mean of the set. Wrong points come first, by loss. If fewer than `least` are wrong, the worst of the others follow.
"""

import statistics
from typing import Any

from montessori.data.rows import write_rows
from montessori.errors import StageError
from montessori.evaluation.metrics import exact_match
from montessori.influence import reference_loss
from montessori.models import loading
from montessori.settings.base import Frozen
from montessori.settings.models import Chat
from montessori.settings.run import Evaluation
from montessori.synthesis.engines.transformers import TransformersEngine
from tasks.runtime.inputs import encode
from tasks.runtime.job import Job


class Settings(Frozen):
    """How the student is loaded, and the measure of a wrong answer."""

    evaluation: Evaluation
    dtype: str
    max_length: int
    trust_remote_code: bool
    chat: Chat = Chat()
    least: int  # the number of few-shot examples in a prompt


def run(job: Job, settings: Settings) -> dict[str, Any]:
    """Measure the student on its training set, and keep the worst points."""
    source = job.model("student")
    tokenizer = loading.load_tokenizer(source, settings.trust_remote_code, settings.chat)
    model = loading.load_model(source, settings.dtype, settings.trust_remote_code)
    rows = sorted(job.rows("pairs", "pairs.parquet"), key=lambda row: row["id"])
    encoded = encode(model, tokenizer, rows, settings.max_length)
    losses = dict(zip((e.id for e in encoded.examples), reference_loss(model, encoded.examples)[1], strict=True))
    rows = [row for row in rows if row["id"] in losses]
    if len(rows) < settings.least:
        raise StageError(f"{len(rows)} points to learn from, but a prompt shows {settings.least}")
    if settings.evaluation.accuracy == "exact_match":
        engine = TransformersEngine(model, tokenizer, settings.evaluation.batch_size)
        right = exact_match(engine, rows, settings.evaluation.max_tokens)
        wrong = {row["id"] for row, hit in zip(rows, right, strict=True) if not hit}
    else:
        mean = statistics.fmean(losses.values())
        wrong = {id for id, loss in losses.items() if loss > mean}
    worst = sorted(rows, key=lambda row: (row["id"] not in wrong, -losses[row["id"]], row["id"]))
    kept = worst[: max(len(wrong), settings.least)]
    columns = ("id", "instruction", "response")
    table = [
        {**{name: row[name] for name in columns}, "loss": losses[row["id"]], "wrong": row["id"] in wrong}
        for row in kept
    ]
    write_rows(job.out / "rows.parquet", table)
    return {"points": len(rows), "wrong": len(wrong), "rows": len(kept)}
