"""How many GPUs a task gets, and that tasks which want several never wait for each other for ever."""

import threading
from collections.abc import Callable
from queue import SimpleQueue

import pytest

from montessori.artifacts import Request
from montessori.errors import InputError
from montessori.settings.execution import Compute
from tasks.runtime.places import Processes, gpus

Machine = Callable[..., Processes]


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    """`machine("0,1,2", at_once=…, training_processes=…)`: a place on a machine with these GPUs."""

    def build(gpus: str, **compute: int) -> Processes:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", gpus)
        return Processes(Compute(**compute), "none")

    return build


@pytest.mark.parametrize(("visible", "seen"), [("-1", []), ("", []), ("0, 2", ["0", "2"]), ("0,-1,1", ["0"])])
def test_gpus_are_counted_as_cuda_does(visible: str, seen: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert gpus() == seen


def wants(processes: int) -> Request:
    means = {"training_processes": processes} if processes > 1 else {}
    return Request(stage="student", version=1, settings={}, inputs={}, seed=0, means=means)


def test_a_training_in_three_processes_sees_three_gpus_and_gives_them_back(machine: Machine) -> None:
    place = machine("0,1,2,3", training_processes=3)
    for _ in range(3):
        with place._slot(wants(3)) as seen, place._slot(wants(1)) as other:
            assert seen and other
            assert len(set(seen.split(","))) == 3
            assert {*seen.split(","), other} == {"0", "1", "2", "3"}


def test_gpus_that_stages_share_are_seen_once(machine: Machine) -> None:
    place = machine("0,1", at_once=4, training_processes=2)
    with place._slot(wants(1)), place._slot(wants(2)) as seen:
        assert seen == "0,1"


def test_without_gpus_a_training_in_processes_takes_what_the_cores_have(machine: Machine) -> None:
    place = machine("", at_once=2, training_processes=4)
    with place._slot(wants(4)) as seen:
        assert seen is None
        assert place._slots.empty()
    assert place._slots.qsize() == 2


@pytest.mark.parametrize("gpus", ["0,1,2", ""])
def test_stages_that_want_several_all_get_their_turn(machine: Machine, gpus: str) -> None:
    place = machine(gpus, at_once=3, training_processes=2)
    done: SimpleQueue[int] = SimpleQueue()

    def stages(wanted: int) -> None:
        for _ in range(200):
            with place._slot(wants(wanted)):
                pass
        done.put(wanted)

    threads = [threading.Thread(target=stages, args=(wanted,), daemon=True) for wanted in (1, 2, 2, 1, 2, 1)]
    for thread in threads:
        thread.start()
    assert sorted(done.get(timeout=60) for _ in threads) == [1, 1, 1, 2, 2, 2]
    assert place._slots.qsize() == 3


@pytest.mark.parametrize(("gpus", "compute"), [("0,1", {}), ("0,1,2,3", {"at_once": 2})])
def test_more_processes_than_stages_get_gpus_are_wrong_input(
    machine: Machine, gpus: str, compute: dict[str, int]
) -> None:
    with pytest.raises(InputError, match=r"compute\.training_processes \(3\) exceeds the GPUs that tasks get \(2\)"):
        machine(gpus, training_processes=3, **compute)
