"""The store: artifacts are there whole or not at all, once, and unchanged."""

import hashlib
import json
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from montessori.artifacts import Store
from montessori.artifacts.store import MANIFEST
from montessori.errors import ArtifactError, InputError

WRITER = """
import sys
from montessori.artifacts import Store

store = Store(sys.argv[1])
with store.staging() as folder:
    (folder / "half.bin").write_bytes(b"x" * 100_000)
    print("staged", flush=True)
    sys.stdin.readline()
    (folder / "whole.bin").write_bytes(b"y")
    store.commit("stage/one", folder, {})
    print("committed", flush=True)
"""

RACER = """
import sys
from montessori.artifacts import Store

store, me = Store(sys.argv[1]), sys.argv[2]
won = []
for number in range(int(sys.argv[3])):
    with store.staging() as folder:
        for name in ("a.txt", "b.txt", "c.txt"):
            (folder / name).write_text(f"{me} {name} " * 1000)
        print("ready", flush=True)
        sys.stdin.readline()
        won.append(store.commit(f"race/{number}", folder, {"writer": me}))
print(*(int(w) for w in won), flush=True)
"""


def start(code: str, *arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def put(store: Store, address: str, **files: str) -> bool:
    with store.staging() as folder:
        for name, content in files.items():
            (folder / name).write_text(content)
        return store.commit(address, folder, {"summary": {"n": 1}})


def visible(store: Store) -> list[str]:
    return [str(path.relative_to(store.root)) for path in store.root.rglob("*") if ".staging" not in path.parts]


def staged(store: Store) -> list[Path]:
    return list((store.root / ".staging").iterdir())


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def test_a_committed_artifact_is_found_with_its_files_and_manifest(store):
    with store.staging() as folder:
        (folder / "model").mkdir()
        (folder / "model" / "weights.bin").write_bytes(b"\0" * 1000)
        (folder / "rows.txt").write_text("Grüße\n", encoding="utf-8")
        assert store.commit("student/ab12", folder, {"fingerprint": "ab12", "summary": {"rows": 1}})
    assert store.exists("student/ab12")
    opened = store.open("student/ab12")
    assert (opened / "rows.txt").read_text(encoding="utf-8") == "Grüße\n"
    manifest = store.manifest("student/ab12")
    assert manifest["files"] == {
        "model/weights.bin": {"bytes": 1000, "sha256": hashlib.sha256(b"\0" * 1000).hexdigest()},
        "rows.txt": {"bytes": 8, "sha256": hashlib.sha256("Grüße\n".encode()).hexdigest()},
    }
    assert manifest["address"] == "student/ab12"
    assert manifest["summary"] == {"rows": 1}
    assert {"user", "host", "time"} <= manifest["made_by"].keys()
    assert staged(store) == []


def test_what_was_never_committed_is_not_there(store):
    assert not store.exists("seeds/ab12")
    for read in (store.open, store.manifest):
        with pytest.raises(ArtifactError, match="seeds/ab12 is not in the store"):
            read("seeds/ab12")


def test_nothing_is_visible_before_the_commit_or_after_a_failure(store):
    with pytest.raises(ZeroDivisionError), store.staging() as folder:
        (folder / "rows.txt").write_text("half")
        assert visible(store) == []
        raise ZeroDivisionError
    assert visible(store) == []
    assert staged(store) == []


def test_a_killed_writer_leaves_no_artifact_and_its_files_are_swept(store):
    with start(WRITER, store.root) as writer:
        assert writer.stdout.readline() == "staged\n"
        (folder,) = staged(store)
        writer.send_signal(signal.SIGKILL)
    assert writer.returncode == -signal.SIGKILL
    assert folder.exists()
    assert not store.exists("stage/one")
    assert visible(store) == []
    store.check_writable()
    assert staged(store) == []
    assert put(store, "stage/one", rows="whole")


def test_a_living_writer_is_not_swept(store):
    with start(WRITER, store.root) as writer:
        assert writer.stdout.readline() == "staged\n"
        store.check_writable()
        assert len(staged(store)) == 1
        writer.stdin.write("go on\n")
        writer.stdin.flush()
        assert writer.stdout.readline() == "committed\n"
    assert (store.open("stage/one") / "half.bin").stat().st_size == 100_000
    assert staged(store) == []


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


def test_of_many_writers_of_one_artifact_exactly_one_wins(store):
    races, writers = 4, 8
    processes = [start(RACER, store.root, me, races) for me in range(writers)]
    for _ in range(races):
        for process in processes:
            assert process.stdout.readline() == "ready\n"
        for process in processes:
            process.stdin.write("go\n")
            process.stdin.flush()
    won = [[int(w) for w in process.communicate()[0].split()] for process in processes]
    assert [sum(race) for race in zip(*won, strict=True)] == [1] * races
    for number in range(races):
        (winner,) = (me for me in range(writers) if won[me][number])
        folder = store.open(f"race/{number}")
        assert store.manifest(f"race/{number}")["writer"] == str(winner)
        for name in ("a.txt", "b.txt", "c.txt"):
            assert (folder / name).read_text() == f"{winner} {name} " * 1000
    assert staged(store) == []


def test_a_second_commit_changes_nothing(store):
    assert put(store, "stage/one", rows="first")
    assert not put(store, "stage/one", rows="second")
    assert (store.open("stage/one") / "rows").read_text() == "first"


def flip(path: Path) -> None:
    path.write_bytes(bytes([path.read_bytes()[0] ^ 1]) + path.read_bytes()[1:])


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


@pytest.mark.parametrize("damage", [flip, truncate, Path.unlink])
def test_a_damaged_file_is_named(store, damage):
    put(store, "stage/one", rows="content", other="content")
    damage(store.root / "stage/one/rows")
    with pytest.raises(ArtifactError, match=r"stage/one/rows is missing or differs") as error:
        store.open("stage/one")
    assert f"delete {store.root / 'stage/one'}" in str(error.value)


def test_a_damaged_manifest_is_named(store):
    put(store, "stage/one", rows="content")
    truncate(store.root / "stage/one" / MANIFEST)
    (store.root / "stage/one" / MANIFEST).write_text("{half")
    for read in (store.open, store.manifest):
        with pytest.raises(ArtifactError, match=r"stage/one/manifest.json is not JSON; delete"):
            read("stage/one")


def test_files_without_a_manifest_are_not_an_artifact_and_are_named(store):
    put(store, "stage/one", rows="content")
    (store.root / "stage/one" / MANIFEST).unlink()
    assert not store.exists("stage/one")
    with pytest.raises(ArtifactError, match=r"stage/one has files but no manifest.json; delete it"):
        put(store, "stage/one", rows="content")


def test_a_manifest_is_json_for_people_and_programs(store):
    put(store, "stage/one", rows="content")
    text = (store.root / "stage/one" / MANIFEST).read_text(encoding="utf-8")
    assert json.loads(text) == store.manifest("stage/one")
    assert text.count("\n") > 5


def test_a_folder_that_cannot_be_written_is_wrong_input(tmp_path):
    (tmp_path / "file").touch()
    for root in (tmp_path / "file" / "store", tmp_path / "file", Path("/proc/store")):
        with pytest.raises(InputError, match=f"store = {root}: cannot be written"):
            Store(root).check_writable()


@pytest.mark.parametrize("url", ["s3://bucket/prefix", "gs://bucket", "https://example.org/store"])
def test_a_store_that_is_not_a_folder_is_wrong_input(url):
    with pytest.raises(InputError, match="only a local folder is supported"):
        Store(url)


def test_a_store_is_the_same_folder_wherever_the_process_goes(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    store = Store("store")
    put(store, "stage/one", rows="content")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert store.exists("stage/one")
