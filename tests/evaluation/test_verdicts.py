"""Head to head: an item is won by the answer that both orders prefer."""

import pytest

from montessori.errors import InputError
from montessori.evaluation.card import Duel
from montessori.evaluation.verdicts import duel, outcomes


def judged(**items):
    """Verdicts by item: how much `right` was preferred when shown second, and when shown first."""
    return [
        {"id": id, "swapped": swapped, "preference": preference}
        for id, given in items.items()
        for swapped, preference in zip((False, True), given, strict=True)
    ]


ITEMS = judged(
    won=(0.1, 0.4), lost=(0.9, 0.51), first=(0.2, 0.8), second=(0.8, 0.2), half=(0.5, 0.9), even=(0.5, 0.5),
    lost_again=(1.0, 1.0), silent=(None, 0.9), mute=(None, None),
)  # fmt: skip


def test_an_item_is_won_where_both_orders_agree():
    assert outcomes(ITEMS) == {
        "won": "left", "lost": "right", "first": "tie", "second": "tie", "half": "tie", "even": "tie",
        "lost_again": "right", "silent": "unreadable", "mute": "unreadable",
    }  # fmt: skip


def test_a_duel_counts_wins_ties_losses_and_what_could_not_be_read():
    assert duel("tuned", "plain", ITEMS) == Duel("tuned", "plain", wins=1, ties=4, losses=2, unreadable=2)


def test_a_judge_that_always_takes_the_first_answer_decides_nothing():
    taken = judged(**{f"item-{n}": (0.0, 1.0) for n in range(5)})
    assert duel("a", "b", taken) == Duel("a", "b", 0, 5, 0)


def test_one_order_alone_is_no_duel():
    with pytest.raises(InputError, match="item won was judged in one order alone; set both_orders"):
        outcomes(ITEMS[:1])
    with pytest.raises(InputError, match="item won was judged twice in one order"):
        outcomes([ITEMS[0], ITEMS[0]])
