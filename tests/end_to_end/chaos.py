"""Runs that are harmed while they are at work: what is done to them and when, who looks on, and what must be left.

A deed is done once so many of the run's artifacts are there, whatever the machine's speed; beside that a stage at work
is killed every few seconds. All that is random comes from one seed.
"""

import itertools
import json
import os
import random
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import pyarrow.parquet as pq
import pytest
from harness import CONFIG, FOUR, Contents, contents

from flows.requests.run import prepare
from montessori.artifacts import Store, open_store
from montessori.artifacts.store import find_damage
from montessori.errors import ArtifactError, StoreUnreachable
from montessori.settings import files

REDONE = ("warm-up", "tokens", "reference-gradient", "influence", "preferences", "teacher")  # 14 artifacts of them
EARLY = range(10)  # after how many of them something can still be done to the run
RERUNS = 4  # of one command: each stage is tried three times by each
ENDS_WITHIN_S = 1200
PROBING = 32  # points scored of each system, by micro.yaml


class Attempt(Protocol):
    """A run at work."""

    def poll(self) -> int | None:
        """Its exit code, once it has ended."""

    def kill(self) -> None:
        """End it."""


Deed = tuple[int, str, Callable[[Any], None]]  # at how many artifacts, its name, what does it to an attempt


@dataclass
class Harm:
    """What is done to a run: `deeds` by how many artifacts are there, `strike` every few seconds, so often."""

    draw: random.Random
    deeds: list[Deed]
    strike: Callable[[Any], str | None]  # what it has killed, if there was something
    strikes: int
    story: Path  # a file: what was done when, in seconds
    started: float = field(default_factory=time.monotonic)
    _next: float = 0.0

    def __post_init__(self) -> None:
        self.deeds.sort(key=lambda deed: deed[0])

    def go_on(self, attempt: Attempt, artifacts: int) -> None:
        """Do what is due."""
        now = time.monotonic() - self.started
        if self.deeds and artifacts >= self.deeds[0][0]:
            _, name, deed = self.deeds.pop(0)
            deed(attempt)
            self.tell(name)
        elif self.strikes and now > self._next and (struck := self.strike(attempt)):
            self.strikes -= 1
            self._next = now + self.draw.uniform(2, 5)
            self.tell(struck)

    def tell(self, what: str) -> None:
        with self.story.open("a") as file:
            file.write(f"{time.monotonic() - self.started:.0f} s {what}\n")

    def told(self) -> str:
        return ", ".join(self.story.read_text().splitlines())


@dataclass
class Onlooker:
    """What one sees who lists and opens the artifacts of a store all along."""

    before: set[str]
    new: int = 0  # artifacts that were not there before
    wrong: list[str] = field(default_factory=list)
    over: threading.Event = field(default_factory=threading.Event)

    def look(self, store: Store) -> None:
        seen = set(self.before)
        while not self.over.wait(0.3):
            with suppress(StoreUnreachable):
                there = set(store.addresses())
                self.new = len(there - self.before)
                for address in there - seen:
                    if found := find_damage(store, address):
                        self.wrong.append(f"{address}: {found}")
                    try:
                        store.open(address)
                    except ArtifactError as error:
                        self.wrong.append(str(error))
                    seen.add(address)


@contextmanager
def looking_on(uri: str) -> Iterator[Onlooker]:
    """Somebody looks on inside the block, with a cache of its own."""
    store = open_store(uri)
    onlooker = Onlooker(set(store.addresses()))
    with ThreadPoolExecutor(1) as pool:
        looking = pool.submit(onlooker.look, store)
        try:
            yield onlooker
        finally:
            onlooker.over.set()
            looking.result()


def endured(start: Callable[[], Attempt], harm: Harm, uri: str, ready: Callable[[], None]) -> int:
    """Start it when what it needs is `ready`, again when it has failed, until it ends well, harmed all along.

    Returns how many times it was started again.
    """
    with looking_on(uri) as onlooker:
        for again in itertools.count():
            assert again <= RERUNS, f"started again {RERUNS} times, and still not done: {harm.told()}"
            ready()
            attempt, until = start(), time.monotonic() + ENDS_WITHIN_S
            while (code := attempt.poll()) is None:
                if time.monotonic() > until:
                    attempt.kill()
                    raise AssertionError(f"it neither ends nor fails: {harm.told()}")
                harm.go_on(attempt, onlooker.new)
                time.sleep(0.3)
            harm.tell(f"ended with {code}")
            if code == 0:
                break
    assert not harm.deeds, f"ended before all was done to it: {harm.told()}"
    assert not onlooker.wrong
    return again


def planned() -> list[str]:
    """The artifacts of a run with four shards; the last one is the run's page."""
    return list(prepare(files.load(str(CONFIG), FOUR[1::2])).plan.requests)


def upload(store: Path, client: Any, bucket: str, prefix: str) -> None:
    """Put a run's artifacts from a folder's store under a prefix of a bucket, but for those that are to be redone."""
    objects: dict[str, bytes] = {}
    for address in planned():
        if not address.startswith(REDONE):
            at = f"{prefix}/{address}"
            manifest = json.loads((store / address / "manifest.json").read_text())
            objects |= {f"{at}/room/{name}": (store / address / name).read_bytes() for name in manifest["files"]}
            objects[f"{at}/manifest.json"] = json.dumps({**manifest, "room": "room"}).encode()
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda one: client.put_object(Bucket=bucket, Key=one[0], Body=one[1]), objects.items()))


def check_whole(uri: str, found: Contents, undisturbed: Contents) -> None:
    """Everything is there, verifies, and is what an undisturbed run makes; no point is missing or double."""
    store = open_store(uri)
    assert found == undisturbed
    assert not [wrong for address in store.addresses() if (wrong := find_damage(store, address))]
    for tokens in store.manifests("tokens"):
        folder = store.open(tokens["address"])
        asked = pq.read_table(folder / "tokens.parquet").column("id").to_pylist()
        asked += json.loads((folder / "dropped.json").read_text())
        assert len(asked) == len(set(asked)) == PROBING
        shards = [
            manifest
            for manifest in store.manifests("influence")
            if manifest["request"]["inputs"]["tokens"] == [tokens["address"]]
        ]
        assert sorted(manifest["request"]["shard"] for manifest in shards) == [[index, 4] for index in range(4)]
        scored: list[str] = []
        for manifest in shards:
            scored += pq.read_table(store.open(manifest["address"]) / "scores.parquet").column("id").to_pylist()
        assert sorted(scored) == sorted(asked)


@pytest.fixture(scope="session")
def undisturbed(four: Path) -> Contents:
    """What a run with four shards makes when nobody harms it."""
    made = contents(four)
    return {address: made[address] for address in planned()[:-1]}


@contextmanager
def started_in_sessions(
    words: list[str], environment: dict[str, str], log: Path
) -> Iterator[Callable[[], "subprocess.Popen[bytes]"]]:
    """What starts a command in a session of its own; inside the block, after which nothing of it is left."""
    sessions: list[subprocess.Popen[bytes]] = []

    def start() -> "subprocess.Popen[bytes]":
        with log.open("ab") as output:
            started = subprocess.Popen(words, env=environment, stdout=output, stderr=output, start_new_session=True)
        sessions.append(started)
        return started

    try:
        yield start
    finally:
        for session in sessions:
            kill_session(session)
            session.wait()


def kill_session(leader: "subprocess.Popen[bytes]") -> None:
    with suppress(ProcessLookupError):
        os.killpg(leader.pid, signal.SIGKILL)
