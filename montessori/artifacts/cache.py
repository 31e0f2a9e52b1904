"""Keep artifacts of a remote store on this machine, whole and checked, up to a size limit.

    MONTESSORI_CACHE      the folder (default: ~/.cache/montessori)
    MONTESSORI_CACHE_GB   most gigabytes for one store (default: 50); the least recently used artifact goes first

A running process keeps its open artifacts. It holds a lock on the manifest of each of the last `HELD`.
"""

import fcntl
import hashlib
import os
import threading
from contextlib import suppress
from pathlib import Path

from montessori.artifacts.folder import Folder, locked
from montessori.artifacts.store import MANIFEST, Manifest, encode_manifest
from montessori.errors import ArtifactError, InputError

LIMIT_GB = 50.0
HELD = 200  # each takes a file handle
SLACK = 0.05  # share of the limit that a process may exceed before it adds up the sizes again


class Cache(Folder):
    """A local folder of copies of a remote store's artifacts."""

    def __init__(self, of: str):
        """Open the cache of the remote store `of`."""
        self._cache_folder = _cache_folder()
        super().__init__(self._cache_folder / hashlib.sha256(of.encode()).hexdigest()[:12])
        self._limit = _limit_bytes()
        self._free = 0.0  # bytes left until the sizes are added up again
        self._held: dict[str, int] = {}  # a handle with a lock on each artifact in use
        self._lock = threading.RLock()

    def check_writable(self) -> None:
        """Create the folder and try a write. Raises InputError otherwise."""
        try:
            super().check_writable()
        except InputError as error:
            raise InputError(f"MONTESSORI_CACHE = {self._cache_folder}: {str(error).rpartition(': ')[2]}") from None

    def get(self, address: str) -> Path | None:
        """Return the folder of a copy that is there and unspoilt, and hold it for this process, or None."""
        if not self._hold(address):
            return None
        try:
            folder = super().open(address)
            os.utime(folder)  # marks it as just used
        except (FileNotFoundError, ArtifactError):
            self._drop(address)
            return None
        return folder

    def put(self, address: str, folder: Path, manifest: Manifest) -> Path:
        """Move the checked files of `folder`, a folder of `staging`, into the cache, and hold them.

        Returns the folder of the copy. It may be another process's, which came first.
        """
        (folder / MANIFEST).write_bytes(encode_manifest(manifest))
        handle = _lock_shared(folder / MANIFEST)  # before others see it, so that none of them deletes it
        while True:
            with suppress(ArtifactError):  # files without a manifest are in its place
                if self.place(address, folder, manifest):
                    self._keep(address, handle)
                    self._make_room(sum(file["bytes"] for file in manifest["files"].values()))
                    return self._folder(address)
                if (copy := self.get(address)) is not None:
                    os.close(handle)
                    return copy
                continue
            self.delete(address)

    def _hold(self, address: str) -> bool:
        """Take a lock on the copy. Returns False when there is none."""
        path = self._folder(address) / MANIFEST
        with self._lock:
            if address in self._held and _is_open_file(path, self._held[address]):
                self._keep(address, self._held.pop(address))  # now the most recently used
                return True
            while True:
                try:
                    handle = _lock_shared(path)
                except FileNotFoundError:
                    return False
                if _is_open_file(path, handle):
                    self._keep(address, handle)
                    return True
                os.close(handle)  # it was deleted during the wait for the lock

    def _keep(self, address: str, handle: int) -> None:
        with self._lock:
            self._release(address)
            self._held[address] = handle
            if len(self._held) > HELD:
                self._release(next(iter(self._held)))

    def _release(self, address: str) -> None:
        if (handle := self._held.pop(address, None)) is not None:
            os.close(handle)

    def _drop(self, address: str) -> None:
        """Delete the copy that is held, unless another process has already put a better one in its place."""
        with self._lock:
            if address in self._held and _is_open_file(self._folder(address) / MANIFEST, self._held[address]):
                self.delete(address)
            self._release(address)

    def _make_room(self, added: int) -> None:
        """Delete the least recently used copies until the rest is within the limit."""
        self._free -= added
        if self._free > 0:
            return
        copies = []
        for address in self.addresses():
            with suppress(FileNotFoundError):  # another process deleted it
                copies.append(((self.root / address).stat().st_mtime, _bytes(self.root / address), address))
        total = sum(size for _, size, _ in copies)
        for _, size, address in sorted(copies):
            if total <= self._limit:
                break
            with suppress(OSError), locked(self.root / address / MANIFEST, fcntl.LOCK_EX | fcntl.LOCK_NB):
                self.delete(address)
                total -= size
        self._free = min(self._limit - total, SLACK * self._limit)


def _lock_shared(path: Path) -> int:
    handle = os.open(path, os.O_RDONLY)
    fcntl.flock(handle, fcntl.LOCK_SH)
    return handle


def _is_open_file(path: Path, handle: int) -> bool:
    """Tell whether `path` still is the opened file."""
    with suppress(FileNotFoundError):
        return os.path.samestat(path.stat(), os.fstat(handle))
    return False


def _bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _cache_folder() -> Path:
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
