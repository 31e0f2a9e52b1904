"""The store in a local folder: an artifact is committed by one rename.

    <root>/<stage>/<fingerprint>/manifest.json + files

Files are written in `<root>/.staging/<unique>/` and moved into place with the manifest already among them; a rename
onto an existing artifact fails, so of two writers one wins and the other throws its copy away.
"""

import errno
import fcntl
import os
import shutil
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from functools import partial
from pathlib import Path

from montessori.artifacts.journal import FileJournal, Journal
from montessori.artifacts.store import (
    JOURNALS,
    MANIFEST,
    Manifest,
    Store,
    Unfinished,
    checked,
    decoded,
    described,
    encoded,
    sha256_of,
    spoilt,
)
from montessori.errors import ArtifactError, InputError

CHUNK = 1 << 20


class Folder(Store):
    """The artifacts under one folder."""

    def __init__(self, root: str | Path):
        self.root = Path(root).resolve()
        self.uri, self.logs = str(self.root), self.root / "logs"

    def check_readable(self) -> None:
        """InputError for a file. A folder that is not there yet has nothing to read."""
        if self.root.is_file():
            raise InputError(f"store = {self.root}: a file; expected a folder, for example ./store")

    def check_writable(self) -> None:
        """Create the folder and try a write; InputError otherwise. Sweeps what killed runs left half-written."""
        try:
            with self.staging():
                pass
        except OSError as error:
            raise InputError(f"store = {self.root}: cannot be written ({error.strerror})") from None
        self.sweep(0)

    def exists(self, address: str) -> bool:
        """Whether the artifact has been committed. Raises ArtifactError when one of its files is gone since."""
        folder = self._folder(address)
        if not (folder / MANIFEST).is_file():
            return False
        for name in self.manifest(address)["files"]:
            if not (folder / name).is_file():
                raise ArtifactError(_spoilt(folder / name, folder))
        return True

    def manifest(self, address: str) -> Manifest:
        """The committed manifest. Raises ArtifactError when there is none."""
        return _manifest(self._folder(address))

    def open(self, address: str) -> Path:
        """The artifact's own folder."""
        folder = self._folder(address)
        if folder not in _UNSPOILT:
            if (name := spoilt(folder, _manifest(folder)["files"])) is not None:
                raise ArtifactError(_spoilt(folder / name, folder))
            _UNSPOILT.add(folder)
        return folder

    @contextmanager
    def staging(self) -> Iterator[Path]:
        """An empty folder to write an artifact's files in; removed afterwards unless committed."""
        room = self.root / ".staging"
        room.mkdir(parents=True, exist_ok=True)
        folder = room / uuid.uuid4().hex
        with ExitStack() as held:
            with locked(room, fcntl.LOCK_SH):  # no sweep comes between the folder and its lock
                folder.mkdir()
                held.enter_context(locked(folder, fcntl.LOCK_EX))  # while the writer lives, so that a sweep knows
            try:
                yield folder
            finally:
                shutil.rmtree(folder, ignore_errors=True)

    def commit(self, address: str, folder: Path, about: Manifest) -> bool:
        """Move the files of `folder`, which `staging` gave, into place."""
        committed = self.place(address, folder, described(address, folder, about))
        if committed:
            shutil.rmtree(self._journal(address), ignore_errors=True)
        return committed

    def place(self, address: str, folder: Path, manifest: Manifest) -> bool:
        """Make `folder`, with `manifest` in it, the artifact at `address`; False when there is one."""
        (folder / MANIFEST).write_bytes(encoded(manifest))
        _sync(folder)
        target = self._folder(address)
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
        return True

    def addresses(self, stage: str = "") -> Iterator[str]:
        """All committed artifacts, or those of one stage, sorted."""
        for path in sorted(self.root.glob(f"{stage or '[!.]*'}/*/{MANIFEST}")):
            yield str(path.parent.relative_to(self.root))

    def delete(self, address: str) -> None:
        """Remove an artifact; readers that have it open keep what they have mapped."""
        _UNSPOILT.discard(self._folder(address))
        with self.staging() as grave, suppress(FileNotFoundError):
            self._folder(address).rename(grave / "deleted")

    @contextmanager
    def journal(self, address: str) -> Iterator[Journal]:
        """The journal of `address`, for one writer at a time: a second one waits."""
        folder = self._journal(address)
        folder.mkdir(parents=True, exist_ok=True)
        with locked(folder, fcntl.LOCK_EX), closing(FileJournal(folder)) as journal:
            yield journal

    def journals(self) -> Iterator[Unfinished]:
        """All journals that are there."""
        for folder in (self.root / JOURNALS).glob("*"):
            with suppress(FileNotFoundError):  # committed just now
                written = max(path.stat().st_mtime for path in (folder, *folder.iterdir()))
                yield Unfinished(folder.name.replace("+", "/"), _bytes(folder), written)

    def drop_journal(self, address: str) -> None:
        """Remove the journal of `address`, unless somebody writes it."""
        folder = self._journal(address)
        with suppress(OSError), locked(folder, fcntl.LOCK_EX | fcntl.LOCK_NB):
            shutil.rmtree(folder)

    def hashed(self, address: str, manifest: Manifest, name: str, on_bytes: Callable[[int], None]) -> str:  # noqa: ARG002
        """The SHA-256 of one file; tells `on_bytes` how many it has read."""
        with (self._folder(address) / name).open("rb") as file:
            return sha256_of(iter(partial(file.read, CHUNK), b""), on_bytes)

    def read(self, name: str) -> bytes | None:
        """The document `name`, or None."""
        try:
            return (self.root / name).read_bytes()
        except FileNotFoundError:
            return None

    def write(self, name: str, content: bytes) -> None:
        """Replace the document by a rename."""
        target = self._document(name)
        with self.staging() as folder:
            (folder / "new").write_bytes(content)
            _sync(folder)
            (folder / "new").replace(target)

    def create(self, name: str, content: bytes) -> bool:
        """Link a finished file to the name, which fails where there is one."""
        target = self._document(name)
        with self.staging() as folder:
            (folder / "new").write_bytes(content)
            _sync(folder)
            try:
                target.hardlink_to(folder / "new")
            except FileExistsError:
                return False
        _sync(target.parent, deep=False)
        return True

    def remove(self, name: str) -> None:
        """Remove the document `name`, if there is one."""
        self._document(name).unlink(missing_ok=True)

    def names(self, prefix: str) -> list[str]:
        """The documents whose names begin with `prefix`, sorted."""
        assert prefix.startswith(".") and "/" in prefix, prefix  # others come and go in .staging while one looks
        below = self.root / prefix.rpartition("/")[0]
        found = (str(path.relative_to(self.root)) for path in below.glob("**/*") if path.is_file())
        return sorted(name for name in found if name.startswith(prefix))

    def sweep(self, older_than_s: float, dry: bool = False) -> int:  # noqa: ARG002
        """Remove what killed writers left: their lock has gone with them, so their age does not matter."""
        room = self.root / ".staging"
        room.mkdir(parents=True, exist_ok=True)
        left = [
            journal
            for journal in (self.root / JOURNALS).glob("*")
            if (self.root / journal.name.replace("+", "/") / MANIFEST).is_file()  # killed between the two
        ]
        freed = sum(_bytes(journal) for journal in left)
        for journal in left if not dry else ():
            shutil.rmtree(journal, ignore_errors=True)
        with locked(room, fcntl.LOCK_EX):
            for folder in room.iterdir():
                with suppress(OSError), locked(folder, fcntl.LOCK_EX | fcntl.LOCK_NB):
                    freed += _bytes(folder)
                    if not dry:
                        shutil.rmtree(folder, ignore_errors=True)
        return freed

    def _journaled_usage(self, address: str) -> dict[str, float]:
        return FileJournal(self._journal(address)).usage()

    def _document(self, name: str) -> Path:
        assert name.startswith(".") and ".." not in name, name
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def _folder(self, address: str) -> Path:
        return self.root / checked(address)

    def _journal(self, address: str) -> Path:
        return self.root / JOURNALS / address.replace("/", "+")


_UNSPOILT: set[Path] = set()  # the folders that this process has checked


def _manifest(folder: Path) -> Manifest:
    path = folder / MANIFEST
    try:
        text = path.read_bytes()
    except FileNotFoundError:
        raise ArtifactError(f"{folder.parent.name}/{folder.name} is not in the store {folder.parents[1]}") from None
    return decoded(text, str(path), f"delete {folder} to have it made again")


@contextmanager
def locked(path: Path, how: int) -> Iterator[None]:
    """Hold a lock on `path` inside the block. Raises OSError where `how` says not to wait."""
    handle = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(handle, how)
        yield
    finally:
        os.close(handle)


def _bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _spoilt(path: Path, folder: Path) -> str:
    return f"{path} is missing or differs from what was committed; delete {folder} to have it made again"


def _sync(folder: Path, deep: bool = True) -> None:
    for path in [*(folder.rglob("*") if deep else ()), folder]:
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
