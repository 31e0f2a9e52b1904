"""What a run has cost so far, and whether it may go on: read off the manifests and journals of its parts.

In: a store and the addresses of all parts.  Out: tokens, dollars and hours, or the sentence that says which is used up.
So the count is right after any crash, and wherever the parts are made; it needs no account of its own.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from montessori.artifacts import Request, Store
from montessori.errors import BudgetReached
from montessori.settings.schema import OpenAI, Price

LOOK_EVERY_S = 2.0  # at what the other parts have used

# List prices in US dollars for a million tokens read and written, as published in 2025. Set generation.openai.price
# where yours differ.
PRICES = {
    "gpt-4o": Price(input=2.5, output=10),
    "gpt-4o-mini": Price(input=0.15, output=0.6),
    "gpt-4.1": Price(input=2, output=8),
    "gpt-4.1-mini": Price(input=0.4, output=1.6),
}


def price_of(endpoint: OpenAI) -> Price | None:
    """The price that the settings give, or the list price, where it is known."""
    return endpoint.price or PRICES.get(endpoint.model or "")


@dataclass(frozen=True)
class Usage:
    """What something has used."""

    tokens: float = 0.0  # read and written by the teacher
    usd: float = 0.0
    hours: float = 0.0

    def __add__(self, other: "Usage") -> "Usage":
        return Usage(self.tokens + other.tokens, self.usd + other.usd, self.hours + other.hours)

    def scaled(self, factor: float) -> "Usage":
        """`factor` times as much."""
        return Usage(self.tokens * factor, self.usd * factor, self.hours * factor)


def dollars(price: Price, read: float, written: float) -> float:
    """What so many tokens cost."""
    return (read * price.input + written * price.output) / 1e6


def usage(recorded: dict[str, float], price: Price | None = None) -> Usage:
    """What a manifest or a journal tells; by `price`, where an endpoint was paid and the price was not known then."""
    read, written = recorded.get("prompt_tokens", 0), recorded.get("completion_tokens", 0)
    paid = recorded.get("usd", dollars(price, read, written) if price else 0.0)
    return Usage(read + written, paid, recorded.get("seconds", 0) / 3600)


def reached(limits: dict[str, float | None], spent: Usage, coming: Usage | None = None) -> str | None:
    """The sentence that says which limit (`usd`, `tokens`, `hours`) does not reach any more, or None.

    `coming` may be used by what has been begun, or must be begun together.
    """
    for name, limit in limits.items():
        used, more = getattr(spent, name), getattr(coming, name) if coming else 0.0
        if limit is not None and used + more >= limit:
            how = f"is reached ({used:,.6g} used)"
            if used < limit:
                how = f"does not reach for more ({used:,.6g} used, up to {more:,.6g} by what comes next)"
            return (
                f"budget.{name} = {limit:,g} {how}; what was made is kept: "
                f"raise budget.{name} and run the same command to go on"
            )
    return None


def others(store: Store, budget: Mapping[str, Any], own: str = "") -> Callable[[], Usage]:
    """What all parts of a run (but `own`, if given) have used, looked up when it is asked for but not too often.

    `budget` has `parts`, the addresses of a run's requests, and `paid`, the prices of those that an endpoint answers.
    """
    prices = {address: Price.model_validate(price) for address, price in budget["paid"].items()}
    made: dict[str, Usage] = {}  # for good
    missing = [address for address in budget["parts"] if address != own]
    last, total = -LOOK_EVERY_S, Usage()

    def look() -> Usage:
        nonlocal last, total
        if time.monotonic() - last >= LOOK_EVERY_S:
            so_far = Usage()
            for address in list(missing):
                there = store.exists(address)  # before it is read: it may be made in between
                found = usage(store.usage(address), prices.get(address))
                if there:
                    made[address] = found
                    missing.remove(address)
                else:
                    so_far += found
            last, total = time.monotonic(), sum(made.values(), so_far)
        return total

    return look


def check(request: Request, store: Store) -> None:
    """Raise BudgetReached when the run that `request` belongs to has used up what it may."""
    budget = request.means.get("budget")
    if budget and (sentence := reached(budget["limits"], others(store, budget)())):
        raise BudgetReached(sentence)
