"""Per-example measurements of a student, and a mean with its standard error over them."""

import statistics
from collections.abc import Sequence

import torch

from montessori.chat import Example, prompt_of
from montessori.config import Sampling
from montessori.data import Row
from montessori.models import device
from montessori.synthesis.engines.transformers import TransformersEngine


def measure(values: Sequence[float]) -> dict[str, float]:
    """`mean`, `standard_error` (of the mean; 0 for a single value) and `n`."""
    n = len(values)
    spread = statistics.stdev(values) / n**0.5 if n > 1 else 0.0
    return {"mean": statistics.fmean(values), "standard_error": spread, "n": n}


def exact_match(engine: TransformersEngine, rows: Sequence[Row], max_tokens: int) -> list[float]:
    """1 where the greedy answer to a row's prompt equals its response, white space aside."""
    greedy = Sampling(temperature=0, top_p=1, presence_penalty=0, repetition_penalty=1, max_tokens=max_tokens)
    answers = dict(engine.generate([prompt_of(row) for row in rows], greedy, 1, [0] * len(rows)))
    texts = [answers[i].generations[0].text for i in range(len(rows))]
    return [float(text.split() == row["response"].split()) for text, row in zip(texts, rows, strict=True)]


@torch.inference_mode()
def next_token_accuracy(model: torch.nn.Module, examples: Sequence[Example]) -> list[float]:
    """For each example, the share of its answer's tokens that the model ranks first, given those before."""
    shares = []
    for example in examples:
        ids = torch.tensor([example.input_ids], device=device())
        start = max(1, example.prompt_length)
        best = model(input_ids=ids).logits[0, start - 1 : -1].argmax(-1)
        shares.append((best == ids[0, start:]).float().mean().item())
    return shares
