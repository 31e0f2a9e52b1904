"""Stages without Prefect: each begins when its inputs are there, whatever waits before it, and no failure is hidden."""

import threading
from pathlib import Path
from typing import Any

import pytest

from montessori.artifacts import Folder, Request, Store
from montessori.errors import InputError, StageError
from montessori.settings.execution import Compute
from tasks.runtime.executor import Executor, Progress, Record, observed_by
from tasks.runtime.local import THREADS, LocalExecutor


class Place:
    """Makes empty artifacts and notes their order; those named in `errors` fail, those in `held` wait for `go`."""

    def __init__(self, errors: dict[str, Exception] | None = None, held: set[str] | None = None):
        self.errors, self.held = errors or {}, held or set()
        self.made: list[str] = []
        self.go, self.reached = threading.Event(), threading.Event()

    def run(self, request: Request, store: Store, on_progress: Any, on_start: Any = None) -> None:
        if request.role in self.held:
            self.reached.set()
            assert self.go.wait(20)
        on_start()
        if error := self.errors.get(request.role):
            raise error
        with store.staging() as folder:
            store.commit(request.address, folder, {"seconds": 0.0, "summary": {}})
        self.made.append(request.role)

    def close(self) -> None:
        pass


def asked(label: str, *inputs: Request) -> Request:
    return Request(
        stage="seeds",
        version=1,
        settings={"label": label},
        inputs={"of": [one.address for one in inputs]},
        seed=0,
        role=label,
    )


def execution(folder: Path, place: Place, one_input: bool = False) -> LocalExecutor:
    return LocalExecutor(Folder(folder), place, Compute(retries=0), one_input=one_input)


class States:
    """An observer that notes each state."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    def update(self, record: Record, progress: Progress | None) -> None:
        self.seen.append(record.state)


def test_a_stage_that_waits_for_its_turn_is_not_said_to_run(tmp_path: Path) -> None:
    place = Place(held={"slow"})
    direct, slow = execution(tmp_path, place), asked("slow")
    states = States()
    with observed_by(states):
        direct.submit(slow)
        assert place.reached.wait(20)
        assert states.seen == []
        place.go.set()
        direct.finish()
    assert states.seen == ["running", "done"]


def test_a_stage_begins_when_its_inputs_are_there_though_others_wait_before_it(tmp_path: Path) -> None:
    place = Place(held={"slow"})
    direct = execution(tmp_path, place)
    slow = asked("slow")
    waiting = [asked(f"waiting {number}", slow) for number in range(2 * THREADS)]
    quick = asked("quick")
    for request in (slow, *waiting, quick, asked("after quick", quick)):
        direct.submit(request)
    while place.made[-1:] != ["after quick"]:  # before anything that needs the slow one
        assert not direct._futures[slow.address].done()
        threading.Event().wait(0.01)
    assert place.made == ["quick", "after quick"]
    place.go.set()
    direct.finish()
    assert len(place.made) == 3 + 2 * THREADS


def test_requests_that_come_while_others_run_lose_nothing(tmp_path: Path) -> None:
    place = Place()
    direct = execution(tmp_path, place)
    requests = [asked(str(number)) for number in range(300)]
    for request in requests:
        direct.submit(request)
    direct.finish()
    assert sorted(place.made) == sorted(request.role for request in requests)


def test_what_a_failed_stage_feeds_does_not_run_and_the_others_do(tmp_path: Path) -> None:
    place = Place({"bad": StageError("no luck")})
    direct = execution(tmp_path, place)
    bad = asked("bad")
    for request in (bad, asked("child", bad), asked("other")):
        direct.submit(request)
    with pytest.raises(StageError, match=r"bad failed after one attempt: no luck\. Not run, since they need it: 1"):
        direct.finish()
    assert place.made == ["other"]


@pytest.mark.parametrize("one_input", [False, True])
def test_wrong_input_stops_the_rest_where_that_reads_the_same_input(tmp_path: Path, one_input: bool) -> None:
    place = Place({"wrong": InputError("seeds: no rows")}, held={"first"})
    direct = execution(tmp_path, place, one_input)
    first = asked("first")
    direct.submit(asked("wrong"))
    direct.submit(first)
    direct.submit(asked("second", first))
    while direct.records[asked("wrong").address].state != "failed":
        threading.Event().wait(0.01)
    place.go.set()
    with pytest.raises(InputError, match="seeds: no rows"):
        direct.finish()
    assert ("second" in place.made) == (not one_input)


def test_an_error_that_no_record_tells_of_is_raised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    direct = execution(tmp_path, Place())

    def broken(*_: Any) -> bool:
        raise RuntimeError("of our own making")

    monkeypatch.setattr(Executor, "run", broken)
    direct.submit(asked("any"))
    with pytest.raises(RuntimeError, match="of our own making"):
        direct.finish()
