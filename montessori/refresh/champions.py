"""Keep the history of champions: the best teacher so far, by the `name` of the settings.

    .champions/<name>/000001.json, 000002.json, …

Each document is one change of the champion. The teacher of the last one is the champion. Of two writers of the same
number one succeeds. The other reads the history again.
"""

import re
from collections.abc import Callable
from typing import Literal

from pydantic import ValidationError

from montessori.artifacts import Store, is_artifact
from montessori.artifacts.catalogue import resolve
from montessori.artifacts.store import signature
from montessori.errors import ArtifactError, InputError, StageError
from montessori.evaluation.paired import PairedTest
from montessori.settings.base import Frozen

PLACE = ".champions"
NAME = re.compile(r"[a-z0-9][a-z0-9.-]*")  # as Settings.name
TEACHERS = ("teacher", "scratch-teacher")  # stages whose artifact is a teacher
TRIES = 20


class Change(Frozen):
    """One change of the champion."""

    number: int
    teacher: str  # address
    how: Literal["test", "hand", "rollback"]
    replaces: str | None  # the previous champion, at first the settings' base teacher. None: unknown
    made_by: str | None  # refresh or run that made the teacher
    test: PairedTest | None = None  # result of the test, if there was one
    who: dict[str, str]  # user, host, time


def history(store: Store, name: str) -> list[Change]:
    """Return all changes of champion `name`, the oldest first."""
    _check_name(name)
    entries = []
    for document in store.names(f"{PLACE}/{name}/"):
        text = store.read(document)
        try:
            entries.append(Change.model_validate_json(text or b""))
        except ValidationError as error:
            reason = error.errors()[0]["msg"]
            raise ArtifactError(f"{store.uri}: the document {document} is no entry of a champion ({reason})") from None
    return entries


def names(store: Store) -> list[str]:
    """Return the names of all champions, sorted."""
    return sorted({document.split("/")[1] for document in store.names(f"{PLACE}/")})


def promote(store: Store, name: str, teacher: str) -> Change:
    """Make `teacher`, an address or the start of one, the champion by hand.

    Raises InputError when the store has no such teacher, or when it already is the champion.
    """
    teacher = _resolve_teacher(store, teacher)
    made_by = _maker(store, teacher)

    def next_one(entries: list[Change]) -> Change:
        champion = entries[-1].teacher if entries else None
        if champion == teacher:
            raise InputError(f"{teacher} is the champion of {name} already")
        return _entry(entries, teacher, how="hand", replaces=champion, made_by=made_by)

    for _ in range(TRIES):
        if entry := _append(store, name, next_one):
            return entry
    raise StageError(f"champion {name}: others change it all the time; nothing was promoted, try again")


def rollback(store: Store, name: str) -> Change:
    """Make the previous champion the champion again. Raises InputError when there is none."""

    def next_one(entries: list[Change]) -> Change:
        standing = promotions(entries)
        if not standing:
            raise InputError(f"champion {name}: no promotion to take back" + _others(store, name))
        if standing[-1].replaces is None:
            raise InputError(f"champion {name}: {standing[-1].teacher} is the first, there is nothing to go back to")
        teacher = standing[-1].replaces
        made_by = next((entry.made_by for entry in reversed(entries) if entry.teacher == teacher), None)
        return _entry(entries, teacher, how="rollback", replaces=entries[-1].teacher, made_by=made_by)

    if entry := _append(store, name, next_one):
        return entry
    raise StageError(f"champion {name}: somebody else has just changed it; look at its history, then roll back again")


def promote_tested(
    store: Store, name: str, teacher: str, *, over: str, after: int, refresh: str, test: PairedTest
) -> Change:
    """Make `teacher` the champion after a test.

    `refresh` is the comparison that measured it better than `over`, the champion of entry number `after`. Further calls
    change nothing. Raises StageError when the champion has changed since.
    """

    def next_one(entries: list[Change]) -> Change:
        if entries and entries[-1].number != after:
            raise StageError(
                f"champion {name}: {entries[-1].teacher} has become champion since the comparison with {over} began, "
                f"so {teacher} was not promoted; do it by hand, if it is to be: "
                f"montessori champion promote {teacher} --name {name}"
            )
        return _entry(entries, teacher, how="test", replaces=over, made_by=refresh, test=test)

    while True:
        entries = history(store, name)
        if done := next((entry for entry in entries if entry.how == "test" and entry.made_by == refresh), None):
            return done
        if entry := _append(store, name, next_one):
            return entry


def promotions(entries: list[Change]) -> list[Change]:
    """Return the promotions that no rollback has undone. The last of them made the champion."""
    standing: list[Change] = []
    for entry in entries:
        if entry.how == "rollback":
            standing.pop()
        else:
            standing.append(entry)
    return standing


def _append(store: Store, name: str, next_one: Callable[[list[Change]], Change]) -> Change | None:
    """Append the entry that `next_one` makes of the history. Returns None when its number is taken meanwhile."""
    entry = next_one(history(store, name))
    text = entry.model_dump_json(indent=1).encode() + b"\n"
    return entry if store.create(f"{PLACE}/{name}/{entry.number:06}.json", text) else None


def _entry(
    entries: list[Change],
    teacher: str,
    *,
    how: Literal["test", "hand", "rollback"],
    replaces: str | None,
    made_by: str | None,
    test: PairedTest | None = None,
) -> Change:
    return Change(
        number=entries[-1].number + 1 if entries else 1,
        teacher=teacher,
        how=how,
        replaces=replaces,
        made_by=made_by,
        test=test,
        who=signature(),
    )


def _check_name(name: str) -> None:
    if not NAME.fullmatch(name) or ".." in name:
        raise InputError(f"--name = {name}: expected a settings' name, like tiny or llama3-8b")


def _resolve_teacher(store: Store, asked: str) -> str:
    stage = asked.partition("/")[0]
    if not is_artifact(asked) or stage not in TEACHERS:
        raise InputError(f"TEACHER = {asked}: expected a teacher's address, like teacher/3f2a…")
    try:
        teacher = resolve(asked, store.addresses(stage))
        store.exists(teacher)  # raises when one of its files is missing
    except InputError as error:
        raise InputError(f"TEACHER = {error}") from None
    except ArtifactError as error:
        raise InputError(f"TEACHER = {asked}: {error}") from None
    return teacher


def _maker(store: Store, teacher: str) -> str | None:
    """Return the refresh or run that made `teacher`, or None when it is not in the store."""
    for stage in ("refreshes", "runs"):
        for manifest in store.manifests(stage):
            inputs = manifest["request"]["inputs"]
            if any(teacher in addresses for role, addresses in inputs.items() if role.endswith(":teacher")):
                return str(manifest["address"])
    return None


def _others(store: Store, name: str) -> str:
    others = ", ".join(other for other in names(store) if other != name)
    return f"; the store has champions for: {others}" if others and name not in names(store) else ""
