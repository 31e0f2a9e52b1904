"""A run tells the store how it goes, whatever becomes of it, and of the store."""

import logging
from datetime import timedelta
from pathlib import Path

import pytest

from montessori.artifacts import Folder, Request
from montessori.errors import StageError, StoreUnreachable
from tasks.runtime import retention, status, status_writer
from tasks.runtime.executor import Record
from tasks.runtime.status_writer import StatusWriter


@pytest.fixture
def store(tmp_path: Path) -> Folder:
    return Folder(tmp_path / "store")


def ask(stage: str, *inputs: str, shard: tuple[int, int] = (0, 1)) -> Request:
    return Request(stage=stage, version=1, settings={}, inputs={"x": list(inputs)}, seed=0, shard=shard)


@pytest.fixture
def requests() -> dict[str, Request]:
    """Two shards that take a champion from elsewhere, and their run."""
    shards = [ask("influence", "teacher/champion", "hub:some/model@main", shard=(n, 2)) for n in range(2)]
    run = ask("report", *(shard.address for shard in shards)).model_copy(update={"kept_as": "runs/tiny-11111111"})
    return {request.address: request for request in [*shards, run]}


def writing(store: Folder, requests: dict[str, Request], records: dict[str, Record] | None = None) -> StatusWriter:
    return StatusWriter(store, requests, records or {}, run=list(requests)[-1])


def heard(store: Folder) -> status.Status:
    (found,) = status.all_statuses(store)
    return found


def test_it_names_everything_from_the_start_and_what_it_takes_from_elsewhere(store, requests):
    with writing(store, requests):
        found = heard(store)
        assert (found.run, found.state, found.finished) == ("runs/tiny-11111111", "running", 0)
        assert [shard.title for shard in found.shards] == ["influence 1/2", "influence 2/2", "report"]
        assert {shard.state for shard in found.shards} == {"waiting"}
        assert retention.in_use(store, 0) == {*requests, "teacher/champion"}
    assert heard(store).state == "done"
    assert retention.in_use(store, 3600) == set()


def test_it_tells_how_far_each_shard_is_how_fast_and_what_went_wrong(store, requests, monkeypatch):
    monkeypatch.setattr(status_writer, "EVERY_S", 0.01)
    first, second, _ = requests
    records = {
        first: Record(requests[first], "done", attempts=2, seconds=4.0, done=(90, 100, "points")),
        second: Record(requests[second], "running", attempts=1, done=(10, 100, "points")),
    }
    with pytest.raises(StageError), writing(store, requests, records):
        while heard(store).shards[1].done != 10:
            pass
        records[second].done = (60, 100, "points")
        while heard(store).shards[1].done != 60:
            pass
        one, two, _ = heard(store).shards
        assert (one.state, one.attempts, one.progress, one.rate) == ("done", 2, "100/100 points", 25)
        assert (two.state, two.progress) == ("running", "60/100 points")
        assert two.rate and two.rate > 0
        records[second].state, records[second].error = "failed", "out of memory"
        raise StageError("influence 2/2 failed after one attempt: out of memory")
    found = heard(store)
    assert (found.state, found.finished) == ("failed", 1)
    assert found.error.startswith("influence 2/2 failed")
    assert (found.shards[1].state, found.shards[1].error) == ("failed", "out of memory")


def test_one_that_was_stopped_says_so(store, requests):
    with pytest.raises(KeyboardInterrupt), writing(store, requests):
        raise KeyboardInterrupt
    assert heard(store).state == "stopped"


def test_the_last_word_of_a_process_that_leaves_is_that_it_was_stopped(store, requests):
    with writing(store, requests):
        status_writer.write_stopped()
        assert heard(store).state == "stopped"
    status_writer.write_stopped()  # nobody is left to say anything


def test_it_says_something_even_when_nothing_changes_or_it_would_pass_for_killed(store, requests, monkeypatch):
    monkeypatch.setattr(status_writer, "EVERY_S", 0.01)
    monkeypatch.setattr(status, "BEAT_S", 0.05)
    with writing(store, requests):
        first = heard(store).heard
        while heard(store).heard == first:
            pass


def test_who_has_said_nothing_for_long_is_silent(store, requests):
    with writing(store, requests):
        found = heard(store)
    assert not found.silent(found.heard + timedelta(seconds=status.BEAT_S))
    assert found.silent(found.heard + timedelta(seconds=status.SILENT_S + 1))
    assert not heard(store).silent(found.heard + timedelta(days=1))  # it is done


class Unreachable(Folder):
    """A store whose server has gone."""

    def write(self, name: str, content: bytes) -> None:
        raise StoreUnreachable("the server does not answer")


def test_a_store_that_takes_no_news_does_not_fail_the_run(tmp_path, requests, caplog):
    with caplog.at_level(logging.WARNING), writing(Unreachable(tmp_path / "store"), requests):
        pass
    assert "the server does not answer" in caplog.text
