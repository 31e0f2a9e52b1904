"""After a collection all that is kept is whole, with all that it was made from, and nothing else is there."""

import json
import os
import tempfile
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from shelf import HOUR, orphan, put

from montessori.artifacts import Folder, Store, gc
from montessori.artifacts.store import MANIFEST, find_damage
from montessori.errors import ArtifactError
from montessori.refresh import champions, nights
from montessori.refresh.nights import Night
from tasks.runtime import retention, status
from tasks.runtime.status import Shard, Status

GRACE_S = 24 * HOUR
OLD, YOUNG = 48.0, 1.0


@pytest.fixture
def store(tmp_path: Path) -> Folder:
    return Folder(tmp_path / "store")


def collect(store: Store, *runs: str, grace_s: float = GRACE_S, dropped: tuple[str, ...] = ()) -> gc.Garbage:
    planned = gc.find_garbage(store, retention.roots(store, runs, grace_s), grace_s, dropped)
    gc.collect(store, planned, lambda: retention.in_use(store, grace_s))
    retention.remove_old_statuses(store, grace_s)
    return planned


def speaks(store: Store, run: str, *parts: str, state: str = "running", ago_h: float = 0.0, uses: tuple = ()) -> None:
    heard = status.now() - timedelta(hours=ago_h)
    shards = [Shard(address=part, title=part) for part in parts]
    who = {"user": "u", "host": "h"}
    told = {"run": run, "state": state, "started": heard, "heard": heard, "who": who, "shards": shards, "uses": uses}
    status.save(store, Status.model_validate(told))


@st.composite
def shelves(draw):
    """Artifacts with their parents, which of them are young, and which are roots of which kind."""
    stages = ("seeds", "student", "teacher", "runs")
    nodes: dict[str, tuple[list[str], bool]] = {}
    for number in range(draw(st.integers(1, 10))):
        stage = draw(st.sampled_from(stages))
        parents = draw(st.lists(st.sampled_from(sorted(nodes)), unique=True, max_size=3)) if nodes else []
        nodes[f"{stage}/{number}"] = (parents, draw(st.booleans()))
    some = st.lists(st.sampled_from(sorted(nodes)), unique=True, max_size=2)
    return nodes, draw(some), draw(some), draw(some)


def closure(nodes, roots):
    seen, todo = set(), list(roots)
    while todo:
        address = todo.pop()
        if address in nodes and address not in seen:
            seen.add(address)
            todo += nodes[address][0]
    return seen


@settings(max_examples=30, deadline=None)
@given(shelves())
def test_exactly_what_is_young_or_reachable_from_a_root_is_left_and_it_is_whole(shelf):
    nodes, runs, promoted, at_work = shelf
    with tempfile.TemporaryDirectory() as room:
        store = Folder(room)
        for address, (parents, young) in nodes.items():
            put(store, address, *parents, age_h=YOUNG if young else OLD)
        teachers = [address for address in promoted if address.startswith("teacher/")]
        for teacher in teachers:
            champions.promote(store, "tiny", teacher)
        speaks(store, "runs/new", *at_work)
        collect(store, *runs)
        young = [address for address, (_, is_young) in nodes.items() if is_young]
        assert set(store.addresses()) == closure(nodes, [*runs, *teachers, *at_work, *young])
        assert [find_damage(Folder(room), address) for address in store.addresses()] == [None] * len(
            list(store.addresses())
        )


class Killed(Exception):
    pass


@settings(max_examples=30, deadline=None)
@given(shelves(), st.integers(0, 10))
def test_killed_at_any_moment_every_artifact_that_is_left_has_its_parents(shelf, after):
    nodes, runs, *_ = shelf
    with tempfile.TemporaryDirectory() as room:
        store = Folder(room)
        for address, (parents, _) in nodes.items():
            put(store, address, *parents, age_h=OLD)
        asked = 0

        def wanted():
            nonlocal asked
            asked += 1
            if asked > after:
                raise Killed
            return set()

        planned = gc.find_garbage(store, runs, GRACE_S)
        try:
            gc.collect(store, planned, wanted)
        except Killed:
            left = set(store.addresses())
            assert left >= closure(nodes, runs)
            assert all(set(nodes[address][0]) <= left for address in left)
            collect(store, *runs)
        assert set(store.addresses()) == closure(nodes, runs)


def test_a_plan_removes_nothing(store):
    put(store, "student/a", age_h=OLD)
    planned = gc.find_garbage(store, [], GRACE_S)
    assert [entry.address for entry in planned.removed] == ["student/a"]
    assert store.exists("student/a")


def test_a_young_artifact_keeps_what_it_was_made_from(store):
    put(store, "seeds/a", age_h=OLD)
    put(store, "student/a", "seeds/a", age_h=YOUNG)
    collect(store)
    assert list(store.addresses()) == ["seeds/a", "student/a"]


def test_a_dropped_run_goes_however_young_and_what_it_shares_stays(store):
    put(store, "seeds/shared", age_h=OLD)
    put(store, "student/own", "seeds/shared", age_h=OLD)
    put(store, "runs/one", "student/own", age_h=YOUNG)
    put(store, "runs/two", "seeds/shared", age_h=OLD)
    speaks(store, "runs/one", "student/own", state="done")
    collect(store, "runs/two", dropped=("runs/one",))
    assert list(store.addresses()) == ["runs/two", "seeds/shared"]
    assert status.all_statuses(store) == []


def test_every_teacher_that_was_champion_stays_so_that_a_rollback_finds_it(store):
    put(store, "scratch-teacher/base", age_h=OLD)
    for name in "abc":
        put(store, f"teacher/{name}", age_h=OLD)
    champions.promote(store, "tiny", "scratch-teacher/base")
    champions.promote(store, "tiny", "teacher/a")
    champions.promote(store, "tiny", "teacher/b")
    champions.rollback(store, "tiny")
    collect(store)
    assert list(store.addresses()) == ["scratch-teacher/base", "teacher/a", "teacher/b"]
    assert store.exists(champions.rollback(store, "tiny").teacher)


def test_the_teacher_with_which_a_night_began_stays(store):
    put(store, "teacher/a", age_h=OLD)
    nights.begin(store, Night(name="tiny", night="2026-11-23", digits="12345678", champion="teacher/a", entry=1))
    collect(store)
    assert list(store.addresses()) == ["teacher/a"]


@pytest.mark.parametrize(
    ("state", "ago_h", "stays"),
    [("running", 1, True), ("running", OLD, False), ("failed", 1, True), ("failed", OLD, False), ("done", 1, False)],
)
def test_what_a_run_makes_and_takes_stays_while_it_may_go_on(store, state, ago_h, stays):
    for address in ("student/made", "teacher/taken"):
        put(store, address, age_h=OLD)
    speaks(store, "runs/new", "student/made", "student/to-come", state=state, ago_h=ago_h, uses=("teacher/taken",))
    collect(store)
    assert list(store.addresses()) == (["student/made", "teacher/taken"] if stays else [])
    assert bool(status.all_statuses(store)) == stays


def test_a_run_at_work_is_safe_without_any_grace(store):
    put(store, "student/made", age_h=OLD)
    speaks(store, "runs/new", "student/made")
    collect(store, grace_s=0)
    assert store.exists("student/made")


def test_what_a_run_takes_up_between_the_plan_and_the_end_stays(store):
    put(store, "seeds/a", age_h=OLD)
    put(store, "student/a", "seeds/a", age_h=OLD)
    put(store, "student/b", "seeds/a", age_h=OLD)
    planned = gc.find_garbage(store, [], GRACE_S)
    speaks(store, "runs/new", "student/a")
    gc.collect(store, planned, lambda: retention.in_use(store, GRACE_S))
    assert list(store.addresses()) == ["seeds/a", "student/a"]


def test_an_artifact_that_settings_named_as_a_file_is_a_parent(store):
    put(store, "student/a", age_h=OLD)
    put(store, "evaluation/a", f"file:{store.root}/student/a/file#12ab", age_h=OLD)
    put(store, "runs/a", "evaluation/a", age_h=OLD)
    collect(store, "runs/a")
    assert store.exists("student/a")


def test_a_kept_artifact_whose_parent_was_deleted_by_hand_stays(store):
    put(store, "seeds/a", age_h=OLD)
    put(store, "student/a", "seeds/a", age_h=OLD)
    store.delete("seeds/a")
    collect(store, "student/a")
    assert list(store.addresses()) == ["student/a"]


def test_old_journals_of_what_was_never_finished_go_and_young_ones_stay(store):
    for name in ("old", "young", "in-use"):
        with store.journal(f"instructions/{name}") as journal:
            journal.add({"text": "answer"}, {"tokens": 1})
    for name in ("old", "in-use"):
        folder = store.root / ".journals" / f"instructions+{name}"
        for path in (*folder.iterdir(), folder):
            os.utime(path, (0, 0))
    speaks(store, "runs/new", "instructions/in-use")
    planned = collect(store)
    assert [journal.address for journal in planned.journals] == ["instructions/old"]
    assert sorted(journal.address for journal in store.journals()) == ["instructions/in-use", "instructions/young"]


def test_a_journal_that_is_being_written_stays(store):
    with store.journal("instructions/a") as journal:
        journal.add({"text": "answer"}, {"tokens": 1})
        store.drop_journal("instructions/a")
        journal.add({"text": "another"}, {"tokens": 2})
        assert len(journal.entries()) == 2


def test_what_killed_writers_left_is_counted_and_removed(store):
    orphan(store)
    assert gc.find_garbage(store, [], GRACE_S).orphans == 100_000
    collect(store)
    assert gc.find_garbage(store, [], GRACE_S).orphans == 0


def test_nothing_goes_while_nobody_knows_what_a_kept_artifact_was_made_from(store):
    put(store, "seeds/a", age_h=OLD)
    put(store, "runs/a", "seeds/a", age_h=OLD)
    (store.root / "runs/a" / MANIFEST).write_text("{half")
    with pytest.raises(ArtifactError, match="manifest of runs/a cannot be read"):
        collect(store, "runs/a")
    assert store.exists("seeds/a")


@pytest.mark.parametrize("document", [".champions/tiny/000001.json", ".refresh/tiny/n.json", ".status/runs/a.json"])
def test_nothing_goes_while_a_document_cannot_be_read(store, document):
    put(store, "seeds/a", age_h=OLD)
    store.write(document, json.dumps({"half": 1}).encode())
    with pytest.raises(ArtifactError, match=document):
        collect(store)
    assert store.exists("seeds/a")
