"""What a student can do: its loss on the reference set and on held-out points, and its accuracy on the latter."""

import json
from typing import Any

from montessori import config, models
from montessori.chat import encode_pairs
from montessori.config import Frozen
from montessori.data import Row, write_rows
from montessori.evaluation.metrics import exact_match, measure, next_token_accuracy
from montessori.influence import reference_loss
from montessori.stages import Job
from montessori.synthesis.engines.transformers import TransformersEngine


class Settings(Frozen):
    """How the student is loaded and answers."""

    evaluation: config.Evaluation
    dtype: str
    max_length: int
    trust_remote_code: bool


def run(job: Job, settings: Settings) -> dict[str, Any]:
    """`metrics.json`: a mean, its standard error and n for each number. `losses.parquet`: the loss on each example."""
    source = job.model("student")
    tokenizer = models.load_tokenizer(source, settings.trust_remote_code)
    model = models.load_model(source, settings.dtype, settings.trust_remote_code)
    metrics: dict[str, Any] = {}
    counts: dict[str, Any] = {}
    each: list[Row] = []
    for name, role in (("reference_loss", "reference"), ("held_out_loss", "test")):
        if job.has(role):
            encoded = encode_pairs(tokenizer, job.rows(role, "rows.parquet"), settings.max_length)
            losses = reference_loss(model, encoded.examples)[1]
            pairs = zip(encoded.examples, losses, strict=True)
            each += [{"set": role, "id": example.id, "loss": loss} for example, loss in pairs]
            metrics[name] = measure(losses)
            counts[role] = encoded.counts
    held_out = "test" if job.has("test") else "reference"
    rows = job.rows(held_out, "rows.parquet")
    if settings.evaluation.accuracy == "exact_match":
        engine = TransformersEngine(model, tokenizer, settings.evaluation.batch_size)
        right = exact_match(engine, rows, settings.evaluation.max_tokens)
    else:
        right = next_token_accuracy(model, encode_pairs(tokenizer, rows, settings.max_length).examples)
    metrics["accuracy"] = measure(right)
    write_rows(job.out / "losses.parquet", each)
    (job.out / "metrics.json").write_text(json.dumps(metrics, indent=1) + "\n")
    return {**metrics, "encoded": counts}
