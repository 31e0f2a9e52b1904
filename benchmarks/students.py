"""Train students for the benchmarks: Llamas of 3 and 10 million parameters, on real rows with AdamW.

    .venv/bin/python benchmarks/students.py --data DATA --out students [--size 3m 10m] [--steps 800]

DATA is a folder with `gsm8k/train.jsonl.gz` and `seeds/alpaca_cleaned_full.jsonl.gz` (instruction, output). Writes
`<out>/<size>/{early,middle,late}/`, after 3%, 30% and all of the steps, each with `model/` and AdamW's state
(`optimizer.safetensors`, `optimizer.json`). `warm/` is the late one after the method's own warm-up, with a new state.
Existing students are not trained again. The tokenizer is trained on the same rows. `<out>/points.jsonl` has points to
score.
"""

import argparse
import gzip
import json
import math
import random
import time
from dataclasses import replace
from pathlib import Path

import torch

from montessori.data import chat
from montessori.data import rows as data
from montessori.influence import OptimizerState
from montessori.influence.reference import example_losses
from montessori.models import loading
from montessori.pocket.scratch import alpaca_student_conversations, build
from montessori.settings.data import DataSource
from montessori.settings.models import Scratch
from montessori.settings.training import WarmUp
from montessori.training.sft import fine_tune

SIZES = {
    "3m": Scratch(vocabulary=4096, hidden=192, layers=5, heads=6, context=1024),
    "10m": Scratch(vocabulary=4096, hidden=320, layers=7, heads=8, context=1024),
}
STAGES = {"early": 0.03, "middle": 0.3, "late": 1.0}
TRAIN_TOKENS = 256  # longer rows are cut
ROWS_A_STEP = 16
PEAK_LEARNING_RATE = 1e-3
WARM_UP_ROWS = 1024
MICRO_BATCH_TOKENS = 1536


def main() -> None:
    """Train the missing students."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("students"))
    parser.add_argument("--size", nargs="+", choices=sorted(SIZES), default=sorted(SIZES))
    parser.add_argument("--steps", type=int, default=800)
    options = parser.parse_args()
    rows = training_rows(options.data)
    options.out.mkdir(parents=True, exist_ok=True)
    lines = (json.dumps(row) + "\n" for row in points(options.data))
    (options.out / "points.jsonl").write_text("".join(lines), encoding="utf-8")
    for size in options.size:
        if not (options.out / size / "late" / "optimizer.json").is_file():
            train(rows, SIZES[size], options.out / size, options.steps)
        if not (options.out / size / "warm" / "optimizer.json").is_file():
            warm_up(rows[-WARM_UP_ROWS:], options.out / size)


def training_rows(folder: Path) -> list[data.Row]:
    """Return 7,000 rows of GSM8K and 12,000 of Alpaca, in a seeded order. The rest is left for points to score."""
    gsm8k = gsm8k_rows(folder)[:7000]
    alpaca = data.read(
        DataSource(source=str(folder / "seeds/alpaca_cleaned_full.jsonl.gz"), limit=12000), "seeds", "optional"
    )
    rows = gsm8k + [row for row in alpaca if row["response"]]
    random.Random(0).shuffle(rows)
    return rows


def points(folder: Path) -> list[data.Row]:
    """Return 1,200 unseen rows to score, in a seeded order: three of Alpaca-GPT4 to one of GSM8K."""
    alpaca = data.read(DataSource(source=str(folder / "seeds/alpaca_gpt4_sample_999.jsonl")), "data")
    rows = random.Random(5).sample(alpaca, 900) + random.Random(5).sample(gsm8k_rows(folder)[7000:], 300)
    random.Random(5).shuffle(rows)
    return rows


def gsm8k_rows(folder: Path) -> list[data.Row]:
    """Return the problems of GSM8K's training part, in order."""
    with gzip.open(folder / "gsm8k/train.jsonl.gz", "rt", encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    return [{"id": f"gsm8k-{i}", "instruction": r["question"], "response": r["answer"]} for i, r in enumerate(rows)]


def train(rows: list[data.Row], shape: Scratch, out: Path, steps: int) -> None:
    """Train a new student, and write its checkpoints under `out`."""
    model, tokenizer = build(alpaca_student_conversations(rows), shape, seed=0)
    print(f"{out}: {sum(p.numel() for p in model.parameters()):,} parameters", flush=True)
    # All tokens count: a language model first. Only influence looks at answers alone.
    examples = [replace(e, prompt_length=0) for e in chat.encode_pairs(tokenizer, rows, TRAIN_TOKENS).examples]
    optimizer = torch.optim.AdamW(model.parameters(), betas=(0.9, 0.999), weight_decay=0.0, fused=True)
    checkpoints = {max(1, round(share * steps)): name for name, share in STAGES.items()}
    rng, queue, started = random.Random(1), list[chat.Example](), time.monotonic()
    model.train()
    for step in range(1, steps + 1):
        optimizer.param_groups[0]["lr"] = PEAK_LEARNING_RATE * schedule(step / steps)
        if len(queue) < ROWS_A_STEP:
            queue = rng.sample(examples, len(examples))
        batch, queue = sorted(queue[:ROWS_A_STEP], key=lambda e: len(e.input_ids)), queue[ROWS_A_STEP:]
        loss = 0.0
        while batch:
            size = max(1, MICRO_BATCH_TOKENS // len(batch[-1].input_ids))
            losses = example_losses(model, batch[-size:])
            (losses.sum() / ROWS_A_STEP).backward()
            loss += losses.sum().item() / ROWS_A_STEP
            batch = batch[:-size]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if step % 20 == 0 or step in checkpoints:
            print(f"step {step}/{steps} loss {loss:.3f} {time.monotonic() - started:.0f} s", flush=True)
        if step in checkpoints:
            folder = out / checkpoints[step]
            loading.save(model, tokenizer, folder / "model")
            OptimizerState.of(optimizer, model).save(folder)


def warm_up(rows: list[data.Row], out: Path) -> None:
    """Run the method's warm-up of the late student: one epoch, with the rate rising to the paper's 5e-6."""
    source = out / "late" / "model"
    model, tokenizer = loading.load_model(source), loading.load_tokenizer(source)
    examples = chat.encode_pairs(tokenizer, rows, TRAIN_TOKENS).examples
    result = fine_tune(model, tokenizer, examples, WarmUp(per_device_batch_size=8), seed=0)
    loading.save(model, tokenizer, out / "warm" / "model")
    result.optimizer.save(out / "warm")


def schedule(progress: float) -> float:
    """Return the share of the peak learning rate: 3% linear warm-up, then a cosine to a tenth."""
    return min(progress / 0.03, 0.1 + 0.45 * (1 + math.cos(math.pi * progress)))


if __name__ == "__main__":
    main()
