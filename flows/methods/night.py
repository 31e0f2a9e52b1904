"""Request the tasks of one night of the teacher's refresh."""

from flows.methods.montessori_instruct import System, inputs_of, request_base, score_after_update, teach, tune_teacher
from flows.requests.builder import Address, Who
from flows.requests.steps import Steps
from montessori.artifacts import identity
from montessori.refresh.nights import CHALLENGER, CHAMPION, Night


def request_night(steps: Steps, night: Night) -> Address:
    """Request every task of `night`, and return the address of its comparison.

    The students of champion and challenger are pairs, with the same base student, training size and seed.
    """
    start = request_base(steps)
    assert start.teacher, "the settings have a teacher"
    settings = steps.settings
    champion = night.champion or start.teacher
    first = identity(champion) == identity(start.teacher)
    if first:
        champion = start.teacher  # its present address
    writer = start.writer if first else champion
    seeds = [f"night {night.night}, pair {number}" for number in range(1, settings.refresh.seeds + 1)]

    def students(teacher: Address, role: str) -> list[System]:
        return [
            teach(steps, start, teacher, _who(role, number), purpose=seed, training_purpose=seed)
            for number, seed in enumerate(seeds, 1)
        ]

    present = students(writer, CHAMPION)
    probed = start.student if first or settings.probing.student == "base" else present[0].student
    who, purpose = Who(CHALLENGER), f"night {night.night}, probing"
    tuned = tune_teacher(steps, start, champion, writer=writer, probed=probed, purpose=purpose, who=who)
    new = students(tuned.teacher, CHALLENGER)

    by_name = {**tuned.inputs, **score_after_update(steps, tuned, new[0], who)}
    iteration = {f"1:{name}": addresses for name, addresses in by_name.items()}
    inputs = {**inputs_of([*present, *new]), **iteration, "reference": [start.reference], "champion": [champion]}
    inputs |= {"test": [start.test]} if start.test else {}
    return steps.refresh(night.night, [system.who for system in (*present, *new)], inputs)


def _who(role: str, number: int) -> Who:
    return Who(role) if number == 1 else Who(role, part=f"seed {number}")
