"""What is particular to the store in a local folder."""

import threading
from pathlib import Path

import pytest
from storing import put

from montessori.artifacts import Folder, Store
from montessori.artifacts.store import MANIFEST
from montessori.errors import ArtifactError, InputError


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Folder(tmp_path / "store")


def test_nothing_is_visible_in_the_folder_before_the_commit(store):
    def visible() -> list[Path]:
        return [path for path in store.root.rglob("*") if ".staging" not in path.parts]

    with store.staging() as folder:
        (folder / "rows.txt").write_text("half")
        assert visible() == []
    assert visible() == list((store.root / ".staging").iterdir()) == []


def test_writers_that_start_during_a_sweep_lose_nothing(store):
    store.check_writable()
    done = threading.Event()

    def sweep() -> None:
        while not done.is_set():
            store.check_writable()

    sweeper = threading.Thread(target=sweep)
    sweeper.start()
    try:
        for number in range(200):
            with store.staging() as folder:
                (folder / "rows.txt").write_text(str(number))
    finally:
        done.set()
        sweeper.join()


def test_what_to_delete_is_named(store):
    put(store, "stage/one", rows="content")
    (store.root / "stage/one/rows").unlink()
    for read in (store.open, store.exists):
        with pytest.raises(ArtifactError, match=f"delete {store.root / 'stage/one'} to have it made again"):
            read("stage/one")


def test_files_without_a_manifest_are_not_an_artifact_and_are_named(store):
    put(store, "stage/one", rows="content")
    (store.root / "stage/one" / MANIFEST).unlink()
    assert not store.exists("stage/one")
    with pytest.raises(ArtifactError, match=r"stage/one has files but no manifest.json; delete it"):
        put(store, "stage/one", rows="content")


def test_a_folder_that_cannot_be_written_is_wrong_input(tmp_path):
    (tmp_path / "file").touch()
    for root in (tmp_path / "file" / "store", tmp_path / "file", Path("/proc/store")):
        with pytest.raises(InputError, match=f"store = {root}: cannot be written"):
            Folder(root).check_writable()


def test_the_journal_of_what_is_committed_is_swept(store):
    put(store, "stage/one", rows="made")
    left = store.root / ".journals" / "stage+one"  # as by a kill between the two
    left.mkdir(parents=True)
    (left / "answers.jsonl").write_text("{}\n")
    assert store.sweep(0, dry=True) > 0
    assert store.sweep(0) > 0
    assert store.sweep(0, dry=True) == 0
    assert list(store.addresses()) == ["stage/one"]
