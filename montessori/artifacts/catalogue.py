"""List the artifacts of a store, and resolve the name of one."""

import difflib
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime

from montessori.artifacts.request import Request
from montessori.artifacts.store import Manifest, Store
from montessori.errors import ArtifactError, InputError

AT_ONCE = 16  # manifests to read at a time, since each is a request to a remote store
RUNS = ("runs", "refreshes", "evaluations", "studies")  # the stages whose artifacts have names


@dataclass(frozen=True)
class Entry:
    """One artifact, without a manifest when it cannot be read."""

    address: str
    manifest: Manifest | None

    @property
    def stage(self) -> str:
        """Return the part of the address before the slash."""
        return self.address.partition("/")[0]

    @property
    def label(self) -> str:
        """Return the label and the shard, for display."""
        if self.manifest is None:
            return "damaged"
        return Request.model_validate(self.manifest["request"]).title if "request" in self.manifest else ""

    @property
    def bytes(self) -> int:
        """Return the size of all files together."""
        return sum(file["bytes"] for file in self.manifest["files"].values()) if self.manifest else 0

    @property
    def made(self) -> datetime | None:
        """Return the time of the commit, by the clock of the machine that made it."""
        return datetime.fromisoformat(self.manifest["made_by"]["time"]) if self.manifest else None

    @property
    def made_by(self) -> str:
        """Return the writer as user@host."""
        who = self.manifest["made_by"] if self.manifest else {"user": "?", "host": "?"}
        return f"{who['user']}@{who['host']}"


def entries(store: Store, stage: str = "") -> list[Entry]:
    """Return all artifacts, or those of one stage, in the order of their addresses.

    Artifacts that are deleted meanwhile are left out.
    """

    def entry(address: str) -> Entry | None:
        try:
            manifest = store.manifest(address)
            return Entry(address, manifest if "made_by" in manifest else None)
        except ArtifactError:
            there = address in store.addresses(address.partition("/")[0])
            return Entry(address, None) if there else None

    with ThreadPoolExecutor(AT_ONCE) as pool:
        return list(filter(None, pool.map(entry, store.addresses(stage))))


def newest_first(listed: Iterable[Entry]) -> list[Entry]:
    """Return named artifacts before all others, the newest of each first and damaged ones last."""
    return sorted(listed, key=lambda e: (e.stage not in RUNS, -e.made.timestamp() if e.made else 0))


def resolve(asked: str, known: Iterable[str]) -> str:
    """Return the one of the `known` addresses that begins with `asked`, or whose name does.

    A name is the part after the stage: `tiny-1a2b3c4d` is `runs/tiny-1a2b3c4d`. Raises InputError with the nearest
    addresses when there is not exactly one.
    """
    known = list(known)
    for fits in (str.__eq__, str.startswith):
        matches = [address for address in known if fits(address, asked) or fits(address.partition("/")[2], asked)]
        if len(matches) == 1:
            return matches[0]
        if matches:
            raise InputError(f"{asked}: begins {len(matches)} addresses, among them {' and '.join(matches[:2])}")
    beginnings = {
        name[: max(len(asked), 6)]: address for address in known for name in (address, address.partition("/")[2])
    }
    near = list(dict.fromkeys(beginnings[name] for name in difflib.get_close_matches(asked, beginnings, cutoff=0.5)))
    raise InputError(f"{asked}: not in the store" + (f"; the nearest: {', '.join(near)}" if near else ""))
