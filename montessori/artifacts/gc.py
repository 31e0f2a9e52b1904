"""Remove artifacts without kept descendants from a store.

The caller names the artifacts to keep as roots. Their parents are kept too. Children are removed before their parents,
so after a kill every remaining artifact still has its parents. A second call removes the rest.
"""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from montessori.artifacts.catalogue import Entry, entries
from montessori.artifacts.request import is_artifact
from montessori.artifacts.store import Manifest, Store, Unfinished
from montessori.errors import ArtifactError


@dataclass(frozen=True)
class Garbage:
    """The artifacts to remove and to keep."""

    kept: list[Entry]
    removed: list[Entry]  # children before their parents
    journals: list[Unfinished]  # of artifacts that no run has continued
    orphans: int  # bytes that killed writers left behind
    grace_s: float


def find_garbage(store: Store, roots: Iterable[str], grace_s: float, dropped: Iterable[str] = ()) -> Garbage:
    """Find the artifacts to remove from `store`.

    The `roots` are kept, artifacts younger than `grace_s` seconds, and the parents of both. Age does not keep an
    artifact in `dropped`. Raises ArtifactError when a manifest needed here is spoilt.
    """
    by_address = {entry.address: entry for entry in entries(store)}
    before = time.time() - grace_s
    dropped = set(dropped)
    young = {a for a, e in by_address.items() if a not in dropped and (e.made is None or e.made.timestamp() > before)}
    kept = reachable({*roots, *young}, by_address, store.uri)
    journals = [left for left in store.journals() if left.written <= before and left.address not in kept]
    return Garbage(
        kept=[entry for address, entry in by_address.items() if address in kept],
        removed=children_first([e for a, e in by_address.items() if a not in kept], store.uri),
        journals=journals,
        orphans=store.sweep(grace_s, dry=True),
        grace_s=grace_s,
    )


def collect(
    store: Store, garbage: Garbage, wanted: Callable[[], set[str]], on_each: Callable[[], None] = lambda: None
) -> list[Entry]:
    """Remove the garbage, and return the removed entries.

    `wanted` returns the addresses in use by runs. It is called before each removal, since a run may have started
    meanwhile. `on_each` is called after each entry.
    """
    by_address = {entry.address: entry for entry in [*garbage.kept, *garbage.removed]}
    removed = []
    for entry in garbage.removed:
        if entry.address not in reachable(wanted(), by_address, store.uri):
            store.delete(entry.address)
            removed.append(entry)
        on_each()
    for journal in garbage.journals:
        if journal.address not in wanted():
            store.drop_journal(journal.address)
    store.sweep(garbage.grace_s)
    return removed


def reachable(roots: Iterable[str], by_address: dict[str, Entry], uri: str) -> set[str]:
    """Return the `roots` and the addresses of all their ancestors.

    Raises ArtifactError when the manifest of one of them is spoilt.
    """
    seen: set[str] = set()
    todo = list(roots)
    while todo:
        address = todo.pop()
        if address in seen:
            continue
        seen.add(address)
        if (entry := by_address.get(address)) is None:  # deleted by hand, so its parents are unknown
            continue
        if entry.manifest is None:
            raise ArtifactError(
                f"the manifest of {address} cannot be read, so nobody knows what it was made from; nothing was "
                f"removed: montessori store verify {address} --delete-damaged"
            )
        todo += parents(entry.manifest, uri)
    return seen


def children_first(listed: list[Entry], uri: str) -> list[Entry]:
    """Return the entries in an order with each child before its parents."""
    by_address = {entry.address: entry for entry in listed}
    ordered: dict[str, Entry] = {}  # parents first
    entered: set[str] = set()
    for entry in listed:
        todo = [(entry, False)]
        while todo:
            at, done = todo.pop()
            if done:
                ordered.setdefault(at.address, at)
            elif at.address not in entered:
                entered.add(at.address)
                todo.append((at, True))
                above = parents(at.manifest, uri) if at.manifest else []
                todo += [(by_address[address], False) for address in above if address in by_address]
    return list(ordered.values())[::-1]


def parents(manifest: Manifest, uri: str) -> list[str]:
    """Return the addresses of an artifact's inputs in the store at `uri`."""
    inputs = manifest.get("request", {}).get("inputs", {})
    return [a for a in manifest.get("parents", []) if is_artifact(a)] + artifacts_in(inputs, uri)


def artifacts_in(inputs: dict[str, list[str]], uri: str) -> list[str]:
    """Return the artifacts among a request's inputs, including files of this store named in settings."""
    given = [address for addresses in inputs.values() for address in addresses]
    here = f"file:{uri}/"
    files = [address[len(here) :].split("/") for address in given if address.startswith(here)]
    return [a for a in given if is_artifact(a)] + ["/".join(parts[:2]) for parts in files if len(parts) > 1]
