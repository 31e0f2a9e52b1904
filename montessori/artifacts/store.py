"""The store: a local folder of artifacts, each committed whole by one rename.

    <root>/<stage>/<fingerprint>/manifest.json + files

Files are written in `<root>/.staging/<unique>/` and moved into place with the manifest already among them; a rename
onto an existing artifact fails, so of two writers one wins and the other throws its copy away. Hence an artifact is
either there with all its files or not at all. Every file's SHA-256 is in the manifest and is checked on opening.
"""

import errno
import fcntl
import getpass
import hashlib
import json
import os
import shutil
import socket
import time
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

from montessori.artifacts.journal import Journal
from montessori.errors import ArtifactError, InputError

MANIFEST = "manifest.json"
JOURNALS = ".journals"


class Store:
    """The artifacts under one folder."""

    def __init__(self, root: str | Path):
        if "://" in str(root):
            raise InputError(f"store = {root}: only a local folder is supported, for example store: ./store")
        self.root = Path(root).resolve()

    def check_writable(self) -> None:
        """Create the folder and try a write; InputError otherwise. Sweeps what killed runs left half-written."""
        try:
            with self.staging():
                pass
        except OSError as error:
            raise InputError(f"store = {self.root}: cannot be written ({error.strerror})") from None
        self._sweep()

    def exists(self, address: str) -> bool:
        """Whether the artifact has been committed. Raises ArtifactError when one of its files is gone since."""
        if not (self.root / address / MANIFEST).is_file():
            return False
        for name in self.manifest(address)["files"]:
            if not (self.root / address / name).is_file():
                raise ArtifactError(_spoilt(self.root / address / name, self.root / address))
        return True

    def manifest(self, address: str) -> dict[str, Any]:
        """The committed manifest. Raises ArtifactError when there is none."""
        return _manifest(self.root / address)

    def open(self, address: str) -> Path:
        """The artifact's folder, every file checked against the manifest (once per process)."""
        return _verified(self.root / address)

    @contextmanager
    def staging(self) -> Iterator[Path]:
        """An empty folder to write an artifact's files in; removed afterwards unless committed."""
        room = self.root / ".staging"
        room.mkdir(parents=True, exist_ok=True)
        folder = room / uuid.uuid4().hex
        with ExitStack() as held:
            with _locked(room, fcntl.LOCK_SH):  # no sweep comes between the folder and its lock
                folder.mkdir()
                held.enter_context(_locked(folder, fcntl.LOCK_EX))  # while the writer lives, so that a sweep knows
            try:
                yield folder
            finally:
                shutil.rmtree(folder, ignore_errors=True)

    @contextmanager
    def journal(self, address: str) -> Iterator["Journal"]:
        """What has been recorded towards the artifact at `address`, for one writer at a time: a second one waits."""
        folder = self._journal(address)
        folder.mkdir(parents=True, exist_ok=True)
        with _locked(folder, fcntl.LOCK_EX), closing(Journal(folder)) as journal:
            yield journal

    def usage(self, address: str) -> dict[str, float]:
        """What the artifact at `address` has used: all, once it is made, or so far, from its journal."""
        if (self.root / address / MANIFEST).is_file():
            manifest = self.manifest(address)
            used = manifest["summary"].get("usage", {})
            return {**used, "seconds": max(manifest["seconds"], used.get("seconds", 0))}  # or of all attempts
        return Journal(self._journal(address)).usage()

    def commit(self, address: str, folder: Path, about: dict[str, Any]) -> bool:
        """Move the files of `folder` to `address` with a manifest that also holds `about`.

        Returns False when somebody else has committed it first; the result there is as good as ours.
        """
        files = {
            str(path.relative_to(folder)): {"bytes": path.stat().st_size, "sha256": sha256(path)}
            for path in sorted(folder.rglob("*"))
            if path.is_file()
        }
        who = {
            "user": _user(),
            "host": socket.gethostname(),
            "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        }
        manifest = {"address": address, **about, "made_by": who, "files": files}
        (folder / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
        _sync(folder)
        target = self.root / address
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            folder.rename(target)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
            if not self.exists(address):
                raise ArtifactError(f"{target} has files but no {MANIFEST}; delete it to have it made again") from None
            return False
        _sync(target.parent, deep=False)
        shutil.rmtree(self._journal(address), ignore_errors=True)
        return True

    def _journal(self, address: str) -> Path:
        return self.root / JOURNALS / address.replace("/", "+")

    def _sweep(self) -> None:
        for journal in (self.root / JOURNALS).glob("*"):
            if (self.root / journal.name.replace("+", "/") / MANIFEST).is_file():
                shutil.rmtree(journal, ignore_errors=True)  # killed between the two
        room = self.root / ".staging"
        with _locked(room, fcntl.LOCK_EX):
            for folder in room.iterdir():
                with suppress(OSError), _locked(folder, fcntl.LOCK_EX | fcntl.LOCK_NB):
                    shutil.rmtree(folder, ignore_errors=True)


def sha256(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@cache
def _verified(folder: Path) -> Path:
    for name, file in _manifest(folder)["files"].items():
        path = folder / name
        if not path.is_file() or path.stat().st_size != file["bytes"] or sha256(path) != file["sha256"]:
            raise ArtifactError(_spoilt(path, folder))
    return folder


def _manifest(folder: Path) -> dict[str, Any]:
    path = folder / MANIFEST
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ArtifactError(f"{folder.parent.name}/{folder.name} is not in the store {folder.parents[1]}") from None
    except ValueError:
        raise ArtifactError(f"{path} is not JSON; delete {folder} to have it made again") from None
    return found


@contextmanager
def _locked(folder: Path, how: int) -> Iterator[None]:
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, how)
        yield
    finally:
        os.close(handle)


def _spoilt(path: Path, folder: Path) -> str:
    return f"{path} is missing or differs from what was committed; delete {folder} to have it made again"


def _sync(folder: Path, deep: bool = True) -> None:
    for path in [*(folder.rglob("*") if deep else ()), folder]:
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container may run under a number without a name
        return str(os.getuid())
