"""Measure the memory of the estimators, and compare it with the formula of montessori/influence/memory.py.

    .venv/bin/python benchmarks/memory.py --student students/3m/warm students/10m/warm --data students/points.jsonl \\
        --reference reference.jsonl [--points 256] [--reference-rows 32] [--max-length 256] [--token-budget 2048]
    .venv/bin/python benchmarks/memory.py --shape models/llama-8b   # the formula alone, from a model's config.json

A student is a folder with `model/` and an optimizer state (benchmarks/students.py trains some). The measure is the
largest sum of live tensors, on a GPU the allocator's peak. Prints tables of docs/results/influence-memory.md.
"""

import argparse
import gc
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from montessori.data import chat
from montessori.data import rows as data
from montessori.influence import Directional, Exact, OptimizerState, Taylor, make_batches, reference_gradient
from montessori.influence.memory import Memory, MemoryTracker, Work, estimate_memory
from montessori.models import loading
from montessori.settings.data import DataSource

Example = chat.Example
WORKS: tuple[Work, ...] = ("taylor", "directional", "exact", "gradient")
DTYPES = (("float32", "float32"), ("float32", "bfloat16"), ("bfloat16", "float32"), ("bfloat16", "bfloat16"))


def main() -> None:
    """Print a row for each student, estimator and pair of dtypes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--student", type=Path, nargs="*", default=[])
    parser.add_argument("--shape", type=Path, nargs="*", default=[])
    parser.add_argument("--data", type=Path)
    parser.add_argument("--reference", type=Path)
    parser.add_argument("--points", type=int, default=256)
    parser.add_argument("--reference-rows", type=int, default=32)
    parser.add_argument("--max-length", type=int, default=256)
    parser.add_argument("--token-budget", type=int, default=2048)
    options = parser.parse_args()
    if options.shape:
        print("| shape | estimator | weights | state | resident | temporary | a token | an answer token |")
        print("| --- | --- | --- | --- | ---: | ---: | ---: | ---: |")
    for shape in options.shape:
        print_shape(shape)
    if options.student:
        print("| student | estimator | weights | state | formula, MB | measured, MB | measured / formula |")
        print("| --- | --- | --- | --- | ---: | ---: | ---: |")
    for student in options.student:
        compare(student, options)


def print_shape(source: Path) -> None:
    """Print the formula for a model too large for this machine."""
    for work in WORKS:
        for dtype, state in (("bfloat16", "float32"), ("bfloat16", "bfloat16")):
            if work in ("exact", "gradient") and state == "bfloat16":
                continue
            with torch.device("meta"):
                config = AutoConfig.from_pretrained(source)
                model = AutoModelForCausalLM.from_config(config, dtype=getattr(torch, dtype)).eval()
            found = estimate_memory(loading.without_storage(model), work, getattr(torch, state))
            passes = found.points or found.reference
            assert passes is not None
            print(
                f"| {source.name} | {work} | {dtype} | {state} | {found.resident / 1e9:.1f} GB "
                f"| {found.temporary / 1e9:.1f} GB "
                f"| {passes.per_token / 1e6:.2f} MB | {passes.per_answer / 1e6:.2f} MB |"
            )


def compare(student: Path, options: argparse.Namespace) -> None:
    """Print the rows of one student."""
    tokenizer = loading.load_tokenizer(student / "model")
    points = examples(tokenizer, options.data, options.points, options.max_length)
    points = [e for batch in make_batches(points, options.token_budget)[-2:] for e in batch]  # the longest
    reference = examples(tokenizer, options.reference, options.reference_rows, options.max_length)
    for work in WORKS:
        for dtype, state in DTYPES:
            if work == "gradient" and state == "bfloat16":
                continue
            memory = estimate_memory(loading.skeleton(student / "model", dtype), work, getattr(torch, state))
            formula = memory.peak(points, reference, options.token_budget)
            found = measure(memory, student, dtype, getattr(torch, state), points, reference, options.token_budget)
            print(
                f"| {student.parent.name} | {work} | {dtype} | {state} | {formula / 1e6:.1f} | {found / 1e6:.1f} "
                f"| {found / formula:.2f} |",
                flush=True,
            )


def measure(
    memory: Memory,
    student: Path,
    dtype: str,
    state_dtype: torch.dtype,
    points: list[Example],
    reference: list[Example],
    token_budget: int,
) -> int:
    """Return the peak bytes of the real work, without loading the student and its state."""
    model = loading.load_model(student / "model", dtype)
    wide = OptimizerState.load(student, loading.device())
    step = wide if memory.work == "gradient" else wide.to(state_dtype)
    del wide
    gradient: dict[str, torch.Tensor] = {}
    if memory.work in ("taylor", "directional"):
        gradient = {n: g.to(state_dtype) for n, g in reference_gradient(model, reference[:1])[0].items()}
    gc.collect()
    on_gpu = loading.device().type == "cuda"
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
    with MemoryTracker() as tracker:
        tracker.watch([*model.parameters(), *model.buffers(), *gradient.values()])
        tracker.watch([*step.exp_avg.values(), *step.exp_avg_sq.values()])
        work(memory.work, model, step, gradient, points, reference, token_budget)
    return torch.cuda.max_memory_allocated() if on_gpu else tracker.peak


def work(
    kind: Work,
    model: Any,
    step: OptimizerState,
    gradient: dict[str, torch.Tensor],
    points: list[Example],
    reference: list[Example],
    token_budget: int,
) -> None:
    """Run the work of the stages on a loaded student."""
    if kind == "gradient":
        found, _ = reference_gradient(model, reference, token_budget)
        _ = Taylor(model, step, found).momentum_influence
        return
    estimator: Taylor | Directional | Exact
    if kind == "exact":
        estimator = Exact(model, step, reference, token_budget, narrow_weights=True)
        points = points[-1:]
    else:
        directional = kind == "directional"
        estimator = Directional(model, step, gradient, reference) if directional else Taylor(model, step, gradient)
        if directional:
            gradient.clear()  # as when the function that built the estimator returns
    for batch in make_batches(points, token_budget):
        estimator.score(batch)
    _ = estimator.momentum_influence


def examples(tokenizer: Any, file: Path, limit: int, max_length: int) -> list[Example]:
    """Return the first `limit` rows of `file` as the student's tokens."""
    rows = data.read(DataSource(source=str(file), limit=limit), "data")
    return chat.encode_pairs(tokenizer, rows, max_length).examples


if __name__ == "__main__":
    main()
