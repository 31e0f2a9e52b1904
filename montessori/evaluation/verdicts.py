"""Count the verdicts on two models head to head, and choose verdicts to show.

The rows are those of `verdicts.parquet` and `grades.parquet`. Head to head, each item is judged in both orders. An
answer wins only if the judge prefers it in both. A judge with a preference for the first position disagrees with
itself. This is a tie.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import Literal

from montessori.data.rows import Row
from montessori.errors import InputError
from montessori.evaluation.card import Duel, Example

SHOWN = 3  # examples of the best verdicts, and as many of the worst

Outcome = Literal["left", "right", "tie", "unreadable"]


def outcomes(verdicts: Iterable[Row]) -> dict[str, Outcome]:
    """Return the winner of each item by its id, in the order of the rows. Unreadable if one of its verdicts is.

    Raises InputError for an item without exactly one verdict in each order.
    """
    preferences: dict[str, dict[bool, float | None]] = defaultdict(dict)
    for row in verdicts:
        if row["swapped"] in preferences[row["id"]]:
            raise InputError(f"verdicts: item {row['id']} was judged twice in one order; one verdict an order is right")
        preferences[row["id"]][row["swapped"]] = row["preference"]
    for id, orders in preferences.items():
        if len(orders) == 1:
            raise InputError(f"verdicts: item {id} was judged in one order alone; set both_orders")
    return {id: _outcome(list(orders.values())) for id, orders in preferences.items()}


def duel(left: str, right: str, verdicts: Iterable[Row]) -> Duel:
    """Return how often model `left` beat model `right`, whose answers the rows hold under these names."""
    count = Counter(outcomes(verdicts).values())
    return Duel(left, right, count["left"], count["tie"], count["right"], count["unreadable"])


def compared_examples(model: str, baseline: str, rows: Sequence[Row]) -> list[Example]:
    """Return the clearest wins and losses of `model` against the baseline, the best first."""
    return [
        Example(
            "alpaca_eval", r["question"], model, r["right"], baseline, r["left"], r["preference"], r["said"],
            first=model if r["swapped"] else baseline,
        )
        for r in _clearest(rows, "preference")
    ]  # fmt: skip


def graded_examples(model: str, rows: Sequence[Row]) -> list[Example]:
    """Return the highest and the lowest grades of `model`, the best first."""
    return [
        Example("mt_bench", r["question"], model, r["answer"], "", "", r["grade"], r["said"])
        for r in _clearest(rows, "grade")
    ]


def _clearest(rows: Sequence[Row], value: str) -> list[Row]:
    """Return the rows with the highest values, then those with the lowest."""
    known = sorted((row for row in rows if row[value] is not None), key=lambda row: (-row[value], row["id"]))
    return known if len(known) <= 2 * SHOWN else [*known[:SHOWN], *known[-SHOWN:]]


def _outcome(preferences: list[float | None]) -> Outcome:
    readable = [preference for preference in preferences if preference is not None]
    if len(readable) < len(preferences):
        return "unreadable"
    if all(preference < 0.5 for preference in readable):
        return "left"
    return "right" if all(preference > 0.5 for preference in readable) else "tie"
