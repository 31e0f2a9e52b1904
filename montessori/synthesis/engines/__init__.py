"""Define the interface of generation engines.

An engine answers each chat with a number of samples, and yields every answer as soon as it is complete, in any order.
"""

import math
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from montessori.data.chat import Message
from montessori.settings.generation import Sampling


@dataclass(frozen=True)
class Generation:
    """Hold one generated text."""

    text: str
    # "stop": the model ended the text; "length": max_tokens did; "tool_calls": it calls a tool; "content_filter": it
    # was refused. Without text: "too_long": the prompt does not fit; "empty": the endpoint gave no text; "failed": see
    # Answer.error.
    finish_reason: str
    tokens: int  # as APIs bill them, with the end token
    # The natural log probabilities of the likeliest first tokens by their text, before temperature, top-p and
    # penalties. None where sampling.top_logprobs is 0, or the endpoint returns none.
    first: dict[str, float] | None = None


@dataclass(frozen=True)
class Answer:
    """Hold all samples for one prompt, and the prompt's size. Without samples it holds the billed tokens alone."""

    generations: list[Generation]
    prompt_tokens: int
    cut: bool = False  # the start of the prompt was cut to fit the model's context
    error: str = ""  # why at least one sample failed, in the provider's words
    discarded_prompt_tokens: int = 0  # of replies without a usable text, which are billed too
    discarded_tokens: int = 0  # of texts that were not usable

    @property
    def tokens(self) -> int:
        """Return the number of generated tokens in all samples."""
        return sum(generation.tokens for generation in self.generations)

    @property
    def billed_prompt_tokens(self) -> int:
        """Return the number of tokens of the prompt in all requests."""
        return self.prompt_tokens + self.discarded_prompt_tokens

    @property
    def billed_tokens(self) -> int:
        """Return the number of generated tokens, used or not."""
        return self.tokens + self.discarded_tokens


def merge_by_text(tokens: Iterable[tuple[str, float]]) -> dict[str, float]:
    """Return log probabilities by token text, adding up the probabilities of tokens with the same text."""
    merged: dict[str, float] = {}
    for text, logprob in tokens:
        if logprob == -math.inf:
            continue
        low, high = sorted((merged.get(text, -math.inf), logprob))
        merged[text] = high + math.log1p(math.exp(low - high))
    return merged


MayStart = Callable[[int], bool]


def no_limit(_running: int) -> bool:
    """Allow every prompt."""
    return True


class Engine(Protocol):
    """Generate answers to chats with one model."""

    def generate(
        self,
        prompts: Sequence[Sequence[Message]],
        sampling: Sampling,
        samples: int,
        seeds: Sequence[int],
        *,
        done: Collection[int] = (),
        may_start: MayStart = no_limit,
    ) -> Iterator[tuple[int, Answer]]:
        """Yield (index, answer) for each prompt but those numbered in `done`, with `samples` texts each.

        `seeds[i]` determines the texts for `prompts[i]`. At temperature 0 all samples are the greedy one. Before each
        prompt the engine calls `may_start(n)`, with n prompts running. When it returns False the running prompts are
        finished and no other is started. An answer with an `error` is final for its prompt. An answer without samples
        only bills tokens. Raises InputError for settings that the engine does not support.
        """
