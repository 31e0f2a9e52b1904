"""The stages of a run in their order, and what a run would do; without Prefect."""

from dataclasses import replace

from flows.commands.evaluate import check_benchmarks, judged_by, suited
from flows.methods import llm2llm, montessori_instruct, self_reward
from flows.methods.montessori_instruct import Base, Iteration, System, base, no_fine_tuning, self_instruct, taught_on
from flows.requests import evaluation
from flows.requests.steps import Address, Steps
from montessori.artifacts import Request, open_store
from montessori.data import sources
from montessori.evaluation.subjects import Subject
from montessori.settings import files, shipped
from montessori.settings.schema import Settings

METHODS = {
    "montessori": montessori_instruct.iterations,
    "self-reward": self_reward.iterations,
    "llm2llm": llm2llm.iterations,
}


def order(steps: Steps) -> Address:
    """Ask for every stage of a run; the address of the run's own artifact."""
    start = base(steps)
    systems, iterations = compared(steps, start)
    made = {f"{i.number}:{name}": found for i in iterations for name, found in i.inputs.items()}
    return steps.report({**inputs_of(systems), **made, "reference": [start.reference]})


def compared(steps: Steps, start: Base) -> tuple[list[System], list[Iteration]]:
    """Ask for all that a run compares: the base student, Self-Instruct, the method's iterations, further students."""
    untrained, unchanged = no_fine_tuning(steps, start), self_instruct(steps, start)
    iterations = METHODS[steps.settings.method](steps, start)
    learned = [unchanged, *(done.system for done in iterations)]
    others = [replace(s, name=f"{s.name}, {student}") for student, s in transferred(steps, start, learned)]
    return [untrained, *learned, *others], iterations


def transferred(steps: Steps, start: Base, systems: list[System]) -> list[tuple[str, System]]:
    """Ask for what the settings' further students do, as they are and after each training set of `systems`, by name."""
    found: list[tuple[str, System]] = []
    for name, model in steps.settings.transfer.items():
        own = steps.for_student(name)
        other = replace(start, student=own.base_model("student", model, start.seeds))
        untrained = no_fine_tuning(own, other, f"No fine-tuning, {name}")
        found.append((name, replace(untrained, name="No fine-tuning")))
        for system in systems:
            taught = taught_on(own, other, system.pairs, f"{system.name}, {name}", system.instructions)
            found.append((name, replace(taught, name=system.name)))
    return found


def benchmarks(settings: Settings, suite: str | None, judge: str | None, connect: bool = True) -> list[Request]:
    """What it takes to measure all students of a run on a suite, its scorecard last; nothing without a suite.

    `suite` and `judge` are as `montessori evaluate` takes them, `connect` whether the judge and the hub are asked.
    """
    if suite is None:
        return []
    path = shipped.path_of(suite, "suite", "--suite")
    own = {"store": settings.store, "compute": settings.compute.model_dump(mode="json")}
    asked, found = suited({**files.read(path, judged_by(judge)), **own}, str(path), connect)
    steps = Steps(settings, sources.addresses(settings), submit=lambda _: None)
    start = base(steps)
    subjects = [
        Subject(system.name, system.student, tuple(system.pairs), system.metrics, start.reference)
        for system in compared(steps, start)[0]
    ]
    requests = evaluation.plan(asked, subjects, "Self-Instruct", found).requests
    check_benchmarks(asked, requests, open_store(settings.store), connect)
    return requests


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
