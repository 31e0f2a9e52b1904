"""Request all systems of a run: the base student, Self-Instruct, the method's iterations, further students."""

from dataclasses import replace

from flows.methods import llm2llm, montessori_instruct, self_reward
from flows.methods.montessori_instruct import (
    UNTRAINED,
    Base,
    Iteration,
    System,
    inputs_of,
    measure_untrained,
    request_base,
    self_instruct,
    train_and_measure,
)
from flows.requests.builder import Address
from flows.requests.steps import Steps

METHODS = {
    "montessori": montessori_instruct.iterations,
    "self-reward": self_reward.iterations,
    "llm2llm": llm2llm.iterations,
}


def request_run(steps: Steps) -> Address:
    """Request every task of a run, and return the address of the run's own artifact."""
    start = request_base(steps)
    systems, iterations = request_systems(steps, start)
    parts = {f"{i.number}:{name}": addresses for i in iterations for name, addresses in i.inputs.items()}
    inputs = {**inputs_of(systems), **parts, "reference": [start.reference]}
    return steps.report([system.who for system in systems], inputs)


def request_systems(steps: Steps, start: Base) -> tuple[list[System], list[Iteration]]:
    """Request all systems that a run compares, and return them with the method's iterations."""
    untrained, unchanged = measure_untrained(steps, start), self_instruct(steps, start)
    iterations = METHODS[steps.settings.method](steps, start)
    learned = [unchanged, *(done.system for done in iterations)]
    others = [replace(s, who=s.who.within(student)) for student, s in request_transfer(steps, start, learned)]
    return [untrained, *learned, *others], iterations


def request_transfer(steps: Steps, start: Base, systems: list[System]) -> list[tuple[str, System]]:
    """Request further students, untrained and after each training set of `systems`. Return them with their names."""
    students: list[tuple[str, System]] = []
    for name, model in steps.settings.transfer.items():
        own = steps.for_student(name)
        other = replace(start, student=own.base_model("student", model, start.seeds))
        untrained = measure_untrained(own, other, UNTRAINED.within(name))
        students.append((name, replace(untrained, who=UNTRAINED)))
        for system in systems:
            who = system.who.within(name)
            trained = train_and_measure(own, other, system.pairs, who=who, instructions=system.instructions)
            students.append((name, replace(trained, who=system.who)))
    return students
