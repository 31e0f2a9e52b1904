"""Prepare one night of the teacher's refresh: find its champion, and plan its requests."""

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

    settings: Settings  # with `auto` engines resolved, and one iteration
    night: Night
    plan: Plan


def prepare(settings: Settings, date: str) -> Refresh:
    """Plan the night of `date`, from the champion that it began with or would begin with now. Nothing is started.

    Raises InputError when there is no teacher to tune, or the champion is not in the store.
    """
    store = open_store(settings.store)
    store.check_readable()
    steps, night = plan(engines.resolve(settings), date, store)
    assert night.refresh, "the plan has it"
    compute, vllm_python = steps.settings.compute, steps.settings.generation.vllm.python
    return Refresh(steps.settings, night, Plan(store, compute, vllm_python, steps.requests, night.refresh))


def plan(settings: Settings, date: str, store: Store) -> tuple[Steps, Night]:
    """Return all requests of a night, and the night itself."""
    if settings.teacher is None:
        raise InputError("teacher is missing: a refresh tunes one")
    if settings.method != "montessori":
        raise InputError(f"method = {settings.method}: a refresh is of montessori")
    one = settings.model_copy(update={"iterations": 1})  # a night is one iteration
    steps = Steps(one, sources.addresses(one))
    entries = champions.history(store, one.name)
    night = nights.find(
        store,
        Night(
            name=one.name,
            night=date,
            digits=steps.night_digits(date),
            champion=entries[-1].teacher if entries else None,
            entry=entries[-1].number if entries else 0,
        ),
    )
    refresh = method.request_night(steps, night)
    steps.set_budget()
    (champion,) = steps.requests[refresh].inputs["champion"]
    if champion not in steps.requests and champion != steps.sources.get("teacher"):
        _check(champion, one.name, store)
    return steps, night.model_copy(update={"refresh": refresh})


def _check(champion: Address, name: str, store: Store) -> None:
    """Raise InputError when a champion from outside this night is not there."""
    if is_artifact(champion):
        exists = store.exists(champion)
    else:  # a base teacher of other or earlier settings
        exists = identity(champion) == identity(sources.model(location(champion), f"champion {name}"))
    if not exists:
        raise InputError(
            f"champion {name}: {champion} is not there any more; promote another teacher or roll back "
            f"(montessori champion --help)"
        )
