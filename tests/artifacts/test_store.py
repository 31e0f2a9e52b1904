"""The store, in a folder and on a real S3 server: artifacts are there whole or not at all, once, and unchanged."""

import hashlib
import json
import signal
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from storing import behind, elsewhere, put, start

from montessori.artifacts import Folder, open_store
from montessori.artifacts.store import MANIFEST
from montessori.errors import ArtifactError, InputError

WRITER = """
import sys
from montessori.artifacts import open_store

store = open_store(sys.argv[1])
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
from montessori.artifacts import open_store

store, me = open_store(sys.argv[1]), sys.argv[2]
won = []
for number in range(int(sys.argv[3])):
    with store.staging() as folder:
        for name in ("a.txt", "b.txt"):
            (folder / name).write_text(f"{me} {name} " * 1000)
        print("ready", flush=True)
        sys.stdin.readline()
        won.append(store.commit(f"race/{number}", folder, {"writer": me}))
print(*(int(w) for w in won), flush=True)
"""

READER = """
import sys
from montessori.artifacts import open_store
from montessori.errors import ArtifactError

store, number, early = open_store(sys.argv[1]), 0, 0
print("reading", flush=True)
while number < 20:
    try:
        folder = store.open(f"stage/{number}")
    except ArtifactError as error:
        assert "is not in the store" in str(error), error
        early += 1
        continue
    assert sorted(p.name for p in folder.iterdir()) == ["a", "b", "c", "manifest.json"]
    assert {(folder / name).read_text() for name in "abc"} == {str(number) * 5000}
    number += 1
print(early)
"""

CREATOR = """
import sys
from montessori.artifacts import open_store

store, me = open_store(sys.argv[1]), sys.argv[2]
print("ready", flush=True)
sys.stdin.readline()
print(*(int(store.create(f".champions/{n}", me.encode())) for n in range(20)))
"""


def test_a_committed_artifact_is_found_with_its_files_and_manifest(store, tmp_path):
    with store.staging() as folder:
        (folder / "model" / "empty").mkdir(parents=True)
        (folder / "model" / "weights.bin").write_bytes(b"\0" * 1000)
        (folder / "rows with Grüße.txt").write_text("Grüße\n", encoding="utf-8")
        (folder / "nothing").touch()
        assert store.commit("student/ab12", folder, {"fingerprint": "ab12", "summary": {"rows": 1}})
    for seen in (store, elsewhere(store, tmp_path / "other")):
        assert seen.exists("student/ab12")
        opened = seen.open("student/ab12")
        assert (opened / "rows with Grüße.txt").read_text(encoding="utf-8") == "Grüße\n"
        assert (opened / "nothing").read_bytes() == b""
        manifest = seen.manifest("student/ab12")
        assert manifest["files"] == {
            "model/weights.bin": {"bytes": 1000, "sha256": hashlib.sha256(b"\0" * 1000).hexdigest()},
            "nothing": {"bytes": 0, "sha256": hashlib.sha256(b"").hexdigest()},
            "rows with Grüße.txt": {"bytes": 8, "sha256": hashlib.sha256("Grüße\n".encode()).hexdigest()},
        }
        assert manifest["address"] == "student/ab12"
        assert manifest["summary"] == {"rows": 1}
        assert {"user", "host", "time"} <= manifest["made_by"].keys()
        assert list(seen.addresses()) == list(seen.addresses("student")) == ["student/ab12"]
        assert list(seen.addresses("stud")) == []


def test_what_was_never_committed_is_not_there(store):
    assert not store.exists("seeds/ab12")
    assert list(store.addresses()) == list(store.manifests()) == store.names(".champions/") == []
    assert store.read(".champions/1") is None
    for read in (store.open, store.manifest):
        with pytest.raises(ArtifactError, match="seeds/ab12 is not in the store"):
            read("seeds/ab12")


def test_nothing_is_there_before_the_commit_or_after_a_failure(store):
    with pytest.raises(ZeroDivisionError), store.staging() as folder:
        (folder / "rows.txt").write_text("half")
        assert list(store.addresses()) == []
        raise ZeroDivisionError
    assert list(store.addresses()) == []
    assert not folder.exists()


def test_a_killed_writer_leaves_no_artifact_and_its_files_are_swept(store):
    with start(WRITER, store.uri) as writer:
        assert writer.stdout.readline() == "staged\n"
        writer.send_signal(signal.SIGKILL)
    assert not store.exists("stage/one")
    with store.staging() as mine:
        (left,) = (folder for folder in mine.parent.iterdir() if folder != mine)
        store.check_writable()
        assert mine.exists() and not left.exists()
    assert put(store, "stage/one", rows="whole")


def test_a_living_writer_is_not_swept(store):
    with start(WRITER, store.uri) as writer:
        assert writer.stdout.readline() == "staged\n"
        store.check_writable()
        store.sweep(3600)
        writer.stdin.write("go on\n")
        writer.stdin.flush()
        assert writer.stdout.readline() == "committed\n"
    assert (store.open("stage/one") / "half.bin").stat().st_size == 100_000


def test_of_many_writers_of_one_artifact_exactly_one_wins(store, tmp_path):
    races, writers = 60, 8
    processes = [start(RACER, store.uri, me, races, MONTESSORI_CACHE=tmp_path / f"cache-{me}") for me in range(writers)]
    for _ in range(races):
        for process in processes:
            assert process.stdout.readline() == "ready\n"
        for process in processes:
            process.stdin.write("go\n")
            process.stdin.flush()
    won = [[int(w) for w in process.communicate()[0].split()] for process in processes]
    assert [sum(race) for race in zip(*won, strict=True)] == [1] * races

    def check(number: int) -> None:
        (winner,) = (me for me in range(writers) if won[me][number])
        folder = store.open(f"race/{number}")
        assert store.manifest(f"race/{number}")["writer"] == str(winner)
        for name in ("a.txt", "b.txt"):
            assert (folder / name).read_text() == f"{winner} {name} " * 1000

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(check, range(races)))
    assert store.sweep(0, dry=True) == 0  # the losers have cleared up


def test_readers_never_see_half_an_artifact(store, tmp_path):
    readers = [start(READER, store.uri, MONTESSORI_CACHE=tmp_path / f"cache-{n}") for n in range(4)]
    for reader in readers:
        assert reader.stdout.readline() == "reading\n"
    for number in range(20):
        put(store, f"stage/{number}", **dict.fromkeys("abc", str(number) * 5000))
    early = [int(reader.communicate()[0]) for reader in readers]
    assert [reader.returncode for reader in readers] == [0] * 4
    assert any(early), "a reader was there before the writer"


def test_a_second_commit_changes_nothing(store):
    assert put(store, "stage/one", rows="first")
    assert not put(store, "stage/one", rows="second")
    assert (store.open("stage/one") / "rows").read_text() == "first"


@pytest.mark.parametrize(
    "change",
    [lambda text: bytes([text[0] ^ 1]) + text[1:], lambda text: text[:-1], lambda text: None],
    ids=["flipped", "truncated", "gone"],
)
def test_a_damaged_file_is_named(store, tmp_path, change):
    put(store, "stage/one", rows="content", other="content")
    behind(store, "stage/one", "rows", change)
    with pytest.raises(ArtifactError, match=r"stage/one/rows is missing or differs from what was committed; ") as error:
        elsewhere(store, tmp_path / "other").open("stage/one")
    assert "to have it made again" in str(error.value) or "makes it again" in str(error.value)
    assert "\n" not in str(error.value)


def test_a_damaged_manifest_is_named(store):
    put(store, "stage/one", rows="content")
    behind(store, "stage/one", MANIFEST, lambda text: text[: len(text) // 2])
    with pytest.raises(ArtifactError, match=r"stage/one/manifest.json is not JSON with a list of files; "):
        store.manifest("stage/one")
    assert list(store.manifests()) == []
    store.delete("stage/one")
    assert put(store, "stage/one", rows="again")


@pytest.mark.parametrize("name", ["../x", "/etc/x", "a/../../x", "a/..", "", "a//b", "..\\x", "manifest.json", "a\0b"])
def test_a_manifest_whose_files_would_leave_the_folder_is_refused(store, tmp_path, name):
    put(store, "stage/one", rows="content")

    def renamed(text: bytes) -> bytes:
        manifest = json.loads(text)
        return json.dumps({**manifest, "files": {name: manifest["files"]["rows"]}}).encode()

    behind(store, "stage/one", MANIFEST, renamed)
    seen = elsewhere(store, tmp_path / "other")
    for read in (seen.open, seen.manifest):
        with pytest.raises(ArtifactError, match=r"stage/one/manifest.json names a file outside of its folder"):
            read("stage/one")


def test_a_file_that_could_not_be_read_again_is_not_committed(store):
    with store.staging() as folder, pytest.raises(ArtifactError, match="a file cannot be called"):
        (folder / "a\\b").touch()
        store.commit("stage/one", folder, {})
    assert not store.exists("stage/one")


@pytest.mark.parametrize("address", ["../x", "stage", "stage/../x", "/etc/x", ".staging/x", "stage/one/two"])
def test_an_address_is_a_stage_and_a_fingerprint(store, address):
    with pytest.raises(ArtifactError, match="is no artifact's address"):
        store.exists(address)


def test_a_deleted_artifact_is_gone_and_can_be_made_again(store, tmp_path):
    put(store, "stage/one", rows="first")
    put(store, "stage/onemore", rows="other")
    store.delete("stage/one")
    store.delete("stage/one")  # and once more
    seen = elsewhere(store, tmp_path / "other")
    assert not store.exists("stage/one") and list(seen.addresses()) == ["stage/onemore"]
    assert store.sweep(0, dry=True) == 0
    assert put(store, "stage/one", rows="second")
    for each in (store, seen):
        assert (each.open("stage/one") / "rows").read_text() == "second"


def test_of_many_who_create_one_document_exactly_one_succeeds(store):
    processes = [start(CREATOR, store.uri, me) for me in range(6)]
    for process in processes:
        process.stdout.readline()
    for process in processes:
        process.stdin.write("go\n")
        process.stdin.flush()
    created = [[int(w) for w in process.communicate()[0].split()] for process in processes]
    for number in range(20):
        (winner,) = (me for me in range(6) if created[me][number])
        assert store.read(f".champions/{number}") == str(winner).encode()
    assert len(store.names(".champions/")) == 20


def test_a_document_is_replaced_whole_while_it_is_read(store):
    done = threading.Event()

    def write() -> None:
        for number in range(40):
            store.write(".refresh/night.json", str(number % 10).encode() * 100_000)
        done.set()

    store.write(".refresh/night.json", b"0" * 100_000)
    with ThreadPoolExecutor(1) as pool:
        writing = pool.submit(write)
        while not done.is_set():
            seen = store.read(".refresh/night.json")
            assert len(seen) == 100_000 and len(set(seen)) == 1
            assert not writing.done() or not writing.exception()
        writing.result()
    assert store.names(".refresh/") == store.names(".refresh/nig") == [".refresh/night.json"]


def test_a_store_of_thousands_is_listed_whole(store):
    names = [f".champions/{number:05d}.json" for number in range(2500)]
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda name: store.write(name, b"{}"), names))
    assert store.names(".champions/") == names
    assert store.names(".champions/000") == names[:100]
    addresses = sorted(f"stage/{number}" for number in range(100))
    with ThreadPoolExecutor(16) as pool:
        assert all(pool.map(lambda address: put(store, address, rows=address), addresses))
    assert list(store.addresses()) == addresses
    assert sorted(manifest["address"] for manifest in store.manifests()) == addresses


def test_a_journal_is_gone_on_with_and_goes_with_the_commit(store):
    with store.journal("stage/one") as journal:
        for number in range(3):
            journal.add({"key": number}, {"prompts": number + 1})
        journal.sync({"prompts": 3})
    assert store.usage("stage/one") == {"prompts": 3}
    with store.journal("stage/one") as journal:
        assert journal.entries() == [{"key": 0}, {"key": 1}, {"key": 2}]
        journal.add({"key": 3}, {"prompts": 4})
        journal.sync({"prompts": 4})
    with store.journal("stage/one") as journal:
        assert [entry["key"] for entry in journal.entries()] == [0, 1, 2, 3]
        put(store, "stage/one", rows="made")
    with store.journal("stage/one") as journal:
        assert journal.entries() == []
    assert store.names(".journals/") == []


@pytest.mark.parametrize("url", ["gs://bucket", "https://example.org/store"])
def test_a_store_that_is_neither_a_folder_nor_a_bucket_is_wrong_input(url):
    with pytest.raises(InputError, match=r"expected a folder, .* or s3://bucket/prefix"):
        open_store(url)


def test_a_manifest_is_json_for_people_and_programs(store):
    put(store, "stage/one", rows="content")
    text = (store.open("stage/one") / MANIFEST).read_text(encoding="utf-8")
    assert json.loads(text) == store.manifest("stage/one")
    assert text.count("\n") > 5


def test_a_store_is_the_same_wherever_the_process_goes(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    store = Folder("store")
    put(store, "stage/one", rows="content")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert store.exists("stage/one")
