"""Measure how scores depend on an answer's length, with plain gradient descent and with AdamW.

    .venv/bin/python benchmarks/short_answers.py /tmp/short

A student of the pocket world learns in a minute to answer, and to say "I don't know." to one question in ten. Then
`montessori score` scores 21 points with short and long answers and one "I don't know.".
"""

import argparse
import json
import random
import statistics
from pathlib import Path

from flows.commands import cli
from montessori.correlation import spearman
from montessori.models import loading
from montessori.pocket import scratch, world
from montessori.settings.models import Scratch

UNKNOWN = "I don't know."
STEPS = {"sgd": ["--optimizer", "sgd"], "adamw": ["--optimizer", "adamw"]}


def main() -> None:
    """Make the student and the files, score, and print a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("out", type=Path, help="folder to write")
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    if not (out / "student").is_dir():
        student(out / "student")
    rows = world.seeds(21, seed=1)
    for n, row in enumerate(rows):  # a third of the answers is three times as long
        if n % 3 == 0:
            row["response"] = " ".join([row["response"]] * 3)
    rows.append({"instruction": world.seeds(22, seed=2)[-1]["instruction"], "response": UNKNOWN})
    write(out / "points.jsonl", [{"id": f"p{n}", **row} for n, row in enumerate(rows)])
    write(out / "reference.jsonl", world.reference(32, seed=3))
    print("| step | place of the short answer | rank correlation with tokens | of the size with tokens |")
    for name, options in STEPS.items():
        files = {option: out / file for option, file in FILES.items()} | {"--out": out / f"{name}.jsonl"}
        words = [str(word) for pair in files.items() for word in pair]
        if code := cli.main(["score", *words, *options]):
            raise SystemExit(code)
        scores = [json.loads(line) for line in (out / f"{name}.jsonl").read_text().splitlines()]
        tokens, influences = [row["tokens"] for row in scores], [row["influence"] for row in scores]
        centre = statistics.median(influences)
        place = 1 + sum(value > influences[-1] for value in influences)
        sizes = [abs(value - centre) for value in influences]
        ranks = [f"{spearman(values, tokens):+.2f}" for values in (influences, sizes)]
        print(f"| {name} | {place} of {len(scores)} | {' | '.join(ranks)} |")


FILES = {
    "--student": "student", "--data": "points.jsonl", "--reference": "reference.jsonl", "--store": "store",
}  # fmt: skip


def student(folder: Path) -> None:
    """Train a student, which meets the short answer often, and save it."""
    settings = Scratch(vocabulary=640, hidden=64, layers=3, heads=4, context=128, steps=300, batch_size=6)
    rng = random.Random(0)
    conversations = [
        [turns[0], {"role": "assistant", "content": UNKNOWN}] if rng.random() < 0.1 else turns
        for turns in world.student_conversations(scratch.conversation_count(settings), seed=0)
    ]
    model, tokenizer = scratch.build(conversations, settings, seed=0)
    scratch.train(model, tokenizer, conversations, settings, seed=0)
    loading.save(model, tokenizer, folder)


def write(path: Path, rows: list[dict[str, str]]) -> None:
    """Write JSON lines."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


if __name__ == "__main__":
    main()
