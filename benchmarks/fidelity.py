"""Measure the agreement of each estimator with influence by definition, computed in float64.

    .venv/bin/python benchmarks/fidelity.py --student students/3m/warm --data students/points.jsonl \\
        --reference reference.jsonl --points 200 [--learning-rate 5e-6 5e-5 5e-4] [--max-length 256]
        [--reference-rows 256] [--dtypes float32 bfloat16] [--truth DIR]

A student is a folder with `model/` and an optimizer state (benchmarks/students.py trains some). The float64 influences
take hours for a large student. They are stored point by point in DIR, and a second start continues. Prints a table of
docs/results/influence.md.
"""

import argparse
import hashlib
import json
import math
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from montessori.data import chat
from montessori.data import rows as data
from montessori.influence import Directional, Exact, OptimizerState, Taylor, make_batches, reference_gradient
from montessori.influence.fidelity import agreement, in_float64
from montessori.models import loading
from montessori.settings.data import DataSource

Example = chat.Example
MOMENTUM = "the step without a gradient"


def main() -> None:
    """Print a table for each student and learning rate."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--student", type=Path, nargs="+", required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--reference", type=Path, required=True)
    parser.add_argument("--points", type=int, default=200)
    parser.add_argument("--reference-rows", type=int, default=256)
    parser.add_argument("--max-length", type=int, default=256)
    parser.add_argument("--learning-rate", type=float, nargs="+", help="default: that of the state")
    parser.add_argument("--dtypes", nargs="+", default=["float32"], choices=["float32", "bfloat16"])
    parser.add_argument("--exact", action="store_true", help="measure exact in float32 too, which takes as long")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--truth", type=Path, default=Path("truth"))
    parser.add_argument("--truth-only", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if not options.truth_only:
        print("| student | η | estimator | Spearman | Pearson | sign: zero | I(∅) | prompt mean | pairs |")
        print("| --- | ---: | --- | ---: | ---: | ---: | ---: | ---: | ---: |")
    for student in options.student:
        for learning_rate in options.learning_rate or [None]:
            compare(student, learning_rate, options)


def compare(student: Path, learning_rate: float | None, options: argparse.Namespace) -> None:
    """Print the rows of one student at one learning rate."""
    tokenizer = loading.load_tokenizer(student / "model")
    points = examples(tokenizer, options.data, options.points, options.max_length)
    reference = examples(tokenizer, options.reference, options.reference_rows, options.max_length)
    state = OptimizerState.load(student)
    state = replace(state, learning_rate=learning_rate or state.learning_rate)
    truth = dict(truths(student, state, points, reference, options))
    if options.truth_only:
        return
    momentum = truth.pop(MOMENTUM)
    values = list(truth.values())
    mean, spread = sum(values) / len(values), torch.tensor(values).std().item()
    about = f"{student.parent.name} {student.name}, t = {state.step}"
    print(f"| {about} | {state.learning_rate:.0e} | *mean {mean:.1e}, deviation {spread:.1e}, I(∅) {momentum:.1e}* |")
    for name, estimator in estimators(student, state, reference, options):
        scores = {s.id: s.influence for batch in make_batches(points) for s in estimator.score(batch)}
        estimates = [scores[id] for id in truth]
        found = agreement(estimates, values, momentum_estimate=estimator.momentum_influence, momentum_truth=momentum)
        print(
            f"| | | {name} | {found.spearman:.5f} | {found.pearson:.5f} | {found.sign_zero:.3f} "
            f"| {found.sign_momentum:.3f} | {found.sign_prompt_mean:.3f} | {found.pairs:.3f} |",
            flush=True,
        )


def estimators(
    student: Path, state: OptimizerState, reference: list[Example], options: argparse.Namespace
) -> Iterator[tuple[str, Any]]:
    """Yield each estimator with its name."""
    for dtype in options.dtypes:
        model = loading.load_model(student / "model", dtype)
        gradient, _ = reference_gradient(model, reference)
        yield f"taylor, {dtype}", Taylor(model, state, gradient)
        if dtype == "float32":
            narrow = {n: g.bfloat16() for n, g in gradient.items()}
            yield "taylor, float32, moments and ∇L in bfloat16", Taylor(model, state.to(torch.bfloat16), narrow)
        yield f"directional, {dtype}", Directional(model, state, gradient, reference)
        if options.exact:
            yield f"exact, {dtype}", Exact(model, state, reference, narrow_weights=True)


def truths(
    student: Path, state: OptimizerState, points: list[Example], reference: list[Example], options: argparse.Namespace
) -> Iterator[tuple[str, float]]:
    """Return the influence of each point, and of the step without a gradient, by `Exact` in float64.

    Each influence is stored as soon as it is computed.
    """
    what = [str(student), state.learning_rate, [e.input_ids for e in [*reference, *points]]]
    name = hashlib.sha256(json.dumps(what).encode()).hexdigest()[:16]
    file = options.truth / f"{student.parent.name}-{student.name}-{state.learning_rate:.0e}-{name}.jsonl"
    file.parent.mkdir(parents=True, exist_ok=True)
    kept = [json.loads(line) for line in file.read_text().splitlines()] if file.is_file() else []
    known = {row["id"]: row["influence"] for row in kept}
    missing = [e for e in points if e.id not in known]
    if missing or MOMENTUM not in known:
        with in_float64(loading.load_model(student / "model")) as wide, file.open("a") as out:
            exact = Exact(wide, state.to(torch.float64), reference)

            def keep(id: str, influence: float) -> None:
                known[id] = influence
                out.write(json.dumps({"id": id, "influence": influence}) + "\n")
                out.flush()

            if MOMENTUM not in known:
                keep(MOMENTUM, exact.momentum_influence)
            started = time.monotonic()
            for done, example in enumerate(missing, 1):
                (score,) = exact.score([example])
                keep(example.id, score.influence if score.status == "ok" else math.nan)
                left = (time.monotonic() - started) / done * (len(missing) - done)
                print(f"\r{file.stem}: {done}/{len(missing)}, {left:.0f} s left ", end="", file=sys.stderr)
    yield from ((id, known[id]) for id in [*(e.id for e in points), MOMENTUM])


def examples(tokenizer: Any, file: Path, limit: int, max_length: int) -> list[Example]:
    """Return the first `limit` rows of `file` as the student's tokens."""
    rows = data.read(DataSource(source=str(file), limit=limit), "data")
    return chat.encode_pairs(tokenizer, rows, max_length).examples


if __name__ == "__main__":
    main()
