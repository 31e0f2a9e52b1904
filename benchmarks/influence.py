"""Measure the speed of each estimator: against a literal loop, against plain training and inference, and by size.

    .venv/bin/python benchmarks/influence.py --student students/3m/warm --data students/points.jsonl \\
        --reference reference.jsonl [--points 128] [--rounds 3] [--threads 2] [--literal 2] [--growth]
    .venv/bin/python benchmarks/influence.py --preset tinyllama --device cuda        # a GPU, no files needed

The literal loop is the method as first published. For every point it reads the weights and AdamW's state from disk,
pads all sequences to 1024 tokens, runs the reference set in batches of 8, and takes AdamW's own step. One process
measures everything in turns, and a figure is the median over the rounds. A preset is a student of that shape with
random weights, points of 300 tokens and 256 reference rows. It is as fast as a trained student.
"""

import argparse
import copy
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from montessori.data import chat
from montessori.data import rows as data
from montessori.influence import (
    Directional,
    Exact,
    OptimizerState,
    Taylor,
    make_batches,
    reference_gradient,
)
from montessori.influence.reference import example_losses
from montessori.models import loading
from montessori.settings.data import DataSource

Example = chat.Example
PADDED = 1024
REFERENCE_BATCH = 8
PRESETS = {
    "tinyllama": {"hidden_size": 2048, "intermediate_size": 5632, "num_hidden_layers": 22, "num_attention_heads": 32,
                  "num_key_value_heads": 4, "vocab_size": 32000},
    "tiny": {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4,
             "num_key_value_heads": 2, "vocab_size": 512},
}  # fmt: skip
PRESET_TOKENS, PRESET_PROMPT, PRESET_REFERENCE = 300, 60, 256
GROWN = {"hidden_size": 2, "intermediate_size": 2}  # four times the parameters of the layers


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--student", type=Path)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--reference", type=Path)
    parser.add_argument("--preset", choices=sorted(PRESETS))
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--points", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--token-budget", type=int, default=2048)
    parser.add_argument("--exact", type=int, default=2, help="points that exact scores in a round")
    parser.add_argument(
        "--literal", type=int, default=1, help="points of the literal loop, each dtype; 0 leaves it out"
    )
    parser.add_argument("--literal-dtypes", nargs="+", default=["float32", "bfloat16"])
    parser.add_argument(
        "--literal-rows", type=int, nargs="+", default=[256, 8], help="reference rows timed for each, scaled to all"
    )
    parser.add_argument("--growth", action="store_true", help="ten times the points, the reference set, 4 the weights")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.preset:
        model, state, points, reference = preset(options)
    else:
        model, state, points, reference = files(options)
    print(about(model, points, reference, options), flush=True)
    speeds = estimators(model, state, points, reference, options)
    if options.literal:
        speeds |= literal(model, state, points, reference, options)
    print(table(speeds, model, points, options), flush=True)
    if options.growth:
        print(growth(model, state, points, reference, options))


def files(options: argparse.Namespace) -> tuple[Any, OptimizerState, list[Example], list[Example]]:
    """Load a trained student and real rows."""
    model = loading.load_model(options.student / "model").to(options.device)
    tokenizer = loading.load_tokenizer(options.student / "model")

    def examples(file: Path, limit: int) -> list[Example]:
        rows = data.read(DataSource(source=str(file), limit=limit), "data")
        return chat.encode_pairs(tokenizer, rows, PADDED).examples

    state = OptimizerState.load(options.student, options.device)
    return model, state, examples(options.data, options.points), examples(options.reference, 256)


def preset(options: argparse.Namespace) -> tuple[Any, OptimizerState, list[Example], list[Example]]:
    """Build a student of a known shape, and random tokens."""
    dtype = torch.bfloat16 if options.device == "cuda" else torch.float32
    model = random_llama(PRESETS[options.preset], dtype, options.device)
    rng = random.Random(0)
    vocabulary = model.config.vocab_size

    def examples(n: int, name: str) -> list[Example]:
        return [
            Example(f"{name}{i}", [rng.randrange(vocabulary) for _ in range(PRESET_TOKENS)], PRESET_PROMPT)
            for i in range(n)
        ]

    reference = examples(PRESET_REFERENCE if options.preset != "tiny" else 8, "r")
    return model, random_state(model), examples(options.points, "p"), reference


def random_llama(shape: dict[str, Any], dtype: torch.dtype, device: str) -> Any:
    """Build a Llama with random weights, in evaluation mode."""
    torch.manual_seed(0)
    with torch.device(device):
        return LlamaForCausalLM(LlamaConfig(**shape, max_position_embeddings=2048)).to(dtype).eval()


def random_state(model: nn.Module) -> OptimizerState:
    """Build moments of a likely size."""
    m = {n: 1e-4 * torch.randn_like(p, dtype=torch.float32) for n, p in model.named_parameters()}
    v = {n: 1e-8 + 1e-7 * torch.rand_like(p, dtype=torch.float32) for n, p in model.named_parameters()}
    return OptimizerState(m, v, step=100, learning_rate=5e-6)


def estimators(
    model: Any, state: OptimizerState, points: list[Example], reference: list[Example], options: argparse.Namespace
) -> dict[str, float]:
    """Return the seconds per point of the estimators, and of plain training and inference over the same batches."""
    started = time.perf_counter()
    gradient, _ = reference_gradient(model, reference, options.token_budget)
    print(f"∇L, once a student: {time.perf_counter() - started:.1f} s")
    batches = make_batches(points, options.token_budget)
    parameters = list(model.parameters())
    taylor, directional = Taylor(model, state, gradient), Directional(model, state, gradient, reference)
    exact = Exact(model, state, reference, options.token_budget, narrow_weights=True)

    def train() -> None:
        for batch in batches:
            torch.autograd.grad(example_losses(model, batch).sum(), parameters)

    @torch.inference_mode()
    def infer() -> None:
        for batch in batches:
            example_losses(model, batch)

    work: dict[str, tuple[Callable[[], Any], int]] = {
        "forward + backward": (train, len(points)),
        "taylor": (lambda: [taylor.score(batch) for batch in batches], len(points)),
        "forward": (infer, len(points)),
        "directional": (lambda: [directional.score(batch) for batch in batches], len(points)),
        "exact": (lambda: exact.score(points[: options.exact]), options.exact),
    }
    return rounds(work, options)


def rounds(work: dict[str, tuple[Callable[[], Any], int]], options: argparse.Namespace) -> dict[str, float]:
    """Return the median seconds per point of each, measured in turns after one warm-up round."""
    found: dict[str, list[float]] = {name: [] for name in work}
    for number in range(options.rounds + 1):
        for name, (run, points) in work.items():
            if not points:
                continue
            started = time.perf_counter()
            run()
            if options.device == "cuda":
                torch.cuda.synchronize()
            if number:
                found[name].append((time.perf_counter() - started) / points)
    return {name: statistics.median(times) for name, times in found.items() if times}


def literal(
    model: Any, state: OptimizerState, points: list[Example], reference: list[Example], options: argparse.Namespace
) -> dict[str, float]:
    """Return the seconds per point of the literal loop, by the dtype of its weights."""
    found = {}
    for name, rows in zip(options.literal_dtypes, options.literal_rows, strict=True):
        dtype = getattr(torch, name)
        with tempfile.TemporaryDirectory() as folder:
            copy.deepcopy(model).to(dtype).save_pretrained(folder)
            state.save(Path(folder))
            started = time.perf_counter()
            for point in points[: options.literal]:
                student = literal_step(model, Path(folder), point, dtype)
            step = (time.perf_counter() - started) / options.literal
            started = time.perf_counter()
            padded_reference_loss(student, reference[:rows])  # after the step; L(θ), once a student, is not counted
            loss = (time.perf_counter() - started) * len(reference) / len(reference[:rows])
            found[f"literal loop, {name}"] = step + loss
    return found


def literal_step(model: Any, folder: Path, point: Example, dtype: torch.dtype) -> Any:
    """Return the student after the step on one point, as in the original: everything is read from disk first."""
    student = copy.deepcopy(model).to(dtype)
    student.load_state_dict(load_file(folder / "model.safetensors"), strict=False)
    state = OptimizerState.load(folder, next(model.parameters()).device)
    optimizer = torch.optim.AdamW(student.parameters(), lr=state.learning_rate, weight_decay=0.0)
    for name, parameter in student.named_parameters():
        optimizer.state[parameter] = {
            "step": torch.tensor(float(state.step)),
            "exp_avg": state.exp_avg[name].to(dtype),
            "exp_avg_sq": state.exp_avg_sq[name].to(dtype),
        }
    padded_loss(student, [point]).backward()
    optimizer.step()
    return student


@torch.no_grad()
def padded_reference_loss(student: Any, reference: list[Example]) -> float:
    """Return the mean of the losses of batches of 8."""
    starts = range(0, len(reference), REFERENCE_BATCH)
    return statistics.fmean(padded_loss(student, reference[i : i + REFERENCE_BATCH]).item() for i in starts)


def padded_loss(student: Any, examples: list[Example]) -> torch.Tensor:
    """Return the loss of a batch padded to 1024 tokens, over all its answer tokens."""
    ids = torch.zeros(len(examples), PADDED, dtype=torch.long)
    labels = torch.full_like(ids, -100)
    mask = torch.zeros_like(ids)
    for i, example in enumerate(examples):
        n = len(example.input_ids)
        ids[i, :n] = torch.tensor(example.input_ids)
        labels[i, example.prompt_length : n] = ids[i, example.prompt_length : n]
        mask[i, :n] = 1
    device = next(student.parameters()).device
    loss: torch.Tensor = student(
        input_ids=ids.to(device), attention_mask=mask.to(device), labels=labels.to(device), use_cache=False
    ).loss
    return loss


def growth(
    model: Any, state: OptimizerState, points: list[Example], reference: list[Example], options: argparse.Namespace
) -> str:
    """Print the seconds per point for ten times the size, over those for the original size."""
    few = argparse.Namespace(**vars(options) | {"exact": min(1, options.exact), "rounds": 1})
    shape = {name: getattr(model.config, name) for name in PRESETS["tiny"]}
    grown = random_llama({k: v * GROWN.get(k, 1) for k, v in shape.items()}, model.dtype, options.device)
    tenth, tenth_reference = points[: max(1, len(points) // 10)], reference[: max(1, len(reference) // 10)]
    cases = {
        "points": ((model, state, tenth, tenth_reference), (model, state, points, tenth_reference)),
        "reference rows": ((model, state, tenth, tenth_reference), (model, state, tenth, reference)),
        "weights of a layer × 4": (
            (model, state, tenth, tenth_reference),
            (grown, random_state(grown), tenth, tenth_reference),
        ),
    }
    lines = ["| time a point, × | taylor | directional | exact |", "| --- | ---: | ---: | ---: |"]
    for name, (before, after) in cases.items():
        a, b = estimators(*before, few), estimators(*after, few)
        cells = (f"{b[e] / a[e]:.2f}" if e in a else "" for e in ("taylor", "directional", "exact"))
        lines.append(f"| {name if '×' in name else name + ' × 10'} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def about(model: Any, points: list[Example], reference: list[Example], options: argparse.Namespace) -> str:
    """Print the measured student and data."""
    lengths = [len(e.input_ids) for e in points]
    padded = sum(len(b) * max(len(e.input_ids) for e in b) for b in make_batches(points, options.token_budget))
    return (
        f"{sum(p.numel() for p in model.parameters()):,} parameters, {model.dtype}, {options.device}, "
        f"{options.threads} threads; {len(points)} points of {statistics.fmean(lengths):.0f} tokens, padding "
        f"{padded / sum(lengths) - 1:.1%}; {len(reference)} reference rows of "
        f"{statistics.fmean(len(e.input_ids) for e in reference):.0f} tokens"
    )


def table(speeds: dict[str, float], model: Any, points: list[Example], options: argparse.Namespace) -> str:
    """Print each speed, over the literal loop and over the passes that any estimator needs."""
    loops = {name: s for name, s in speeds.items() if name.startswith("literal")}
    floor = {"taylor": "forward + backward", "directional": "forward"}
    heads = ["ms a point", "points/s", *(f"times faster than the {name}" for name in loops), "over its floor"]
    if options.device == "cuda":
        heads.append("share of the matrix rate")
    lines = ["| | " + " | ".join(heads) + " |", "| --- |" + " ---: |" * len(heads)]
    for name, seconds in speeds.items():
        cells = [f"{1000 * seconds:.1f}", f"{1 / seconds:.2f}", *(f"{s / seconds:.1f}" for s in loops.values())]
        cells.append(f"{seconds / speeds[floor[name]]:.2f}" if name in floor else "")
        if options.device == "cuda":
            cells.append(f"{_operations(name, model, points) / seconds / matrix_rate():.0%}")
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _operations(name: str, model: Any, points: list[Example]) -> float:
    """Return the multiplications and additions in the matrix products of one point, or 0 where they are not counted."""
    passes = {"forward + backward": 6, "taylor": 6, "forward": 2, "directional": 4}.get(name, 0)
    embedding = model.get_input_embeddings().weight.numel()
    weights = sum(p.numel() for p in model.parameters()) - embedding
    return passes * weights * statistics.fmean(len(e.input_ids) for e in points)


def matrix_rate() -> float:
    """Return the operations per second of a large bfloat16 product on this GPU."""
    a = torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16)
    for _ in range(3):
        a @ a
    torch.cuda.synchronize()
    started = time.perf_counter()
    for _ in range(20):
        a @ a
    torch.cuda.synchronize()
    return 20 * 2 * 8192**3 / (time.perf_counter() - started)


if __name__ == "__main__":
    main()
