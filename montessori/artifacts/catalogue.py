"""What is in a store: an entry for each artifact, from its manifest; and the artifact that somebody means."""

import difflib
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime

from montessori.artifacts.request import Request
from montessori.artifacts.store import Manifest, Store
from montessori.errors import ArtifactError, InputError

AT_ONCE = 16  # manifests asked for side by side: each is a question to a distant store
RUNS = ("runs", "refreshes", "evaluations", "studies")  # the stages whose artifacts have names


@dataclass(frozen=True)
class Entry:
    """One artifact; without a manifest when that cannot be read."""

    address: str
    manifest: Manifest | None

    @property
    def stage(self) -> str:
        """The room of the store that it is in."""
        return self.address.partition("/")[0]

    @property
    def label(self) -> str:
        """What it is, for people: the label and the shard."""
        if self.manifest is None:
            return "damaged"
        return Request.model_validate(self.manifest["request"]).title if "request" in self.manifest else ""

    @property
    def bytes(self) -> int:
        """Of all files."""
        return sum(file["bytes"] for file in self.manifest["files"].values()) if self.manifest else 0

    @property
    def made(self) -> datetime | None:
        """When it was committed, by the clock of the machine that did."""
        return datetime.fromisoformat(self.manifest["made_by"]["time"]) if self.manifest else None

    @property
    def made_by(self) -> str:
        """user@host."""
        who = self.manifest["made_by"] if self.manifest else {"user": "?", "host": "?"}
        return f"{who['user']}@{who['host']}"


def entries(store: Store, stage: str = "") -> list[Entry]:
    """All artifacts, or those of one stage, in the order of their addresses; without those deleted meanwhile."""

    def entry(address: str) -> Entry | None:
        try:
            manifest = store.manifest(address)
            return Entry(address, manifest if "made_by" in manifest else None)
        except ArtifactError:
            there = any(found == address for found in store.addresses(address.partition("/")[0]))
            return Entry(address, None) if there else None

    with ThreadPoolExecutor(AT_ONCE) as pool:
        return [found for found in pool.map(entry, store.addresses(stage)) if found]


def newest_first(found: Iterable[Entry]) -> list[Entry]:
    """Runs and refreshes, then all others; in each the newest first, the damaged last."""
    return sorted(found, key=lambda e: (e.stage not in RUNS, -e.made.timestamp() if e.made else 0))


def meant(asked: str, known: Iterable[str]) -> str:
    """The one of the `known` addresses that begins as `asked`, or whose name does. Raises InputError with the nearest.

    A name is what follows the stage: `tiny-1a2b3c4d` is `runs/tiny-1a2b3c4d`.
    """
    known = list(known)
    for fits in (str.__eq__, str.startswith):
        found = [address for address in known if fits(address, asked) or fits(address.partition("/")[2], asked)]
        if len(found) == 1:
            return found[0]
        if found:
            raise InputError(f"{asked}: begins {len(found)} addresses, among them {' and '.join(found[:2])}")
    beginnings = {
        name[: max(len(asked), 6)]: address for address in known for name in (address, address.partition("/")[2])
    }
    near = list(dict.fromkeys(beginnings[name] for name in difflib.get_close_matches(asked, beginnings, cutoff=0.5)))
    raise InputError(f"{asked}: not in the store" + (f"; the nearest: {', '.join(near)}" if near else ""))
