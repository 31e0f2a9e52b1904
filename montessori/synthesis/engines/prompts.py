"""Tokenize prompts for the engines that load a model themselves, cut to fit the model's context."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from montessori.data.chat import Message, prompt_ids
from montessori.errors import InputError
from montessori.settings.generation import Sampling

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Prompt:
    """Hold a chat as token ids."""

    ids: list[int]
    cut: bool  # the start was cut to fit the model's context


def encode_prompts(
    tokenizer: PreTrainedTokenizerBase, prompts: Sequence[Sequence[Message]], context: int, sampling: Sampling
) -> list[Prompt]:
    """Return each prompt's tokens, cut at the start to leave room for `sampling.max_tokens` in `context`.

    Raises InputError when no room is left for a prompt.
    """
    if (room := context - sampling.max_tokens) < 1:
        raise InputError(
            f"sampling.max_tokens = {sampling.max_tokens}: leaves no room for a prompt in the model's context "
            f"of {context} tokens"
        )
    return [Prompt(ids[-room:], len(ids) > room) for ids in prompt_ids(tokenizer, prompts)]
