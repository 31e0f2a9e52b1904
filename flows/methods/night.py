"""One night of the teacher's refresh: the order of its tasks."""

from flows.methods.montessori_instruct import base, inputs_of, scored_after, taught_by, tune
from flows.requests.builder import Address, Who
from flows.requests.steps import Steps
from montessori.artifacts import identity
from montessori.refresh.nights import CHALLENGER, CHAMPION, Night


def order(steps: Steps, night: Night) -> Address:
    """Ask for every stage of `night`; the address of its comparison.

    The students of champion and challenger are pairs: a base student, a training size, and seeds that are the night's.
    """
    start = base(steps)
    assert start.teacher, "the settings have a teacher"
    asked = steps.settings
    champion = night.champion or start.teacher
    first = identity(champion) == identity(start.teacher)
    if first:
        champion = start.teacher  # where it is now
    writer = start.writer if first else champion
    seeds = [f"night {night.night}, pair {number}" for number in range(1, asked.refresh.seeds + 1)]

    known = [taught_by(steps, start, writer, _who(CHAMPION, n), seed, seed) for n, seed in enumerate(seeds, 1)]
    probed = start.student if first or asked.probing.student == "base" else known[0].student
    tuned = tune(steps, start, champion, writer, probed, purpose=f"night {night.night}, probing", who=Who(CHALLENGER))
    new = [taught_by(steps, start, tuned.teacher, _who(CHALLENGER, n), seed, seed) for n, seed in enumerate(seeds, 1)]

    made = {**tuned.inputs, **scored_after(steps, tuned, new[0], Who(CHALLENGER))}
    iteration = {f"1:{name}": found for name, found in made.items()}
    inputs = {**inputs_of([*known, *new]), **iteration, "reference": [start.reference], "champion": [champion]}
    inputs |= {"test": [start.test]} if start.test else {}
    return steps.refresh(night.night, [system.who for system in (*known, *new)], inputs)


def _who(whose: str, number: int) -> Who:
    return Who(whose) if number == 1 else Who(whose, part=f"seed {number}")
