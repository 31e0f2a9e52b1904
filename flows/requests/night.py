"""Prepare one night of the teacher's refresh: the champion that it begins with, and all its requests."""

from dataclasses import dataclass

from flows.methods import night as method
from flows.requests.builder import Address, Plan
from flows.requests.steps import Steps
from montessori.artifacts import Store, identity, is_artifact, open_store
from montessori.data import sources
from montessori.errors import InputError
from montessori.refresh import champions, nights
from montessori.refresh.nights import Night
from montessori.settings.run import Settings
from tasks.runtime import engines
from tasks.runtime.job import location


@dataclass(frozen=True)
class Refresh:
    """A night that is ready to start."""

    settings: Settings  # with `auto` engines settled, of one iteration
    night: Night
    plan: Plan


def prepare(settings: Settings, date: str) -> Refresh:
    """Plan the night of `date`, as it was begun or would be begun now. Nothing is started.

    Raises InputError when there is no teacher to tune, or the champion cannot be found.
    """
    store = open_store(settings.store)
    store.check_readable()
    steps, night = plan(engines.settled(settings), date, store)
    assert night.refresh, "the plan has it"
    compute, vllm_python = steps.settings.compute, steps.settings.generation.vllm.python
    return Refresh(steps.settings, night, Plan(store, compute, vllm_python, steps.requests, night.refresh))


def plan(settings: Settings, date: str, store: Store) -> tuple[Steps, Night]:
    """Return all requests of a night, and the night itself."""
    if settings.teacher is None:
        raise InputError("teacher is missing: a refresh tunes one")
    if settings.method != "montessori":
        raise InputError(f"method = {settings.method}: a refresh is of montessori")
    one = settings.model_copy(update={"iterations": 1})  # the only number that means a night
    steps = Steps(one, sources.addresses(one))
    entries = champions.history(store, one.name)
    night = nights.find(
        store,
        Night(
            name=one.name,
            night=date,
            digits=steps.digits_of(date),
            champion=entries[-1].teacher if entries else None,
            entry=entries[-1].number if entries else 0,
        ),
    )
    refresh = method.order(steps, night)
    steps.hold_to_budget()
    (champion,) = steps.requests[refresh].inputs["champion"]
    if champion not in steps.requests and champion != steps.sources.get("teacher"):
        _check(champion, one.name, store)
    return steps, night.model_copy(update={"refresh": refresh})


def _check(champion: Address, name: str, store: Store) -> None:
    """Raise InputError when a champion that this night cannot make is not there."""
    if is_artifact(champion):
        there = store.exists(champion)
    else:  # a base teacher of other settings, or of these before they were changed
        there = identity(champion) == identity(sources.model(location(champion), f"champion {name}"))
    if not there:
        raise InputError(
            f"champion {name}: {champion} is not there any more; promote another teacher or roll back "
            f"(montessori champion --help)"
        )
