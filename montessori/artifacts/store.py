"""The interface of a store: artifacts, each whole with its manifest or not there, and a few small documents.

    <stage>/<fingerprint>/manifest.json + files

A task writes its files into a `staging` folder and commits them. Of two writers of one artifact one wins. The
manifest holds the SHA-256 of every file, which is checked when the artifact is opened. `folder` keeps artifacts on
this machine, `bucket` in S3-compatible storage. `open_store` chooses by the address.
"""

import getpass
import hashlib
import json
import os
import re
import socket
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, NamedTuple

from montessori.artifacts.journal import Journal
from montessori.errors import ArtifactError

MANIFEST = "manifest.json"
JOURNALS = ".journals"
ADDRESS = re.compile(r"[a-z][a-z0-9-]*/[A-Za-z0-9][A-Za-z0-9._-]*")

Manifest = dict[str, Any]


class Unfinished(NamedTuple):
    """The journal of an artifact that is not committed yet."""

    address: str
    bytes: int
    written: float  # when last, in seconds since 1970


class Store(ABC):
    """The artifacts and documents under one address."""

    uri: str  # what `open_store` takes, on this machine or another
    logs: Path  # a folder of this machine for the logs of stages

    @abstractmethod
    def check_readable(self) -> None:
        """Raise InputError, beginning with `store = `, when nothing can be read. Changes nothing."""

    @abstractmethod
    def check_writable(self) -> None:
        """Raise InputError, beginning with `store = `, when nothing can be written.

        Creates the folder if it is missing, and removes the unfinished files of killed runs.
        """

    @abstractmethod
    def exists(self, address: str) -> bool:
        """Tell whether the artifact has been committed."""

    @abstractmethod
    def manifest(self, address: str) -> Manifest:
        """Return the committed manifest. Raises ArtifactError when it is missing or spoilt."""

    @abstractmethod
    def open(self, address: str) -> Path:
        """Return a folder on this machine with the artifact's files.

        Each file is checked against the manifest once per process. Raises ArtifactError when one is missing or differs.
        """

    @abstractmethod
    def staging(self) -> AbstractContextManager[Path]:
        """Yield an empty folder for an artifact's files. It is removed afterwards unless committed."""

    @abstractmethod
    def commit(self, address: str, folder: Path, about: Manifest) -> bool:
        """Make the files of `folder` the artifact at `address`, with a manifest that also holds `about`.

        Returns False when another writer has committed the artifact first. Its files are as good as these.
        """

    @abstractmethod
    def addresses(self, stage: str = "") -> Iterator[str]:
        """Yield the addresses of all committed artifacts, or of those of one stage, sorted."""

    @abstractmethod
    def delete(self, address: str) -> None:
        """Remove an artifact. Readers lose it whole and at once, and its files are deleted after that."""

    @abstractmethod
    def sweep(self, older_than_s: float, dry: bool = False) -> int:
        """Remove the unfinished files that killed writers left at least `older_than_s` seconds ago.

        With `dry`, only count them. Returns the number of bytes.
        """

    @abstractmethod
    def journal(self, address: str) -> AbstractContextManager[Journal]:
        """Open the journal of the artifact at `address`, to read and to extend."""

    @abstractmethod
    def journals(self) -> Iterator[Unfinished]:
        """Yield all journals."""

    @abstractmethod
    def drop_journal(self, address: str) -> None:
        """Remove the journal of `address`, unless a process on this machine has it open."""

    @abstractmethod
    def hash_file(self, address: str, manifest: Manifest, name: str, on_bytes: Callable[[int], None]) -> str:
        """Return the SHA-256 of one file where it is kept, not of a copy.

        `on_bytes` is called with the number of bytes of each chunk. Raises FileNotFoundError when the file is missing.
        """

    @abstractmethod
    def _journaled_usage(self, address: str) -> dict[str, float]:
        """Return the usage so far towards the artifact at `address`."""

    @abstractmethod
    def read(self, name: str) -> bytes | None:
        """Return the document `name`, or None. A name begins with a dot, as in `.champions/0001.json`."""

    @abstractmethod
    def write(self, name: str, content: bytes) -> None:
        """Make `content` the document `name`, whole, in place of an earlier one."""

    @abstractmethod
    def create(self, name: str, content: bytes) -> bool:
        """Make `content` the document `name`, unless there is one. Then return False.

        Of two writers at the same time one succeeds.
        """

    @abstractmethod
    def remove(self, name: str) -> None:
        """Remove the document `name`, if there is one."""

    @abstractmethod
    def names(self, prefix: str) -> list[str]:
        """Return the names of the documents that begin with `prefix`, at least a folder (`.champions/`), sorted."""

    def locate(self, address: str) -> str:
        """Return the place of an artifact, for display."""
        return f"{self.uri.partition('?')[0].rstrip('/')}/{address}"

    def usage(self, address: str) -> dict[str, float]:
        """Return the usage of the artifact at `address`: all of it, or the usage so far from its journal."""
        if self.exists(address):
            manifest = self.manifest(address)
            used = manifest["summary"].get("usage", {})
            return {**used, "seconds": max(manifest["seconds"], used.get("seconds", 0))}  # or the time of all attempts
        return self._journaled_usage(address)

    def manifests(self, stage: str = "") -> Iterator[Manifest]:
        """Yield the manifests of all artifacts, or of those of one stage. Deleted and spoilt ones are left out."""
        for address in self.addresses(stage):
            try:
                yield self.manifest(address)
            except ArtifactError:
                continue


def build_manifest(address: str, folder: Path, about: Manifest) -> Manifest:
    """Return the manifest of the files in `folder`. Raises ArtifactError for a name that cannot be stored."""
    paths = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
    for name in paths:
        if _escapes(name):
            raise ArtifactError(f"{address}: a file cannot be called {name!r} in the store; give it another name")
    files = {name: {"bytes": path.stat().st_size, "sha256": sha256(path)} for name, path in paths.items()}
    return {"address": address, **about, "made_by": signature(), "files": files}


def signature() -> dict[str, str]:
    """Return the user, host and time of a write."""
    return {
        "user": _user(),
        "host": socket.gethostname(),
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def encode_manifest(manifest: Manifest) -> bytes:
    """Return a manifest as bytes to store."""
    return (json.dumps(manifest, indent=1) + "\n").encode()


def decode_manifest(text: bytes, where: str, mend: str) -> Manifest:
    """Return a stored manifest.

    Raises ArtifactError when it is not a manifest, or when the name of a file would leave its folder.
    """
    try:
        manifest: Manifest = json.loads(text)
        files = [(str(name), int(file["bytes"]), str(file["sha256"])) for name, file in manifest["files"].items()]
    except (ValueError, KeyError, TypeError, AttributeError):
        raise ArtifactError(f"{where} is not JSON with a list of files; {mend}") from None
    for name, *_ in files:
        if _escapes(name):
            raise ArtifactError(f"{where} names a file outside of its folder, {name!r}; {mend}")
    return manifest


def _escapes(name: str) -> bool:
    """Tell whether the file `name` would leave the artifact's folder, here or on another system."""
    parts = name.split("/")
    return name == MANIFEST or "\\" in name or "\0" in name or any(part in ("", ".", "..") for part in parts)


def check_address(address: str) -> str:
    """Return `address`. Raises ArtifactError when no artifact can have it."""
    if not ADDRESS.fullmatch(address) or ".." in address:
        raise ArtifactError(f"{address!r} is no artifact's address, which looks like influence/3f2a…")
    return address


def find_damage(store: Store, address: str, on_bytes: Callable[[int], None] = lambda _: None) -> str | None:
    """Return what is wrong with the artifact at `address`, or None.

    Reads every byte where it is kept, not a copy. `on_bytes` is called with the number of bytes of each chunk.
    """
    try:
        manifest = store.manifest(address)
        if manifest["address"] != address:
            return f"its manifest is that of {manifest['address']}"
        faults = []
        for name, file in manifest["files"].items():
            try:
                if store.hash_file(address, manifest, name, on_bytes) != file["sha256"]:
                    faults.append(f"{name} differs from what was committed")
            except FileNotFoundError:
                faults.append(f"{name} is missing")
            except OSError as error:
                faults.append(f"{name} cannot be read ({error.strerror})")
    except ArtifactError as error:
        return str(error)
    except (KeyError, TypeError):
        return "its manifest lacks what every manifest has"
    return "; ".join(faults) or None


def find_spoilt(folder: Path, files: dict[str, Any]) -> str | None:
    """Return the first of `files` that is missing in `folder` or differs in size or hash, or None."""
    for name, file in files.items():
        path = folder / name
        if not path.is_file() or path.stat().st_size != file["bytes"] or sha256(path) != file["sha256"]:
            return name
    return None


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_of_chunks(chunks: Iterable[bytes], on_bytes: Callable[[int], None]) -> str:
    """Return the SHA-256 of `chunks`, one after the other.

    When they break off, `on_bytes` is called with minus the number of bytes so far.
    """
    digest, read = hashlib.sha256(), 0
    try:
        for chunk in chunks:
            digest.update(chunk)
            read += len(chunk)
            on_bytes(len(chunk))
    except BaseException:
        on_bytes(-read)
        raise
    return digest.hexdigest()


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container may run under a number without a name
        return str(os.getuid())
