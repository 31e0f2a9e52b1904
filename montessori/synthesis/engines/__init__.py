"""Engines that write text: one interface, so that a stage does not care which one it has.

An engine answers chats with `samples` texts each, and yields every answer as soon as it is there, in any order.
"""

import math
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from montessori.data.chat import Message
from montessori.settings.schema import Sampling


@dataclass(frozen=True)
class Generation:
    """One text as it came back."""

    text: str
    finish_reason: str  # "stop": the model ended it; "length": max_tokens did; "content_filter": it was refused
    tokens: int  # as APIs bill them: the one that ended it counts
    # By a token's text, the natural log probabilities of the likeliest first tokens, as the model gives them: before
    # temperature, top-p and penalties. None where sampling.top_logprobs is 0, or the endpoint tells none.
    first: dict[str, float] | None = None


@dataclass(frozen=True)
class Answer:
    """All samples for one prompt, and what reading the prompt took."""

    generations: list[Generation]
    prompt_tokens: int
    cut: bool = False  # the prompt lost its start, for want of room in the model's context

    @property
    def tokens(self) -> int:
        """Written, of all samples."""
        return sum(generation.tokens for generation in self.generations)


def by_text(tokens: Iterable[tuple[str, float]]) -> dict[str, float]:
    """Log probabilities by the tokens' texts; where several tokens have one text, that of any of them."""
    found: dict[str, float] = {}
    for text, logprob in tokens:
        if logprob == -math.inf:
            continue
        low, high = sorted((found.get(text, -math.inf), logprob))
        found[text] = high + math.log1p(math.exp(low - high))
    return found


MayAsk = Callable[[int], bool]


def always(_under_way: int) -> bool:
    """There is no limit."""
    return True


class Engine(Protocol):
    """A model that answers chats."""

    def generate(
        self,
        prompts: Sequence[Sequence[Message]],
        sampling: Sampling,
        samples: int,
        seeds: Sequence[int],
        done: Collection[int] = (),
        may_ask: MayAsk = always,
    ) -> Iterator[tuple[int, Answer]]:
        """`samples` texts for each prompt but those numbered in `done`; `seeds[i]` makes those for `prompts[i]`.

        At temperature 0: the greedy one. `may_ask(n)` is asked, with n prompts under way, before one more is begun:
        when it says no, those under way are finished and the others left. Raises InputError for what the engine
        cannot do.
        """
