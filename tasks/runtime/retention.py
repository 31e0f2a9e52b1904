"""What a store is to keep: runs, refreshes, what the champions' histories name, and what is being made.

In: a store, and which of its runs are kept.  Out: roots for `montessori.artifacts.gc`.
"""

from collections.abc import Iterable

from montessori.artifacts import Store, is_artifact
from montessori.artifacts.catalogue import RUNS
from montessori.refresh import champions, nights
from tasks.runtime import status


def roots(store: Store, runs: Iterable[str], grace_s: float) -> set[str]:
    """The kept `runs`, every teacher that was or may become a champion again, and what runs are making."""
    return {*runs, *teachers(store), *in_use(store, grace_s)}


def teachers(store: Store) -> set[str]:
    """All that a rollback may put back, and those with which nights began: the same night, again, asks for them."""
    entries = [entry for name in champions.names(store) for entry in champions.history(store, name)]
    named = [
        *(e.teacher for e in entries),
        *(e.replaces for e in entries),
        *(n.champion for n in nights.all_nights(store)),
    ]
    return {teacher for teacher in named if teacher and is_artifact(teacher)}


def in_use(store: Store, grace_s: float) -> set[str]:
    """What the runs make and take that are at work, or that stopped or failed less than `grace_s` ago."""
    now = status.now()
    working = [found for found in status.known(store) if found.at_work(now, grace_s)]
    return {address for found in working for address in [*(shard.address for shard in found.shards), *found.uses]}


def forget(store: Store, grace_s: float) -> None:
    """Remove the last words of runs that are neither in the store nor to come."""
    there = {address for stage in RUNS for address in store.addresses(stage)}
    now = status.now()
    for found in status.known(store):
        if found.run not in there and not found.at_work(now, grace_s):
            store.remove(found.document)
