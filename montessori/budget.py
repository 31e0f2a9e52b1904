"""Compare the usage of a run with its budget.

The usage is read from the manifests and journals of the run's tasks, in tokens, US dollars and hours. So it is right
after any crash, and wherever the tasks run.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from montessori.artifacts import Request, Store
from montessori.errors import BudgetReached
from montessori.settings.engines import OpenAI, Price

LOOK_EVERY_S = 2.0  # between two readings of the usage of other tasks

# List prices in US dollars per million tokens of prompts and generated tokens, as published in 2025. Settings can
# replace them (generation.openai.price).
PRICES = {
    "gpt-4o": Price(input=2.5, output=10),
    "gpt-4o-mini": Price(input=0.15, output=0.6),
    "gpt-4.1": Price(input=2, output=8),
    "gpt-4.1-mini": Price(input=0.4, output=1.6),
}


def price_of(endpoint: OpenAI) -> Price | None:
    """Return the price in the settings, or the list price if the model is known, or None."""
    return endpoint.price or PRICES.get(endpoint.model or "")


@dataclass(frozen=True)
class Usage:
    """The usage of a task, of a run, or of something larger."""

    tokens: float = 0.0  # of prompts and generated, by the teacher or a judge
    usd: float = 0.0
    hours: float = 0.0

    def __add__(self, other: "Usage") -> "Usage":
        return Usage(self.tokens + other.tokens, self.usd + other.usd, self.hours + other.hours)

    def scaled(self, factor: float) -> "Usage":
        """Return this usage times `factor`."""
        return Usage(self.tokens * factor, self.usd * factor, self.hours * factor)


def dollars(price: Price, read: float, written: float) -> float:
    """Return the price of `read` prompt tokens and `written` generated tokens, in US dollars."""
    return (read * price.input + written * price.output) / 1e6


def usage(recorded: dict[str, float], price: Price | None = None) -> Usage:
    """Return the usage in a manifest's or a journal's record.

    `price` is used where an endpoint was paid and the record has no dollars.
    """
    read, written = recorded.get("prompt_tokens", 0), recorded.get("completion_tokens", 0)
    paid = recorded.get("usd", dollars(price, read, written) if price else 0.0)
    return Usage(read + written, paid, recorded.get("seconds", 0) / 3600)


def over_limit(limits: dict[str, float | None], spent: Usage, coming: Usage | None = None) -> str | None:
    """Return a message with the first limit (`usd`, `tokens`, `hours`) without room for more, or None.

    `coming` is the usage of tasks already started, or about to start together.
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


def usage_of_others(store: Store, budget: Mapping[str, Any], own: str = "") -> Callable[[], Usage]:
    """Return a function for the usage of all tasks of a run, except for the task `own`.

    It reads the store at most every `LOOK_EVERY_S`. `budget` holds `parts`, the addresses of the run's requests, and
    `paid`, the prices of requests to an endpoint.
    """
    prices = {address: Price.model_validate(price) for address, price in budget["paid"].items()}
    made: dict[str, Usage] = {}  # of committed artifacts, which does not change
    missing = [address for address in budget["parts"] if address != own]
    last, total = -LOOK_EVERY_S, Usage()

    def look() -> Usage:
        nonlocal last, total
        if time.monotonic() - last >= LOOK_EVERY_S:
            so_far = Usage()
            for address in list(missing):
                there = store.exists(address)  # asked before the usage is read, since a commit may come in between
                used = usage(store.usage(address), prices.get(address))
                if there:
                    made[address] = used
                    missing.remove(address)
                else:
                    so_far += used
            last, total = time.monotonic(), sum(made.values(), so_far)
        return total

    return look


def check(request: Request, store: Store) -> None:
    """Raise BudgetReached when the run of `request` has used up its budget."""
    budget = request.means.get("budget")
    if budget and (sentence := over_limit(budget["limits"], usage_of_others(store, budget)())):
        raise BudgetReached(sentence)
