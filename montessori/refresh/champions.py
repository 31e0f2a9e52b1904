"""The champions: which teacher is the best so far, by settings `name`, as a history that only grows.

    .champions/<name>/000001.json, 000002.json, …

Each document is an entry, and the last one's teacher is the champion. A number is taken once, whoever tries: of two
writers one has it, and the other looks again at what has become of the champion.
"""

import re
from collections.abc import Callable
from typing import Literal

from pydantic import ValidationError

from montessori.artifacts import Store, is_artifact
from montessori.artifacts.catalogue import meant
from montessori.artifacts.store import signature
from montessori.errors import ArtifactError, InputError, StageError
from montessori.evaluation.paired import Test
from montessori.settings.schema import Frozen

PLACE = ".champions"
NAME = re.compile(r"[a-z0-9][a-z0-9.-]*")  # as Settings.name
TEACHERS = ("teacher", "scratch-teacher")  # the stages that make one
TRIES = 20


class Entry(Frozen):
    """One change of the champion."""

    number: int
    teacher: str  # address
    how: Literal["test", "hand", "rollback"]
    replaces: str | None  # the champion before, the settings' base teacher for the first; None: unknown
    made_by: str | None  # the refresh or the run that made the teacher
    test: Test | None = None  # of a promotion by test
    who: dict[str, str]  # user, host, time


def history(store: Store, name: str) -> list[Entry]:
    """All entries of champion `name`, the oldest first."""
    _check_name(name)
    entries = []
    for document in store.names(f"{PLACE}/{name}/"):
        text = store.read(document)
        try:
            entries.append(Entry.model_validate_json(text or b""))
        except ValidationError as error:
            reason = error.errors()[0]["msg"]
            raise ArtifactError(f"{store.uri}: the document {document} is no entry of a champion ({reason})") from None
    return entries


def known(store: Store) -> list[str]:
    """The names of all champions."""
    return sorted({document.split("/")[1] for document in store.names(f"{PLACE}/")})


def promote(store: Store, name: str, teacher: str) -> Entry:
    """Make `teacher`, an address or how one begins, the champion by hand.

    Raises InputError when the store has no such teacher, or it is champion.
    """
    teacher = _teacher_meant(store, teacher)
    made_by = _maker(store, teacher)

    def next_one(entries: list[Entry]) -> Entry:
        champion = entries[-1].teacher if entries else None
        if champion == teacher:
            raise InputError(f"{teacher} is the champion of {name} already")
        return _entry(entries, teacher, "hand", champion, made_by)

    for _ in range(TRIES):
        if entry := _append(store, name, next_one):
            return entry
    raise StageError(f"champion {name}: others change it all the time; nothing was promoted, try again")


def rollback(store: Store, name: str) -> Entry:
    """Put the champion before the present one back. Raises InputError when there is none to go back to."""

    def next_one(entries: list[Entry]) -> Entry:
        standing = promotions(entries)
        if not standing:
            raise InputError(f"champion {name}: no promotion to take back" + _others(store, name))
        if standing[-1].replaces is None:
            raise InputError(f"champion {name}: {standing[-1].teacher} is the first, there is nothing to go back to")
        teacher = standing[-1].replaces
        made_by = next((entry.made_by for entry in reversed(entries) if entry.teacher == teacher), None)
        return _entry(entries, teacher, "rollback", entries[-1].teacher, made_by)

    if entry := _append(store, name, next_one):
        return entry
    raise StageError(f"champion {name}: somebody else has just changed it; look at its history, then roll back again")


def promote_tested(store: Store, name: str, teacher: str, over: str, after: int, refresh: str, test: Test) -> Entry:
    """Make `teacher` the champion, which `refresh` found better than `over`, the champion of entry number `after`.

    Promotes once, however often it is called. Raises StageError when the champion has changed since.
    """

    def next_one(entries: list[Entry]) -> Entry:
        if entries and entries[-1].number != after:
            raise StageError(
                f"champion {name}: {entries[-1].teacher} has become champion since the comparison with {over} began, "
                f"so {teacher} was not promoted; do it by hand, if it is to be: "
                f"montessori champion promote {teacher} --name {name}"
            )
        return _entry(entries, teacher, "test", over, refresh, test)

    while True:
        entries = history(store, name)
        if done := next((entry for entry in entries if entry.how == "test" and entry.made_by == refresh), None):
            return done
        if entry := _append(store, name, next_one):
            return entry


def promotions(entries: list[Entry]) -> list[Entry]:
    """Those that no rollback has taken back: the last of them made the champion."""
    standing: list[Entry] = []
    for entry in entries:
        if entry.how == "rollback":
            standing.pop()
        else:
            standing.append(entry)
    return standing


def _append(store: Store, name: str, next_one: Callable[[list[Entry]], Entry]) -> Entry | None:
    """Add the entry that `next_one` makes of the history; None when somebody else has taken its number."""
    entry = next_one(history(store, name))
    text = entry.model_dump_json(indent=1).encode() + b"\n"
    return entry if store.create(f"{PLACE}/{name}/{entry.number:06}.json", text) else None


def _entry(
    entries: list[Entry],
    teacher: str,
    how: Literal["test", "hand", "rollback"],
    replaces: str | None,
    made_by: str | None,
    test: Test | None = None,
) -> Entry:
    return Entry(
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


def _teacher_meant(store: Store, asked: str) -> str:
    stage = asked.partition("/")[0]
    if not is_artifact(asked) or stage not in TEACHERS:
        raise InputError(f"TEACHER = {asked}: expected a teacher's address, like teacher/3f2a…")
    try:
        teacher = meant(asked, store.addresses(stage))
        store.exists(teacher)  # raises when a file of it is gone
    except InputError as error:
        raise InputError(f"TEACHER = {error}") from None
    except ArtifactError as error:
        raise InputError(f"TEACHER = {asked}: {error}") from None
    return teacher


def _maker(store: Store, teacher: str) -> str | None:
    """The refresh or run in the store that made `teacher`, if one is there."""
    for stage in ("refreshes", "runs"):
        for manifest in store.manifests(stage):
            inputs = manifest["request"]["inputs"]
            if any(teacher in found for role, found in inputs.items() if role.endswith(":teacher")):
                return str(manifest["address"])
    return None


def _others(store: Store, name: str) -> str:
    others = ", ".join(other for other in known(store) if other != name)
    return f"; the store has champions for: {others}" if others and name not in known(store) else ""
