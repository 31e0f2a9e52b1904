"""Per-example measurements of a student, and over them a mean, or a ratio of sums, with its standard error."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import TYPE_CHECKING

from montessori.data.chat import Example, prompt_of
from montessori.data.rows import Row
from montessori.settings.schema import Sampling

if TYPE_CHECKING:  # only named here: a mean needs no torch
    import torch

    from montessori.synthesis.engines.transformers import TransformersEngine


def measure(values: Sequence[float]) -> dict[str, float]:
    """`mean`, `standard_error` (of the mean; 0 for a single value) and `n`."""
    n = len(values)
    spread = statistics.stdev(values) / n**0.5 if n > 1 else 0.0
    return {"mean": statistics.fmean(values), "standard_error": spread, "n": n}


def ratio(numerators: Sequence[float], denominators: Sequence[float]) -> dict[str, float]:
    """Σ numerators / Σ denominators as `mean`, its `standard_error` and `n`; an example, or a cluster of them, each."""
    return measure(linearised(numerators, denominators))


def linearised(numerators: Sequence[float], denominators: Sequence[float]) -> list[float]:
    """Values with Σ numerators / Σ denominators as their mean, which vary as that does from sample to sample.

    To first order (Cochran, Sampling Techniques, 6.3): the ratio, and what each numerator exceeds it by. The
    denominators' sum must not be 0.
    """
    whole = math.fsum(denominators)
    mean, size = math.fsum(numerators) / whole, whole / len(denominators)
    return [mean + (a - mean * b) / size for a, b in zip(numerators, denominators, strict=True)]


def bits_per_byte(losses: Sequence[float], tokens: Sequence[int], sizes: Sequence[int]) -> dict[str, float]:
    """The `ratio` of the bits to predict all answers and the bytes of their text, which no tokenizer changes.

    In: of each example the nats per answer token, the tokens, and the UTF-8 bytes of the answer.
    """
    bits = [loss * count / math.log(2) for loss, count in zip(losses, tokens, strict=True)]
    return ratio(bits, sizes)


def exact_match(engine: TransformersEngine, rows: Sequence[Row], max_tokens: int) -> list[float]:
    """1 where the greedy answer to a row's prompt equals its response, white space aside."""
    greedy = Sampling(temperature=0, top_p=1, presence_penalty=0, repetition_penalty=1, max_tokens=max_tokens)
    answers = dict(engine.generate([prompt_of(row) for row in rows], greedy, 1, [0] * len(rows)))
    texts = [answers[i].generations[0].text for i in range(len(rows))]
    return [float(text.split() == row["response"].split()) for text, row in zip(texts, rows, strict=True)]


def next_token_accuracy(model: torch.nn.Module, examples: Sequence[Example]) -> list[float]:
    """For each example, the share of its answer's tokens that the model ranks first, given those before."""
    import torch

    from montessori.models.loading import device

    shares = []
    with torch.inference_mode():
        for example in examples:
            ids = torch.tensor([example.input_ids], device=device())
            start = max(1, example.prompt_length)
            best = model(input_ids=ids).logits[0, start - 1 : -1].argmax(-1)
            shares.append((best == ids[0, start:]).float().mean().item())
    return shares
