"""Measure a student: its loss on the reference set and on held-out points, and its accuracy on held-out points.

A loss is in nats per token, for students of one tokenizer, and in bits per byte, for all students.
"""

import json
from typing import Any

from transformers import PreTrainedTokenizerBase

from montessori.data.chat import Example
from montessori.data.rows import Row, write_rows
from montessori.evaluation.metrics import bits_per_byte, exact_match, measure, next_token_accuracy
from montessori.influence import reference_loss
from montessori.influence.batches import answer_tokens, first_answer_token
from montessori.models import loading
from montessori.settings.base import Frozen
from montessori.settings.models import Chat
from montessori.settings.run import Evaluation
from montessori.synthesis.engines.transformers import TransformersEngine
from tasks.runtime.inputs import encode
from tasks.runtime.job import Job


class Settings(Frozen):
    """How the student is loaded and answers."""

    evaluation: Evaluation
    dtype: str
    max_length: int
    trust_remote_code: bool
    chat: Chat = Chat()


def run(job: Job, settings: Settings) -> dict[str, Any]:
    """Write `metrics.json` (mean, standard error and n of each number), `losses.parquet` and `accuracy.parquet`.

    The Parquet files have a row for each example: `set, id, loss, tokens, bytes`, and `id, accuracy`. A loss is the
    mean over the tokens of the answer and of the end of the turn. The bytes are of the answer's text alone.
    """
    source = job.model("student")
    tokenizer = loading.load_tokenizer(source, settings.trust_remote_code, settings.chat)
    model = loading.load_model(source, settings.dtype, settings.trust_remote_code)
    metrics: dict[str, Any] = {}
    counts: dict[str, Any] = {}
    each: list[Row] = []
    for name, role in (("reference", "reference"), ("held_out", "test")):
        if job.has(role):
            rows = job.rows(role, "rows.parquet")
            encoded = encode(model, tokenizer, rows, settings.max_length)
            losses = reference_loss(model, encoded.examples)[1]
            answers = {row["id"]: row["response"] for row in rows}
            tokens = [answer_tokens(example) for example in encoded.examples]
            sizes = [_bytes(tokenizer, example, answers[example.id]) for example in encoded.examples]
            each += [
                {"set": role, "id": example.id, "loss": loss, "tokens": count, "bytes": size}
                for example, loss, count, size in zip(encoded.examples, losses, tokens, sizes, strict=True)
            ]
            metrics[f"{name}_loss"] = measure(losses)
            if any(sizes):
                metrics[f"{name}_bits_per_byte"] = bits_per_byte(losses, tokens, sizes)
            counts[role] = encoded.counts
    held_out = "test" if job.has("test") else "reference"
    rows = job.rows(held_out, "rows.parquet")
    if settings.evaluation.accuracy == "exact_match":
        engine = TransformersEngine(model, tokenizer, settings.evaluation.batch_size)
        right, measured = exact_match(engine, rows, settings.evaluation.max_tokens), [row["id"] for row in rows]
    else:
        examples = encode(model, tokenizer, rows, settings.max_length).examples
        right, measured = next_token_accuracy(model, examples), [example.id for example in examples]
    metrics["accuracy"] = measure(right)
    table = [{"id": id, "accuracy": share} for id, share in zip(measured, right, strict=True)]
    write_rows(job.out / "accuracy.parquet", table)
    write_rows(job.out / "losses.parquet", each)
    (job.out / "metrics.json").write_text(json.dumps(metrics, indent=1) + "\n")
    return {**metrics, "encoded": counts}


def _bytes(tokenizer: PreTrainedTokenizerBase, example: Example, answer: str) -> int:
    """Return the UTF-8 bytes of the part of `answer` in the example, without a character that is cut in two."""
    if not example.truncated:
        return len(answer.encode())
    kept = example.input_ids[first_answer_token(example) :]
    text: str = tokenizer.decode(kept, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    return len(text.rstrip("\ufffd").encode())
