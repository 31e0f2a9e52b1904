"""List the artifacts that a store must keep: the roots for `montessori.artifacts.gc`.

These are the kept runs, all past and present champion teachers, and the artifacts of running runs.
"""

from collections.abc import Iterable

from montessori.artifacts import Store, is_artifact
from montessori.artifacts.catalogue import RUNS
from montessori.refresh import champions, nights
from tasks.runtime import status


def roots(store: Store, runs: Iterable[str], grace_s: float) -> set[str]:
    """Return the kept `runs`, the champion teachers, and the artifacts in use."""
    return {*runs, *teachers(store), *in_use(store, grace_s)}


def teachers(store: Store) -> set[str]:
    """Return every teacher that a rollback may restore or a repeated night may need."""
    entries = [entry for name in champions.names(store) for entry in champions.history(store, name)]
    named = [
        *(e.teacher for e in entries),
        *(e.replaces for e in entries),
        *(n.champion for n in nights.all_nights(store)),
    ]
    return {teacher for teacher in named if teacher and is_artifact(teacher)}


def in_use(store: Store, grace_s: float) -> set[str]:
    """Return the artifacts of runs that work, or that stopped or failed less than `grace_s` seconds ago."""
    now = status.now()
    working = [run for run in status.all_statuses(store) if run.at_work(now, grace_s)]
    return {address for run in working for address in [*(shard.address for shard in run.shards), *run.uses]}


def remove_old_statuses(store: Store, grace_s: float) -> None:
    """Remove the status of each run that is neither in the store nor at work."""
    finished = {address for stage in RUNS for address in store.addresses(stage)}
    now = status.now()
    for run in status.all_statuses(store):
        if run.run not in finished and not run.at_work(now, grace_s):
            store.remove(run.document)
