"""Measure the error of `directional`'s central difference by δ, for each dtype.

    .venv/bin/python benchmarks/directional.py --student students/3m/late --data students/points.jsonl \\
        --reference reference.jsonl [--points 24] [--dtypes float32 bfloat16]

δ is the change of the reference loss by the move of the weights, in nats and to first order. The error is the deviation
from the same product ⟨u, g⟩ with g from a float64 backward pass, over the spread of that product between points. Prints
a table of docs/results/influence.md.
"""

import argparse
import statistics
from pathlib import Path

import torch

from montessori.data import chat
from montessori.data import rows as data
from montessori.influence import Directional, OptimizerState, make_batches, reference_gradient
from montessori.influence.fidelity import in_float64
from montessori.influence.reference import example_loss
from montessori.models import loading
from montessori.settings.data import DataSource

CHANGES = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1, 1.0)


def main() -> None:
    """Print a row for each δ."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--student", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--reference", type=Path, required=True)
    parser.add_argument("--points", type=int, default=24)
    parser.add_argument("--reference-rows", type=int, default=256)
    parser.add_argument("--max-length", type=int, default=256)
    parser.add_argument("--dtypes", nargs="+", default=["float32"], choices=["float32", "bfloat16"])
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    folder, state = options.student / "model", OptimizerState.load(options.student)
    tokenizer = loading.load_tokenizer(folder)

    def examples(file: Path, limit: int) -> list[chat.Example]:
        rows = data.read(DataSource(source=str(file), limit=limit), "data")
        return chat.encode_pairs(tokenizer, rows, options.max_length).examples

    points, reference = examples(options.data, options.points), examples(options.reference, options.reference_rows)
    gradient, _ = reference_gradient(loading.load_model(folder, "float32"), reference)
    slopes = dict(true_slopes(folder, state, gradient, points))
    spread = statistics.stdev(slopes.values())
    columns: dict[str, list[float]] = {}
    for dtype in options.dtypes:
        columns[dtype] = []
        for change in CHANGES:
            directional = Directional(loading.load_model(folder, dtype), state, gradient, change=change)
            scores = [score for batch in make_batches(points) for score in directional.score(batch)]
            rate = state.learning_rate * (1 - state.beta1)
            errors = [(s.influence - directional.momentum_influence) / rate - slopes[s.id] for s in scores]
            columns[dtype].append(statistics.pstdev(errors) / spread)
    print("| δ, nats | " + " | ".join(f"error, {dtype}" for dtype in columns) + " |")
    print("| ---: |" + " ---: |" * len(columns))
    for i, change in enumerate(CHANGES):
        print(f"| {change:g} | " + " | ".join(f"{100 * errors[i]:.2g}%" for errors in columns.values()) + " |")


def true_slopes(
    folder: Path, state: OptimizerState, gradient: dict[str, torch.Tensor], points: list[chat.Example]
) -> list[tuple[str, float]]:
    """Return ⟨u, g⟩ of each point by id, with g in float64."""
    with in_float64(loading.load_model(folder, "float32")) as wide:
        names, parameters = zip(*wide.named_parameters(), strict=True)
        direction = [state.direction(name, gradient[name], None).double() for name in names]
        found = []
        for point in points:
            gradients = torch.autograd.grad(example_loss(wide, point), parameters)
            found.append((point.id, sum(float((u * g).sum()) for u, g in zip(direction, gradients, strict=True))))
        return found


if __name__ == "__main__":
    main()
