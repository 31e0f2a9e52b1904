"""Which artifact each task of the method is given."""

from pathlib import Path

import pytest

from flows.requests.run import plan
from montessori.artifacts import Request
from montessori.settings import files

TINY = Path(__file__).resolve().parents[2] / "montessori/configs/tiny.yaml"


@pytest.fixture(scope="module")
def requests() -> list[Request]:
    steps, _ = plan(files.load(TINY, ["iterations=2"]))
    return list(steps.requests.values())


def one(requests: list[Request], label: str) -> Request:
    (found,) = (request for request in requests if request.label == label)
    return found


def test_every_student_begins_as_the_base_student_and_never_as_the_warmed_up_copy(requests: list[Request]) -> None:
    base = one(requests, "student from scratch").address
    trained = [request for request in requests if request.stage == "student"]
    assert len(trained) == 3
    assert {student for request in trained for student in request.inputs["student"]} == {base}
    warm = one(requests, "Montessori iteration 1: warm-up")
    assert all(
        request.inputs["student"] == [warm.address]
        for request in requests
        if request.label == "Montessori iteration 1: influence"
    )


def test_each_iteration_tunes_the_teacher_of_the_one_before_and_probes_its_student(requests: list[Request]) -> None:
    teachers = [one(requests, f"Montessori iteration {number}: DPO of the teacher") for number in (1, 2)]
    assert teachers[0].inputs["teacher"] == [one(requests, "teacher from scratch").address]
    assert teachers[1].inputs["teacher"] == [teachers[0].address]
    student = one(requests, "Montessori iteration 1: student")
    assert one(requests, "Montessori iteration 2: warm-up").inputs["student"] == [student.address]


def test_each_set_of_instructions_has_a_seed_of_its_own_and_training_sets_share_one(requests: list[Request]) -> None:
    """Self-Instruct and Montessori are compared on the same draws; what is probed is drawn anew."""
    written = [request for request in requests if request.stage == "instructions"]
    training = {request.seed for request in written if request.part == "training set"}
    probing = [request.seed for request in written if request.part == ""]
    assert len(training) == 1
    assert len(set(probing)) == len(probing) == 2
    assert not training & set(probing)
