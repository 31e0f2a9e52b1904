"""A store in a local folder. One rename commits an artifact.

    <root>/<stage>/<fingerprint>/manifest.json + files

Files are written in `<root>/.staging/<unique>/` and moved into place together with the manifest. A rename onto an
existing artifact fails, so of two writers one wins and the other deletes its copy.
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
    build_manifest,
    check_address,
    decode_manifest,
    encode_manifest,
    find_spoilt,
    sha256_of_chunks,
)
from montessori.errors import ArtifactError, InputError

CHUNK = 1 << 20


class Folder(Store):
    """The store under one local folder."""

    def __init__(self, root: str | Path):
        self.root = Path(root).resolve()
        self.uri, self.logs = str(self.root), self.root / "logs"

    def check_readable(self) -> None:
        """Raise InputError when the root is a file. A folder that does not exist yet is empty."""
        if self.root.is_file():
            raise InputError(f"store = {self.root}: a file; expected a folder, for example ./store")

    def check_writable(self) -> None:
        """Create the folder, try a write, and remove the unfinished files of killed runs."""
        try:
            with self.staging():
                pass
        except OSError as error:
            raise InputError(f"store = {self.root}: cannot be written ({error.strerror})") from None
        self.sweep(0)

    def exists(self, address: str) -> bool:
        """Tell whether the artifact has been committed. Raises ArtifactError when one of its files is missing."""
        folder = self._folder(address)
        if not (folder / MANIFEST).is_file():
            return False
        for name in self.manifest(address)["files"]:
            if not (folder / name).is_file():
                raise ArtifactError(_spoilt_message(folder / name, folder))
        return True

    def manifest(self, address: str) -> Manifest:
        """Return the committed manifest. Raises ArtifactError when there is none."""
        return _manifest(self._folder(address))

    def open(self, address: str) -> Path:
        """Return the artifact's own folder, checked once per process."""
        folder = self._folder(address)
        if folder not in _CHECKED:
            if (name := find_spoilt(folder, _manifest(folder)["files"])) is not None:
                raise ArtifactError(_spoilt_message(folder / name, folder))
            _CHECKED.add(folder)
        return folder

    @contextmanager
    def staging(self) -> Iterator[Path]:
        """Yield an empty folder for an artifact's files. It is removed afterwards unless committed."""
        room = self.root / ".staging"
        room.mkdir(parents=True, exist_ok=True)
        folder = room / uuid.uuid4().hex
        with ExitStack() as held:
            with locked(room, fcntl.LOCK_SH):  # so that no sweep sees the folder before its lock
                folder.mkdir()
                held.enter_context(locked(folder, fcntl.LOCK_EX))  # as long as the writer lives, which a sweep checks
            try:
                yield folder
            finally:
                shutil.rmtree(folder, ignore_errors=True)

    def commit(self, address: str, folder: Path, about: Manifest) -> bool:
        """Move the files of `folder`, which `staging` returned, into place."""
        committed = self.place(address, folder, build_manifest(address, folder, about))
        if committed:
            shutil.rmtree(self._journal(address), ignore_errors=True)
        return committed

    def place(self, address: str, folder: Path, manifest: Manifest) -> bool:
        """Make `folder`, with `manifest` in it, the artifact at `address`. Returns False when there is one."""
        (folder / MANIFEST).write_bytes(encode_manifest(manifest))
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
        """Yield the addresses of all committed artifacts, or of those of one stage, sorted."""
        for path in sorted(self.root.glob(f"{stage or '[!.]*'}/*/{MANIFEST}")):
            yield str(path.parent.relative_to(self.root))

    def delete(self, address: str) -> None:
        """Remove an artifact. Readers with an open file keep it."""
        _CHECKED.discard(self._folder(address))
        with self.staging() as grave, suppress(FileNotFoundError):
            self._folder(address).rename(grave / "deleted")

    @contextmanager
    def journal(self, address: str) -> Iterator[Journal]:
        """Open the journal of `address` for one writer at a time. A second writer waits."""
        folder = self._journal(address)
        folder.mkdir(parents=True, exist_ok=True)
        with locked(folder, fcntl.LOCK_EX), closing(FileJournal(folder)) as journal:
            yield journal

    def journals(self) -> Iterator[Unfinished]:
        """Yield all journals."""
        for folder in (self.root / JOURNALS).glob("*"):
            with suppress(FileNotFoundError):  # committed just now
                written = max(path.stat().st_mtime for path in (folder, *folder.iterdir()))
                yield Unfinished(folder.name.replace("+", "/"), _bytes(folder), written)

    def drop_journal(self, address: str) -> None:
        """Remove the journal of `address`, unless a process has it open."""
        folder = self._journal(address)
        with suppress(OSError), locked(folder, fcntl.LOCK_EX | fcntl.LOCK_NB):
            shutil.rmtree(folder)

    def hash_file(self, address: str, manifest: Manifest, name: str, on_bytes: Callable[[int], None]) -> str:  # noqa: ARG002
        """Return the SHA-256 of one file. `on_bytes` is called with the number of bytes of each chunk."""
        with (self._folder(address) / name).open("rb") as file:
            return sha256_of_chunks(iter(partial(file.read, CHUNK), b""), on_bytes)

    def read(self, name: str) -> bytes | None:
        """Return the document `name`, or None."""
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
        """Link a complete file to the name. The link fails where there is one."""
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
        """Return the names of the documents that begin with `prefix`, sorted."""
        assert prefix.startswith(".") and "/" in prefix, prefix  # folders in .staging may vanish meanwhile
        below = self.root / prefix.rpartition("/")[0]
        names = (str(path.relative_to(self.root)) for path in below.glob("**/*") if path.is_file())
        return sorted(name for name in names if name.startswith(prefix))

    def sweep(self, older_than_s: float, dry: bool = False) -> int:  # noqa: ARG002
        """Remove the files of killed writers at any age, since a writer's lock ends with its process."""
        room = self.root / ".staging"
        room.mkdir(parents=True, exist_ok=True)
        left = [
            journal
            for journal in (self.root / JOURNALS).glob("*")
            if (self.root / journal.name.replace("+", "/") / MANIFEST).is_file()  # killed after the commit
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
        return self.root / check_address(address)

    def _journal(self, address: str) -> Path:
        return self.root / JOURNALS / address.replace("/", "+")


_CHECKED: set[Path] = set()  # folders that this process has checked


def _manifest(folder: Path) -> Manifest:
    path = folder / MANIFEST
    try:
        text = path.read_bytes()
    except FileNotFoundError:
        raise ArtifactError(f"{folder.parent.name}/{folder.name} is not in the store {folder.parents[1]}") from None
    return decode_manifest(text, str(path), f"delete {folder} to have it made again")


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


def _spoilt_message(path: Path, folder: Path) -> str:
    return f"{path} is missing or differs from what was committed; delete {folder} to have it made again"


def _sync(folder: Path, deep: bool = True) -> None:
    for path in [*(folder.rglob("*") if deep else ()), folder]:
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
