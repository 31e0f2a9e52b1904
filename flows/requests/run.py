"""Prepare a run: plan its requests, and check them before anything heavy starts."""

from dataclasses import dataclass

from flows.methods.montessori_instruct import UNCHANGED, request_base
from flows.requests import evaluation
from flows.requests.builder import Address, Plan
from flows.requests.steps import Steps
from flows.requests.suite import check_benchmarks, judge_overrides, suite_of
from flows.requests.systems import request_run, request_systems
from montessori.artifacts import Request, Store, open_store
from montessori.data import sources
from montessori.errors import InputError
from montessori.evaluation.subjects import Subject
from montessori.settings import files, shipped
from montessori.settings.run import Settings
from tasks.runtime import engines, places


@dataclass(frozen=True)
class Run:
    """A run that is ready to start."""

    settings: Settings  # with `auto` engines resolved
    plan: Plan
    card: Address | None  # the scorecard of its students, if there is a suite


def prepare(settings: Settings, suite: str | None = None, judge: str | None = None, connect: bool = True) -> Run:
    """Plan a run. Nothing is started.

    `suite` and `judge` are those of `montessori evaluate`. With `connect` the judge's endpoint and the hub are checked.
    Raises InputError that names the field.
    """
    store = open_store(settings.store)
    store.check_readable()
    settings = engines.resolve(settings)
    if judge and not suite:
        raise InputError("--judge: there is no suite that it would judge; add --suite paper")
    steps, address = plan(settings)
    requests = dict(steps.requests)
    measured = _measure(steps, store, suite, judge=judge, connect=connect) if suite else []
    for request in measured:
        requests.setdefault(request.address, request)
    run = Plan(store, settings.compute, settings.generation.vllm.python, requests, address)
    return Run(settings, run, measured[-1].address if measured else None)


def plan(settings: Settings) -> tuple[Steps, Address]:
    """Return all requests of a run, and the address of the run's own artifact."""
    steps = Steps(settings, sources.addresses(settings))
    address = request_run(steps)
    steps.set_budget()
    return steps, address


def check(settings: Settings, planned: Plan) -> None:
    """Raise InputError when the missing tasks cannot run, or the store cannot be written."""
    places.check(planned.compute, planned.store)
    engines.check(settings, planned.missing)
    planned.store.check_writable()
    engines.check_room(settings, planned.missing)


def _measure(run: Steps, store: Store, suite: str, *, judge: str | None, connect: bool) -> list[Request]:
    """Return the requests that measure all students of a run on a suite, its scorecard last."""
    settings = run.settings
    path = shipped.path_of(suite, "suite", "--suite")
    own = {"store": settings.store, "compute": settings.compute.model_dump(mode="json")}
    resolved, addresses = suite_of({**files.read(path, judge_overrides(judge)), **own}, str(path), connect)
    steps = Steps(settings, run.sources)  # the sources are hashed once
    start = request_base(steps)
    subjects = [
        Subject(system.name, system.student, tuple(system.pairs), system.metrics, start.reference)
        for system in request_systems(steps, start)[0]
    ]
    requests = list(evaluation.plan(resolved, subjects, UNCHANGED.name, addresses).values())
    check_benchmarks(resolved, requests, store, connect)
    return requests
