"""Artifacts of a distant store kept on this machine: whole, checked, and no more of them than a limit.

    MONTESSORI_CACHE      the folder (default: ~/.cache/montessori)
    MONTESSORI_CACHE_GB   how much a store may take there (default: 50); what was used longest ago goes first

What a living process has opened stays: it holds a lock on the manifest of each, of the last `HELD` at least.
"""

import fcntl
import hashlib
import os
import threading
from contextlib import suppress
from pathlib import Path

from montessori.artifacts.folder import Folder, locked
from montessori.artifacts.store import MANIFEST, Manifest, encoded
from montessori.errors import ArtifactError, InputError

LIMIT_GB = 50.0
HELD = 200  # each takes a file handle
SLACK = 0.05  # of the limit, that one process may go beyond it before it looks again


class Cache(Folder):
    """A local store of copies."""

    def __init__(self, of: str):
        """`of` tells the distant store from others."""
        self._room = _room()
        super().__init__(self._room / hashlib.sha256(of.encode()).hexdigest()[:12])
        self._limit = _limit_bytes()
        self._free = 0.0  # bytes to go until the sizes are added up again
        self._held: dict[str, int] = {}  # a handle with a lock on each artifact in use
        self._lock = threading.RLock()

    def check_writable(self) -> None:
        """Create the folder and try a write; InputError otherwise."""
        try:
            super().check_writable()
        except InputError as error:
            raise InputError(f"MONTESSORI_CACHE = {self._room}: {str(error).rpartition(': ')[2]}") from None

    def get(self, address: str) -> Path | None:
        """The folder of a copy that is there and unspoilt, held for this process; or None."""
        if not self._hold(address):
            return None
        try:
            folder = super().open(address)
            os.utime(folder)  # used now
        except (FileNotFoundError, ArtifactError):
            self._drop(address)
            return None
        return folder

    def put(self, address: str, folder: Path, manifest: Manifest) -> Path:
        """Keep the checked files of `folder`, which `staging` gave, and hold them; or what another has put."""
        (folder / MANIFEST).write_bytes(encoded(manifest))
        handle = _shared(folder / MANIFEST)  # before it can be seen, so that nobody makes room of it
        while True:
            with suppress(ArtifactError):  # files without a manifest are in the way
                if self.place(address, folder, manifest):
                    self._keep(address, handle)
                    self._make_room(sum(file["bytes"] for file in manifest["files"].values()))
                    return self._folder(address)
                if (found := self.get(address)) is not None:
                    os.close(handle)
                    return found
                continue
            self.delete(address)

    def _hold(self, address: str) -> bool:
        """Take a lock on the copy; False when there is none."""
        path = self._folder(address) / MANIFEST
        with self._lock:
            if address in self._held and _is(path, self._held[address]):
                self._keep(address, self._held.pop(address))  # the youngest now
                return True
            while True:
                try:
                    handle = _shared(path)
                except FileNotFoundError:
                    return False
                if _is(path, handle):
                    self._keep(address, handle)
                    return True
                os.close(handle)  # it went while one waited for the lock

    def _keep(self, address: str, handle: int) -> None:
        with self._lock:
            self._let_go(address)
            self._held[address] = handle
            if len(self._held) > HELD:
                self._let_go(next(iter(self._held)))

    def _let_go(self, address: str) -> None:
        if (handle := self._held.pop(address, None)) is not None:
            os.close(handle)

    def _drop(self, address: str) -> None:
        """Delete the copy that is held, unless another process has put a better one in its place already."""
        with self._lock:
            if address in self._held and _is(self._folder(address) / MANIFEST, self._held[address]):
                self.delete(address)
            self._let_go(address)

    def _make_room(self, added: int) -> None:
        """Delete what was used longest ago, until the rest is within the limit."""
        self._free -= added
        if self._free > 0:
            return
        copies = []
        for address in self.addresses():
            with suppress(FileNotFoundError):  # somebody else makes room
                copies.append(((self.root / address).stat().st_mtime, _bytes(self.root / address), address))
        total = sum(size for _, size, _ in copies)
        for _, size, address in sorted(copies):
            if total <= self._limit:
                break
            with suppress(OSError), locked(self.root / address / MANIFEST, fcntl.LOCK_EX | fcntl.LOCK_NB):
                self.delete(address)
                total -= size
        self._free = min(self._limit - total, SLACK * self._limit)


def _shared(path: Path) -> int:
    handle = os.open(path, os.O_RDONLY)
    fcntl.flock(handle, fcntl.LOCK_SH)
    return handle


def _is(path: Path, handle: int) -> bool:
    """Whether `path` still is what was opened."""
    with suppress(FileNotFoundError):
        return os.path.samestat(path.stat(), os.fstat(handle))
    return False


def _bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _room() -> Path:
    try:
        return Path(os.environ.get("MONTESSORI_CACHE") or "~/.cache/montessori").expanduser()
    except RuntimeError:
        raise InputError("MONTESSORI_CACHE must name a folder: this user has no home") from None


def _limit_bytes() -> float:
    given = os.environ.get("MONTESSORI_CACHE_GB", str(LIMIT_GB))
    try:
        limit = float(given)
    except ValueError:
        limit = -1
    if limit < 0:
        raise InputError(f"MONTESSORI_CACHE_GB = {given}: expected a number of gigabytes")
    return limit * 1e9
