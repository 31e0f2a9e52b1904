"""Chats as tokens for the engines that hold a model themselves: rendered, and cut to what the context leaves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from montessori.data.chat import Message, render_prompt
from montessori.errors import InputError
from montessori.settings.schema import Sampling

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Prompt:
    """A chat as the model reads it."""

    ids: list[int]
    cut: bool


def encode(
    tokenizer: PreTrainedTokenizerBase, prompts: Sequence[Sequence[Message]], context: int, sampling: Sampling
) -> list[Prompt]:
    """Each prompt's tokens, cut at its start to what `context` leaves beside `sampling.max_tokens`.

    Raises InputError when that is nothing.
    """
    if (room := context - sampling.max_tokens) < 1:
        raise InputError(
            f"sampling.max_tokens = {sampling.max_tokens}: leaves no room for a prompt in the model's context "
            f"of {context} tokens"
        )
    texts = [render_prompt(tokenizer, prompt) for prompt in prompts]
    if not texts:
        return []
    # verbose: or it warns of a text longer than the model's context, which is cut right here
    read = tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]
    return [Prompt(ids[-room:], len(ids) > room) for ids in read]
