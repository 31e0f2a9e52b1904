"""Two models head to head: each item judged in both orders, and won only by the answer that both prefer.

In: rows of `verdicts.parquet`, two an item.  Out: who won each item, and a `card.Duel`.
A judge that prefers what stands first says so by disagreeing with itself, and that is a tie.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable
from typing import Literal

from montessori.data.rows import Row
from montessori.errors import InputError
from montessori.evaluation.card import Duel

Outcome = Literal["left", "right", "tie", "unreadable"]


def outcomes(verdicts: Iterable[Row]) -> dict[str, Outcome]:
    """Who won each item, by its id, in the order of the rows; unreadable where one of its verdicts is.

    Raises InputError that names an item which was not judged once in each order.
    """
    found: dict[str, dict[bool, float | None]] = defaultdict(dict)
    for row in verdicts:
        if row["swapped"] in found[row["id"]]:
            raise InputError(f"verdicts: item {row['id']} was judged twice in one order; one verdict an order is right")
        found[row["id"]][row["swapped"]] = row["preference"]
    for id, orders in found.items():
        if len(orders) == 1:
            raise InputError(f"verdicts: item {id} was judged in one order alone; set both_orders")
    return {id: _outcome(list(orders.values())) for id, orders in found.items()}


def duel(left: str, right: str, verdicts: Iterable[Row]) -> Duel:
    """How often the model called `left` beat the one called `right`, whose answers the rows have under those names."""
    count = Counter(outcomes(verdicts).values())
    return Duel(left, right, count["left"], count["tie"], count["right"], count["unreadable"])


def _outcome(preferences: list[float | None]) -> Outcome:
    readable = [preference for preference in preferences if preference is not None]
    if len(readable) < len(preferences):
        return "unreadable"
    if all(preference < 0.5 for preference in readable):
        return "left"
    return "right" if all(preference > 0.5 for preference in readable) else "tie"
