"""One night of the refresh: the champion that it begins with, and its stages in their order; without Prefect."""

from flows.methods.montessori_instruct import base, scored_after, taught_by, tune
from flows.requests.run import inputs_of
from flows.requests.steps import Address, Steps
from montessori.artifacts import Store, identity, is_artifact
from montessori.data import sources
from montessori.errors import InputError
from montessori.refresh import champions, nights
from montessori.refresh.nights import CHALLENGER, CHAMPION, Night
from montessori.settings.schema import Settings
from tasks.runtime.job import location


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

    known = [taught_by(steps, start, writer, _name(CHAMPION, n), seed, seed) for n, seed in enumerate(seeds, 1)]
    probed = start.student if first or asked.probing.student == "base" else known[0].student
    tuned = tune(steps, start, champion, writer, probed, f"night {night.night}, probing", CHALLENGER)
    new = [taught_by(steps, start, tuned.teacher, _name(CHALLENGER, n), seed, seed) for n, seed in enumerate(seeds, 1)]

    made = {**tuned.inputs, **scored_after(steps, tuned, new[0], CHALLENGER)}
    iteration = {f"1:{name}": found for name, found in made.items()}
    inputs = {**inputs_of([*known, *new]), **iteration, "reference": [start.reference], "champion": [champion]}
    return steps.refresh(night.night, inputs | ({"test": [start.test]} if start.test else {}))


def plan(settings: Settings, night: str, store: Store) -> tuple[Steps, Night]:
    """What `night` would do, nothing started: its requests, and itself, as it was begun or would be begun now.

    Raises InputError when there is no teacher to tune, or the champion cannot be found.
    """
    if settings.teacher is None:
        raise InputError("teacher is missing: a refresh tunes one")
    if settings.method != "montessori":
        raise InputError(f"method = {settings.method}: a refresh is of montessori")
    one = settings.model_copy(update={"iterations": 1})  # the only number that means a night
    steps = Steps(one, sources.addresses(one), submit=lambda _: None)
    entries = champions.history(store, one.name)
    found = nights.find(
        store,
        Night(
            name=one.name,
            night=night,
            digits=steps.digits_of(night),
            champion=entries[-1].teacher if entries else None,
            entry=entries[-1].number if entries else 0,
        ),
    )
    refresh = order(steps, found)
    (champion,) = steps.requests[refresh].inputs["champion"]
    if champion not in steps.requests and champion != steps.sources.get("teacher"):
        _check(champion, one.name, store)
    return steps, found.model_copy(update={"refresh": refresh})


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


def _name(whose: str, number: int) -> str:
    return whose if number == 1 else f"{whose}, seed {number}"
