"""What a store may lose: all that nothing kept was made from.

In: the artifacts to keep, as roots.  Out: a plan of what goes, and, when it is carried out, a smaller store.

What is kept is closed under parents, and what goes, goes children first: whenever it is killed, each artifact that is
left has its parents, and a second time takes the rest.
"""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from montessori.artifacts.catalogue import Entry, entries
from montessori.artifacts.request import is_artifact
from montessori.artifacts.store import Manifest, Store, Unfinished
from montessori.errors import ArtifactError


@dataclass(frozen=True)
class Plan:
    """What would go, and what stays."""

    kept: list[Entry]
    removed: list[Entry]  # children before their parents
    journals: list[Unfinished]  # of artifacts that nobody has gone on with
    orphans: int  # bytes that killed writers left
    grace_s: float


def plan(store: Store, roots: Iterable[str], grace_s: float, dropped: Iterable[str] = ()) -> Plan:
    """What `store` may lose; keeps the `roots`, what is younger than `grace_s`, and what either was made from.

    The `dropped` are not kept for their youth. Raises ArtifactError when a manifest that this depends on is spoilt.
    """
    found = {entry.address: entry for entry in entries(store)}
    before = time.time() - grace_s
    dropped = set(dropped)
    young = {a for a, e in found.items() if a not in dropped and (e.made is None or e.made.timestamp() > before)}
    kept = reached({*roots, *young}, found, store.uri)
    journals = [left for left in store.journals() if left.written <= before and left.address not in kept]
    return Plan(
        kept=[entry for address, entry in found.items() if address in kept],
        removed=children_first([e for a, e in found.items() if a not in kept], store.uri),
        journals=journals,
        orphans=store.sweep(grace_s, dry=True),
        grace_s=grace_s,
    )


def carry_out(
    store: Store, planned: Plan, wanted: Callable[[], set[str]], on_each: Callable[[], None] = lambda: None
) -> list[Entry]:
    """Remove what was `planned`, but for what `wanted`, asked before each, says that a run has begun to use since.

    Returns what was removed; calls `on_each` after each that was looked at.
    """
    by_address = {entry.address: entry for entry in [*planned.kept, *planned.removed]}
    removed = []
    for entry in planned.removed:
        if entry.address not in reached(wanted(), by_address, store.uri):
            store.delete(entry.address)
            removed.append(entry)
        on_each()
    for journal in planned.journals:
        if journal.address not in wanted():
            store.drop_journal(journal.address)
    store.sweep(planned.grace_s)
    return removed


def reached(roots: Iterable[str], found: dict[str, Entry], uri: str) -> set[str]:
    """The `roots` and all that they were made from. Raises ArtifactError when the manifest of one is spoilt."""
    seen: set[str] = set()
    todo = list(roots)
    while todo:
        address = todo.pop()
        if address in seen:
            continue
        seen.add(address)
        if (entry := found.get(address)) is None:  # deleted by hand: nothing says what it was made from
            continue
        if entry.manifest is None:
            raise ArtifactError(
                f"the manifest of {address} cannot be read, so nobody knows what it was made from; nothing was "
                f"removed: montessori store verify {address} --delete-damaged"
            )
        todo += parents(entry.manifest, uri)
    return seen


def children_first(found: list[Entry], uri: str) -> list[Entry]:
    """The entries, each before those that it was made from."""
    by_address = {entry.address: entry for entry in found}
    ordered: dict[str, Entry] = {}  # parents first
    entered: set[str] = set()
    for entry in found:
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
    """What an artifact was made from, of the store at `uri`."""
    inputs = manifest.get("request", {}).get("inputs", {})
    return [a for a in manifest.get("parents", []) if is_artifact(a)] + artifacts_in(inputs, uri)


def artifacts_in(inputs: dict[str, list[str]], uri: str) -> list[str]:
    """The artifacts among a request's inputs, those included that settings named as files of this store."""
    given = [address for addresses in inputs.values() for address in addresses]
    here = f"file:{uri}/"
    files = [address[len(here) :].split("/") for address in given if address.startswith(here)]
    return [a for a in given if is_artifact(a)] + ["/".join(parts[:2]) for parts in files if len(parts) > 1]
