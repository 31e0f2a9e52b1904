"""Engines that write text: one interface, so that a stage does not care which one it has.

An engine has `generate(prompts, sampling, samples, seeds) -> list[list[Generation]]`.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Generation:
    """One answer as it came back."""

    text: str
    finish_reason: str  # "stop": the model ended it; "length": max_tokens did
    tokens: int
