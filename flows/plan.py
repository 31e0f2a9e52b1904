"""The stages of a run in their order, and what a run would do; without Prefect."""

from flows.iteration import System, base, iteration, no_fine_tuning, taught_by
from montessori import sources
from montessori.config import Settings
from tasks.steps import Address, Steps


def order(steps: Steps) -> Address:
    """Ask for every stage of a run; the address of the run's own artifact."""
    start = base(steps)
    systems = [no_fine_tuning(steps, start), taught_by(steps, start, start.writer, "Self-Instruct")]
    teacher, writer, student = start.teacher, start.writer, start.student
    iterations = []
    for number in range(1, steps.settings.iterations + 1):
        probed = start.student if steps.settings.probing.student == "base" else student
        assert teacher, "the settings have a teacher wherever one is tuned"
        done = iteration(steps, start, teacher, writer, probed, number)
        teacher, student = done.teacher, done.system.student
        writer = teacher
        iterations.append(done)
        systems.append(done.system)
    made = {f"{i.number}:{name}": found for i in iterations for name, found in i.inputs.items()}
    return steps.report({**inputs_of(systems), **made, "reference": [start.reference]})


def inputs_of(systems: list[System]) -> dict[str, list[Address]]:
    """Each system's artifacts, as a report is given them."""
    inputs: dict[str, list[Address]] = {}
    for system in systems:
        inputs[f"{system.name}:metrics"] = [system.metrics]
        inputs[f"{system.name}:student"] = [system.student]
        inputs[f"{system.name}:instructions"] = [system.instructions] if system.instructions else []
        inputs[f"{system.name}:pairs"] = list(system.pairs)
    return inputs


def plan(settings: Settings) -> tuple[Steps, Address]:
    """What a run would do, nothing started: all its requests, and where the run itself will be."""
    steps = Steps(settings, sources.addresses(settings), submit=lambda _: None)
    return steps, order(steps)
