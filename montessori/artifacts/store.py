"""The store: artifacts, each there whole with its manifest or not at all, and a few small documents beside them.

    <stage>/<fingerprint>/manifest.json + files

A stage writes its files into a `staging` folder and commits them; of two writers of one artifact one wins. Every
file's SHA-256 is in the manifest and is checked when the artifact is opened. `folder` keeps artifacts on this machine,
`bucket` in S3-compatible storage; `open_store` takes the one that the address names.
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
    """The journal of an artifact that is not there yet."""

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
        """The same for writing; makes what is missing, sweeps what killed runs left half-written."""

    @abstractmethod
    def exists(self, address: str) -> bool:
        """Whether the artifact has been committed."""

    @abstractmethod
    def manifest(self, address: str) -> Manifest:
        """The committed manifest. Raises ArtifactError when there is none, or it is spoilt."""

    @abstractmethod
    def open(self, address: str) -> Path:
        """A folder on this machine with the artifact's files, each checked against the manifest (once per process)."""

    @abstractmethod
    def staging(self) -> AbstractContextManager[Path]:
        """An empty folder to write an artifact's files in; removed afterwards unless committed."""

    @abstractmethod
    def commit(self, address: str, folder: Path, about: Manifest) -> bool:
        """Make the files of `folder` the artifact at `address`, with a manifest that also holds `about`.

        Returns False when somebody else has committed it first; the result there is as good as ours.
        """

    @abstractmethod
    def addresses(self, stage: str = "") -> Iterator[str]:
        """All committed artifacts, or those of one stage, sorted."""

    @abstractmethod
    def delete(self, address: str) -> None:
        """Remove an artifact: for readers at once and whole, from the disk after that."""

    @abstractmethod
    def sweep(self, older_than_s: float, dry: bool = False) -> int:
        """Remove (or, `dry`, only count) what writers left half-written that long ago; how many bytes."""

    @abstractmethod
    def journal(self, address: str) -> AbstractContextManager[Journal]:
        """What has been recorded towards the artifact at `address`, to go on with."""

    @abstractmethod
    def journals(self) -> Iterator[Unfinished]:
        """All journals that are there."""

    @abstractmethod
    def drop_journal(self, address: str) -> None:
        """Remove the journal of `address`, unless somebody has it open on this machine."""

    @abstractmethod
    def hashed(self, address: str, manifest: Manifest, name: str, on_bytes: Callable[[int], None]) -> str:
        """The SHA-256 of one file where it is kept, not of a copy; tells `on_bytes` how many it has read.

        Raises FileNotFoundError when the file is not there.
        """

    @abstractmethod
    def _journaled_usage(self, address: str) -> dict[str, float]:
        """What was used so far towards the artifact at `address`."""

    @abstractmethod
    def read(self, name: str) -> bytes | None:
        """The document `name` (which begins with a dot, as in `.champions/0001.json`), or None."""

    @abstractmethod
    def write(self, name: str, content: bytes) -> None:
        """Make `content` the document `name`, whole, in place of what is there."""

    @abstractmethod
    def create(self, name: str, content: bytes) -> bool:
        """The same, unless there is one: then False, and nothing changes. Of two who try one succeeds."""

    @abstractmethod
    def remove(self, name: str) -> None:
        """Remove the document `name`, if there is one."""

    @abstractmethod
    def names(self, prefix: str) -> list[str]:
        """The documents whose names begin with `prefix`, which names a folder at least (`.champions/`), sorted."""

    def locate(self, address: str) -> str:
        """Where people find an artifact."""
        return f"{self.uri.partition('?')[0].rstrip('/')}/{address}"

    def usage(self, address: str) -> dict[str, float]:
        """What the artifact at `address` has used: all, once it is made, or so far, from its journal."""
        if self.exists(address):
            manifest = self.manifest(address)
            used = manifest["summary"].get("usage", {})
            return {**used, "seconds": max(manifest["seconds"], used.get("seconds", 0))}  # or of all attempts
        return self._journaled_usage(address)

    def manifests(self, stage: str = "") -> Iterator[Manifest]:
        """The manifests of all artifacts, or of those of one stage; without those deleted just now, or spoilt."""
        for address in self.addresses(stage):
            try:
                yield self.manifest(address)
            except ArtifactError:
                continue


def described(address: str, folder: Path, about: Manifest) -> Manifest:
    """The manifest of the files in `folder`."""
    paths = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
    for name in paths:
        if _escapes(name):
            raise ArtifactError(f"{address}: a file cannot be called {name!r} in the store; give it another name")
    files = {name: {"bytes": path.stat().st_size, "sha256": sha256(path)} for name, path in paths.items()}
    return {"address": address, **about, "made_by": signature(), "files": files}


def signature() -> dict[str, str]:
    """Who writes here, and when: user, host, time."""
    return {
        "user": _user(),
        "host": socket.gethostname(),
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def encoded(manifest: Manifest) -> bytes:
    """A manifest as it is stored."""
    return (json.dumps(manifest, indent=1) + "\n").encode()


def decoded(text: bytes, where: str, mend: str) -> Manifest:
    """A stored manifest. Raises ArtifactError when it is none, or when a file's name would leave its folder."""
    try:
        found: Manifest = json.loads(text)
        files = [(str(name), int(file["bytes"]), str(file["sha256"])) for name, file in found["files"].items()]
    except (ValueError, KeyError, TypeError, AttributeError):
        raise ArtifactError(f"{where} is not JSON with a list of files; {mend}") from None
    for name, *_ in files:
        if _escapes(name):
            raise ArtifactError(f"{where} names a file outside of its folder, {name!r}; {mend}")
    return found


def _escapes(name: str) -> bool:
    """Whether the file `name` would not be one of an artifact's own, here or on a machine of another kind."""
    parts = name.split("/")
    return name == MANIFEST or "\\" in name or "\0" in name or any(part in ("", ".", "..") for part in parts)


def checked(address: str) -> str:
    """`address`, when it is one that an artifact can have."""
    if not ADDRESS.fullmatch(address) or ".." in address:
        raise ArtifactError(f"{address!r} is no artifact's address, which looks like influence/3f2a…")
    return address


def spoilt(folder: Path, files: dict[str, Any]) -> str | None:
    """The first of `files` that is missing in `folder` or differs from its size and hash, or None."""
    for name, file in files.items():
        path = folder / name
        if not path.is_file() or path.stat().st_size != file["bytes"] or sha256(path) != file["sha256"]:
            return name
    return None


def sha256(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_of(chunks: Iterable[bytes], on_bytes: Callable[[int], None]) -> str:
    """The SHA-256 of `chunks` one after the other; takes back what it told `on_bytes` when they break off."""
    found, read = hashlib.sha256(), 0
    try:
        for chunk in chunks:
            found.update(chunk)
            read += len(chunk)
            on_bytes(len(chunk))
    except BaseException:
        on_bytes(-read)
        raise
    return found.hexdigest()


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container may run under a number without a name
        return str(os.getuid())
