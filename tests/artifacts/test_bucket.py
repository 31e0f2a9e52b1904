"""What is particular to the store on an S3 server: large files, many machines, a server that fails or is another."""

import json
import random
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter, defaultdict
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest
from faults import Faults, proxy
from s3 import (
    BUCKET,
    Server,
    free_ports,
    kill_gateway,
    launch,
    served,
    skip_without_ceph,
    wait_until_ready,
)
from storing import behind, elsewhere, key_of, keys, put, server, start

from montessori.artifacts import open_store
from montessori.artifacts.store import MANIFEST
from montessori.errors import ArtifactError, InputError, MontessoriError, StoreUnreachable

LARGE = """
import resource, sys
from montessori.artifacts import open_store

store = open_store(sys.argv[1])
store.check_readable()
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
if sys.argv[2] == "up":
    with store.staging() as folder, open("/dev/urandom", "rb") as noise:
        with (folder / "weights").open("wb") as file:
            for _ in range(200):
                file.write(noise.read(1_000_000))
        assert store.commit("model/large", folder, {})
else:
    assert (store.open("model/large") / "weights").stat().st_size == 200_000_000
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""

OPENER = """
import sys
from montessori.artifacts import open_store

store = open_store(sys.argv[1])
print("ready", flush=True)
sys.stdin.readline()
folder = store.open("stage/one")
print(folder, (folder / "rows").read_text()[:5], flush=True)
sys.stdin.readline()
"""

JOURNALIST = """
import sys, time
from montessori.artifacts import open_store

with open_store(sys.argv[1]).journal("stage/one") as journal:
    print(len(journal.entries()), flush=True)
    for number in range(int(sys.argv[2])):
        journal.add({"key": number}, {"prompts": number + 1})
    print("added", flush=True)
    sys.stdin.readline()
"""


def test_a_large_file_goes_up_and_down_in_parts_and_little_memory(bucket, tmp_path):
    for way in ("up", "down"):
        done = start(LARGE, bucket.uri, way, MONTESSORI_CACHE=tmp_path / way)
        grown_kib = int(done.communicate()[0])
        assert done.returncode == 0
        assert grown_kib * 1024 < 300e6
    head = server(bucket).client().head_object(Bucket=BUCKET, Key=key_of(bucket, "model/large", "weights"))
    assert head["ETag"].strip('"').endswith("-24"), "24 parts of 8 MiB"
    assert head["ContentLength"] == 200_000_000


def test_a_damaged_copy_is_downloaded_again(bucket, tmp_path):
    put(bucket, "stage/one", rows="content")
    for damage in (
        lambda path: path.write_text("CONTENT"),
        Path.unlink,
        lambda path: (path.parent / MANIFEST).unlink(),
    ):
        damage(elsewhere(bucket, tmp_path / "other").open("stage/one") / "rows")
        other = start(OPENER, bucket.uri, MONTESSORI_CACHE=tmp_path / "other")
        out, _ = other.communicate("\n\n")
        assert out.split()[-1] == "conte"


def test_two_processes_download_one_artifact_at_once(bucket, tmp_path):
    put(bucket, "stage/one", rows="content" * 1_000_000)
    both = [start(OPENER, bucket.uri, MONTESSORI_CACHE=tmp_path / "other") for _ in range(2)]
    for process in both:
        process.stdout.readline()
    for process in both:
        process.stdin.write("go\n")
        process.stdin.flush()
    said = [process.communicate("\n")[0] for process in both]
    assert said[0] == said[1] and said[0].endswith(" conte\n")
    assert [process.returncode for process in both] == [0, 0]


def test_the_cache_keeps_to_its_limit_but_for_what_a_living_process_has_open(bucket, tmp_path, monkeypatch):
    megabyte = "x" * 1_000_000
    for number in range(6):
        put(bucket, f"stage/{number}", rows=megabyte)
    put(bucket, "stage/one", rows=megabyte)
    other = tmp_path / "other"
    holder = start(OPENER, bucket.uri, MONTESSORI_CACHE=other, MONTESSORI_CACHE_GB=1)
    holder.stdin.write("go\n")
    holder.stdin.flush()
    holder.stdout.readline()
    held = Path(holder.stdout.readline().split()[0])

    def opened(*numbers: int) -> set[str]:
        """Each by a process of its own, so that none is held; what is in the cache then."""
        for number in numbers:
            code = OPENER.replace("stage/one", f"stage/{number}")
            start(code, bucket.uri, MONTESSORI_CACHE=other, MONTESSORI_CACHE_GB=0.0035).communicate("\n\n")
        return {path.name for path in held.parent.iterdir()}

    assert opened(0, 1) == {"one", "0", "1"}
    assert opened(0, 2) == {"one", "0", "2"}, "1 was used longest ago; one is older, but held"
    holder.communicate("\n")
    assert opened(3) == {"0", "2", "3"}
    assert opened(4) == {"2", "3", "4"}


def test_more_is_opened_than_handles_would_allow(bucket):
    from montessori.artifacts import cache

    cache_held = cache.HELD
    cache.HELD = 5
    try:
        for number in range(12):
            put(bucket, f"stage/{number}", rows=str(number))
        assert [(bucket.open(f"stage/{n}") / "rows").read_text() for n in range(12)] == [str(n) for n in range(12)]
        assert len(bucket._cache._held) == 5
    finally:
        cache.HELD = cache_held


def test_a_sweep_takes_what_killed_writers_left_and_nothing_else(bucket):
    put(bucket, "stage/one", rows="content")
    bucket.write(".champions/1.json", b"{}")
    kept = keys(bucket)
    s3, (room,) = server(bucket).client(), {key.rpartition("/")[0] for key in kept if key.endswith("/rows")}
    base = key_of(bucket, "stage/one", MANIFEST).removesuffix(f"stage/one/{MANIFEST}")
    for orphan in ("stage/one/0123/rows", "stage/two/0123/a/b", ".probes/0123", ".journals/stage+one/part-1.jsonl"):
        s3.put_object(Bucket=BUCKET, Key=base + orphan, Body=b"12345")
    bucket.write(".journals/stage+three/part-1.jsonl", b"{}")  # not made yet: to be gone on with
    s3.create_multipart_upload(Bucket=BUCKET, Key=f"{base}stage/two/0123/large")
    assert bucket.sweep(3600) == 0
    assert bucket.sweep(0, dry=True) == 20
    assert bucket.sweep(0) == 20
    assert keys(bucket) == sorted([*kept, ".journals/stage+three/part-1.jsonl"]) and room
    assert "Uploads" not in s3.list_multipart_uploads(Bucket=BUCKET, Prefix=base)


def test_a_manifest_copied_from_a_folder_is_named(bucket):
    put(bucket, "stage/one", rows="content")

    def without_room(text: bytes) -> bytes:
        return json.dumps({k: v for k, v in json.loads(text).items() if k != "room"}).encode()

    behind(bucket, "stage/one", MANIFEST, without_room)
    with pytest.raises(ArtifactError, match="does not say where its files are"):
        bucket.manifest("stage/one")


@pytest.mark.parametrize(
    ("uri", "says"),
    [
        ("s3://", "expected s3://bucket/prefix"),
        ("s3:///store", "expected s3://bucket/prefix"),
        ("s3://[/store", "expected s3://bucket/prefix"),
        ("s3://key:secret@bucket/store", "without keys"),
        ("s3://bucket:9000/store", r"a server is named by \?endpoint=http://host:9000"),
        ("s3://bucket/store#a", "expected s3://bucket/prefix"),
        ("s3://b u/store", "Invalid bucket name"),
        ("s3://bucket/store?endpoint=host:9000", "endpoint must be an address like http://host:9000"),
        ("s3://bucket/store?endpoint=http://k:s@host", "endpoint must be an address .*, without keys"),
        ("s3://bucket/store?endpoint=http://host:port", "`http://host:port` was not a valid URI"),
        ("s3://bucket/store?endpoit=http://host", r"unknown setting endpoit; did you mean endpoint\?$"),
        ("s3://bucket/store?zone=a", "unknown setting zone; known here: endpoint, region, .*unconditional$"),
        ("s3://bucket/store?addressing=both", "addressing = 'both': input should be 'auto', 'path' or 'virtual'"),
        ("s3://bucket/store?sse=AES256&kms_key=k", "kms_key is for sse=aws:kms"),
    ],
)
def test_a_wrong_address_is_one_sentence(s3_keys, uri, says):
    with pytest.raises(InputError, match=says) as error:
        open_store(uri).check_writable()
    assert str(error.value).startswith("store = s3://")
    assert "\n" not in str(error.value) and "secret" not in str(error.value)


def test_what_the_server_refuses_is_one_sentence(s3_server, bucket, monkeypatch):
    def says(uri: str) -> str:
        with pytest.raises(InputError) as error:
            open_store(uri).check_writable()
        assert "\n" not in str(error.value) and str(error.value).startswith(f"store = {uri}: ")
        return str(error.value).removeprefix(f"store = {uri}: ")

    assert says(bucket.uri.replace(f"//{BUCKET}/", "//nowhere/")) == "there is no such bucket; make it first"
    closed = Server(free_ports())
    assert says(closed.uri()).startswith("cannot be reached (Could not connect to the endpoint URL")
    assert says(f"s3://{BUCKET}/x?endpoint=https://127.0.0.1:{s3_server.port}").startswith("cannot be reached (SSL")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    assert says(bucket.uri) == "refused with these credentials (403 SignatureDoesNotMatch)"
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "nobody")
    assert says(bucket.uri) == "refused with these credentials (403 InvalidAccessKeyId)"
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    assert says(bucket.uri).startswith("no credentials (Unable to locate credentials); set AWS_ACCESS_KEY_ID")


def test_what_does_not_speak_s3_is_one_sentence(s3_keys, tmp_path):
    command = [sys.executable, "-u", "-m", "http.server", "0", "--bind", "127.0.0.1", "--directory", str(tmp_path)]
    (tmp_path / BUCKET).mkdir()
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as other:
        try:
            port = int(re.search(r"port (\d+)", other.stdout.readline())[1])
            for name in (BUCKET, "nowhere"):
                with pytest.raises(InputError, match=r"does not speak S3|the server answers 404"):
                    open_store(Server(port).uri().replace(BUCKET, name)).check_writable()
        finally:
            other.terminate()


def test_a_cache_that_cannot_be_written_is_one_sentence(bucket, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("MONTESSORI_CACHE", str(tmp_path / "file"))
    with pytest.raises(InputError, match=f"MONTESSORI_CACHE = {tmp_path / 'file'}: cannot be written"):
        open_store(bucket.uri).check_writable()
    monkeypatch.setenv("MONTESSORI_CACHE_GB", "much")
    with pytest.raises(InputError, match="MONTESSORI_CACHE_GB = much: expected a number of gigabytes"):
        open_store(bucket.uri)


def test_a_server_that_ignores_the_condition_is_refused_unless_one_accepts_it(s3_server, bucket):
    with proxy(s3_server, Faults(without=("if-none-match",))) as careless:
        with pytest.raises(InputError, match=r"this server does not honour If-None-Match, .* add unconditional=true"):
            open_store(careless.uri()).check_writable()
        store = open_store(careless.uri(unconditional="true"))
        store.check_writable()
        assert put(store, "stage/one", rows="first")
        assert not put(store, "stage/one", rows="second")
        assert store.create(".champions/1", b"1") and not store.create(".champions/1", b"2")
        assert (store.open("stage/one") / "rows").read_text() == "first"


def test_what_the_address_asks_for_is_sent(s3_server, bucket, monkeypatch):
    with proxy(s3_server, Faults()) as watched:
        for options in ({"sse": "AES256"}, {"sse": "aws:kms", "kms_key": "ours"}, {"checksums": "when_supported"}):
            with suppress(MontessoriError):  # the server has no keys to seal with
                open_store(watched.uri(**options)).write(".champions/1", b"{}")
        sealed, with_key, summed = [headers for method, _, headers in watched.seen if method == "PUT"][-3:]
        assert sealed["x-amz-server-side-encryption"] == "AES256"
        assert with_key["x-amz-server-side-encryption"] == "aws:kms"
        assert with_key["x-amz-server-side-encryption-aws-kms-key-id"] == "ours"
        assert "x-amz-checksum-crc32" in summed and "x-amz-checksum-crc32" not in sealed
        assert "montessori" in summed["user-agent"]
        watched.seen.clear()
        resolve = socket.getaddrinfo
        monkeypatch.setattr(socket, "getaddrinfo", lambda host, *more: resolve("127.0.0.1", *more))
        for addressing in ("path", "virtual"):
            with suppress(MontessoriError):  # the server does not know its name
                open_store(watched.uri("p", addressing=addressing).replace("127.0.0.1", "s3.test")).check_readable()
        first, last = [(headers["host"], path.partition("?")[0]) for _, path, headers in watched.seen][
            :: len(watched.seen) - 1
        ]
        assert first == (f"s3.test:{watched.port}", f"/{BUCKET}")
        assert last == (f"{BUCKET}.s3.test:{watched.port}", "/")


def test_a_put_whose_answer_was_lost_counts_as_won(s3_server, bucket, tmp_path):
    with proxy(s3_server, Faults(lose_answers_to="PUT")) as lossy:
        store = open_store(lossy.uri())
        assert store.create(".champions/1", b"1")
        assert not store.create(".champions/1", b"2")
        assert put(store, "stage/one", rows="mine")
        assert not put(store, "stage/one", rows="other")
        assert store.read(".champions/1") == b"1"
        assert (elsewhere(store, tmp_path / "other").open("stage/one") / "rows").read_text() == "mine"
        assert len(lossy.lost) >= 3


def test_a_killed_process_loses_of_its_journal_at_most_the_last_seconds(bucket):
    with start(JOURNALIST, bucket.uri, 50) as writer:
        assert [writer.stdout.readline() for _ in range(2)] == ["0\n", "added\n"]
        while not bucket.names(".journals/"):  # nothing more is added: what has come is written all the same
            time.sleep(0.1)
        while not bucket.usage("stage/one"):
            time.sleep(0.1)
        writer.send_signal(signal.SIGKILL)
    assert bucket.usage("stage/one") == {"prompts": 50}
    with start(JOURNALIST, bucket.uri, 0) as again:
        assert again.stdout.readline() == "50\n"
        again.communicate("\n")
    put(bucket, "stage/one", rows="made")
    assert bucket.names(".journals/") == []


def test_a_journal_keeps_what_it_could_not_write(s3_server, bucket, monkeypatch):
    from montessori.artifacts import s3

    monkeypatch.setattr(s3, "PATIENCE_S", 0)
    with proxy(s3_server, Faults()) as here, bucket.journal("stage/one"):
        store = open_store(here.uri("journaled"))
        faults = Faults(busy=1)
        with proxy(s3_server, faults) as busy:
            away = open_store(busy.uri("journaled"))
            with away.journal("stage/one") as journal:
                journal.add({"key": 1}, {"prompts": 1})
                with pytest.raises(StoreUnreachable, match="the server answers 503 SlowDown"):
                    journal.sync({"prompts": 1})
                faults.busy = 0
                journal.sync({"prompts": 1})
        with store.journal("stage/one") as journal:
            assert journal.entries() == [{"key": 1}]


class Load:
    """Everything that one does with a store, at random; what was answered is remembered and must hold."""

    def __init__(self, store, seed: int = 0):
        self.store, self.dice, self.lock = store, random.Random(seed), threading.Lock()
        self.artifacts: dict[str, str] = {}
        self.opening: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)
        self.documents: dict[str, bytes] = {}
        self.done: Counter[str] = Counter()

    def step(self, number: int) -> None:
        with self.lock:
            kind = self.dice.choices(
                ("commit", "create", "write", "exists", "read", "open", "manifest", "names"),
                (4, 4, 4, 34, 34, 8, 11, 1),
            )[0]
            artifact = self.dice.choice([*self.artifacts][-50:]) if self.artifacts else None
            document = self.dice.choice([*self.documents]) if self.documents else None
        self.done[kind] += 1
        if kind == "commit":
            address, content = f"stage/{number}", f"{number} " * 50
            assert put(self.store, address, rows=content), "one's own put counts as won"
            self.artifacts[address] = content
        elif kind in ("create", "write"):
            name, content = f".documents/{number % 50}/{number}", f"{number} {kind}".encode()
            assert getattr(self.store, kind)(name, content) in (True, None)
            self.documents[name] = content
        elif kind == "exists":
            assert not self.store.exists(f"stage/none{number}")
            assert artifact is None or self.store.exists(artifact)
        elif kind == "read" and document:
            assert self.store.read(document) == self.documents[document]
        elif kind == "open" and artifact:
            with self.opening[artifact]:  # nobody takes the copy away meanwhile
                self.store._cache.delete(artifact)
                assert (self.store.open(artifact) / "rows").read_text() == self.artifacts[artifact]
        elif kind == "manifest" and artifact:
            assert self.store.manifest(artifact)["address"] == artifact
        elif kind == "names" and document:
            folder = document.rpartition("/")[0] + "/"
            known = {name for name in [*self.documents] if name.startswith(folder)}
            assert known <= set(self.store.names(folder))

    def check(self, store) -> None:
        """All that was done is there."""
        assert set(store.addresses()) == set(self.artifacts)
        assert set(store.names(".documents/")) == set(self.documents)
        with ThreadPoolExecutor(16) as pool:
            read = dict(zip(self.documents, pool.map(store.read, self.documents), strict=True))
            opened = pool.map(lambda address: (store.open(address) / "rows").read_text(), self.artifacts)
            assert dict(zip(self.artifacts, opened, strict=True)) == self.artifacts
        assert read == self.documents


def test_ten_thousand_operations_through_a_bad_network_lose_nothing(s3_server, bucket, tmp_path):
    faults = Faults(busy=0.1, reset_before=0.01, reset_after=0.01, truncated=0.01)
    with proxy(s3_server, faults) as bad:
        load = Load(open_store(bad.uri("bad")))
        with ThreadPoolExecutor(16) as pool:
            list(pool.map(load.step, range(10_000)))
        assert len(bad.seen) > 10_000
        assert all(bad.went_wrong[name] > 50 for name in ("busy", "reset_before", "reset_after", "truncated"))
    assert sum(load.done.values()) == 10_000
    load.check(elsewhere(open_store(s3_server.uri("bad")), tmp_path / "other"))


@pytest.mark.long
def test_a_server_killed_under_load_loses_nothing_that_it_answered(s3_keys, tmp_path, monkeypatch):
    skip_without_ceph()
    monkeypatch.setenv("MONTESSORI_CACHE", str(tmp_path / "cache"))
    folder, here = tmp_path / "s3", Server(free_ports())
    with served(folder, here.port) as process, ThreadPoolExecutor(8) as pool:
        load = Load(open_store(here.uri("killed")))
        stop = threading.Event()

        def work(worker: int) -> int:
            number = worker
            while not stop.is_set():
                load.step(number)
                number += 8
            return number // 8

        try:
            working = [pool.submit(work, worker) for worker in range(8)]
            while load.done["commit"] < 20:
                time.sleep(0.1)
            kill_gateway(process)
            before = load.done.total()
            restarted = launch(folder, here.port)
            try:
                wait_until_ready(folder, restarted)
                while load.done.total() < before + 100 and not any(one.done() for one in working):
                    time.sleep(0.1)
                stop.set()
                assert all(one.result() for one in working)
                load.check(elsewhere(open_store(here.uri("killed")), tmp_path / "other"))
            finally:
                restarted.terminate()
                restarted.wait()
        finally:
            stop.set()


@pytest.mark.parametrize("status", [304, 501])
def test_a_server_that_refuses_the_condition_is_told_like_one_that_ignores_it(s3_server, bucket, status):
    with proxy(s3_server, Faults(refuse_conditions=status)) as strict:
        with pytest.raises(InputError, match=r"does not honour If-None-Match, .* add unconditional=true"):
            open_store(strict.uri()).check_writable()
        store = open_store(strict.uri(unconditional="true"))
        store.check_writable()
        assert put(store, "stage/one", rows="first")
