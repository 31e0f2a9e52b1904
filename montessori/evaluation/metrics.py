"""Measure a student on each example, and compute means and ratios of sums with their standard errors."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import TYPE_CHECKING

from montessori.data.chat import Example, prompt_of
from montessori.data.rows import Row
from montessori.settings.generation import Sampling
from montessori.synthesis.thinking import without_thinking

if TYPE_CHECKING:  # not imported at run time, since a mean needs no torch
    import torch

    from montessori.synthesis.engines.transformers import TransformersEngine


def measure(values: Sequence[float]) -> dict[str, float]:
    """Return `mean`, `standard_error` (of the mean, 0 for a single value) and `n`."""
    n = len(values)
    spread = statistics.stdev(values) / n**0.5 if n > 1 else 0.0
    return {"mean": statistics.fmean(values), "standard_error": spread, "n": n}


def ratio(numerators: Sequence[float], denominators: Sequence[float]) -> dict[str, float]:
    """Return Σ numerators / Σ denominators as `mean`, with `standard_error` and `n`, over examples or clusters."""
    return measure(linearise(numerators, denominators))


def linearise(numerators: Sequence[float], denominators: Sequence[float]) -> list[float]:
    """Return values with mean Σ numerators / Σ denominators, whose spread gives its standard error.

    To first order (Cochran, Sampling Techniques, section 6.3) a value is the ratio plus the excess of its numerator.
    The sum of the denominators must not be 0.
    """
    whole = math.fsum(denominators)
    mean, size = math.fsum(numerators) / whole, whole / len(denominators)
    return [mean + (a - mean * b) / size for a, b in zip(numerators, denominators, strict=True)]


def bits_per_byte(losses: Sequence[float], tokens: Sequence[int], sizes: Sequence[int]) -> dict[str, float]:
    """Return the `ratio` of bits to predict all answers to the UTF-8 bytes of their text, the same for every tokenizer.

    For each example, `losses` holds the nats per answer token, `tokens` the answer tokens, and `sizes` the bytes.
    """
    bits = [loss * count / math.log(2) for loss, count in zip(losses, tokens, strict=True)]
    return ratio(bits, sizes)


def exact_match(engine: TransformersEngine, rows: Sequence[Row], max_tokens: int) -> list[float]:
    """Return 1 for each row whose greedy answer equals its response, up to white space, and 0 otherwise.

    The thoughts before an answer do not count.
    """
    greedy = Sampling(temperature=0, top_p=1, presence_penalty=0, repetition_penalty=1, max_tokens=max_tokens)
    answers = dict(engine.generate([prompt_of(row) for row in rows], greedy, 1, [0] * len(rows)))
    texts = [without_thinking(answers[i].generations[0]).text for i in range(len(rows))]
    return [float(text.split() == row["response"].split()) for text, row in zip(texts, rows, strict=True)]


def next_token_accuracy(model: torch.nn.Module, examples: Sequence[Example]) -> list[float]:
    """Return, for each example, the share of its answer's tokens ranked first by the model."""
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
