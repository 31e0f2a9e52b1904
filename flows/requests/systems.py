"""Ask for all systems of a run: the base student, Self-Instruct, the method's iterations, further students."""

from dataclasses import replace

from flows.methods import llm2llm, montessori_instruct, self_reward
from flows.methods.montessori_instruct import (
    UNTRAINED,
    Base,
    Iteration,
    System,
    base,
    inputs_of,
    no_fine_tuning,
    self_instruct,
    taught_on,
)
from flows.requests.builder import Address
from flows.requests.steps import Steps

METHODS = {
    "montessori": montessori_instruct.iterations,
    "self-reward": self_reward.iterations,
    "llm2llm": llm2llm.iterations,
}


def order(steps: Steps) -> Address:
    """Ask for every task of a run, and return the address of the run's own artifact."""
    start = base(steps)
    systems, iterations = compared(steps, start)
    made = {f"{i.number}:{name}": addresses for i in iterations for name, addresses in i.inputs.items()}
    inputs = {**inputs_of(systems), **made, "reference": [start.reference]}
    return steps.report([system.who for system in systems], inputs)


def compared(steps: Steps, start: Base) -> tuple[list[System], list[Iteration]]:
    """Ask for all systems that a run compares, and return them with the method's iterations."""
    untrained, unchanged = no_fine_tuning(steps, start), self_instruct(steps, start)
    iterations = METHODS[steps.settings.method](steps, start)
    learned = [unchanged, *(done.system for done in iterations)]
    others = [replace(s, who=s.who.within(student)) for student, s in transferred(steps, start, learned)]
    return [untrained, *learned, *others], iterations


def transferred(steps: Steps, start: Base, systems: list[System]) -> list[tuple[str, System]]:
    """Ask for the settings' further students, untrained and after each training set of `systems`; each by its name."""
    students: list[tuple[str, System]] = []
    for name, model in steps.settings.transfer.items():
        own = steps.for_student(name)
        other = replace(start, student=own.base_model("student", model, start.seeds))
        untrained = no_fine_tuning(own, other, UNTRAINED.within(name))
        students.append((name, replace(untrained, who=UNTRAINED)))
        for system in systems:
            taught = taught_on(own, other, system.pairs, system.who.within(name), system.instructions)
            students.append((name, replace(taught, who=system.who)))
    return students
