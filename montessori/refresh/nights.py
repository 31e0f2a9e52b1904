"""Keep the state of each night's refresh as a document of the store.

    .refresh/<name>/<night>-<digits>.json

The digits are a fingerprint of the settings. A night begins once and keeps the champion of that time. So the same
command, after a crash or a year, requests the same artifacts, whoever is champion by then.
"""

import json
from typing import Literal

from pydantic import Field, ValidationError

from montessori.artifacts import Store
from montessori.artifacts.store import Manifest, signature
from montessori.errors import ArtifactError
from montessori.settings.base import Frozen

PLACE = ".refresh"
CHAMPION, CHALLENGER = "Champion", "Challenger"  # first words of the names of a night's systems


class Night(Frozen):
    """One night of the refresh of some settings."""

    name: str
    night: str  # 2026-11-23
    digits: str
    champion: str | None  # address of the champion at the start. None: the settings' base teacher
    entry: int  # number of the champion's change in the history, 0: none
    state: Literal["running", "kept", "promoted", "failed"] = "running"  # kept: the champion stays
    refresh: str | None = None  # address of the comparison, committed or not
    error: str = ""
    who: dict[str, str] = Field(default_factory=dict)  # user, host and time of the last change

    @property
    def document(self) -> str:
        """Return the name of this night's document."""
        return f"{PLACE}/{self.name}/{self.night}-{self.digits}.json"


def find(store: Store, night: Night) -> Night:
    """Return `night` from the store, or as it is when it has not begun."""
    return _read(store, night.document) or night


def all_nights(store: Store) -> list[Night]:
    """Return all nights that have begun."""
    nights = (_read(store, document) for document in store.names(f"{PLACE}/"))
    return [night for night in nights if night]


def with_kept_champion(store: Store, name: str) -> list[Manifest]:
    """Return the comparisons of settings `name` after which the champion stayed."""
    made = [manifest for manifest in store.manifests("refreshes") if not manifest["summary"]["better"]]
    return [manifest for manifest in made if manifest["request"]["settings"]["run"]["name"] == name]


def begin(store: Store, night: Night) -> Night:
    """Write `night` to the store unless it has begun. Returns the night in the store."""
    store.create(night.document, _text(night))
    return find(store, night)


def save(store: Store, night: Night) -> None:
    """Write the state of `night` to the store."""
    store.write(night.document, _text(night))


def _read(store: Store, document: str) -> Night | None:
    text = store.read(document)
    try:
        return Night.model_validate_json(text) if text is not None else None
    except ValidationError as error:
        reason = error.errors()[0]["msg"]
        raise ArtifactError(f"{store.uri}: {document} tells of no night ({reason}); delete it") from None


def _text(night: Night) -> bytes:
    return (json.dumps({**night.model_dump(), "who": signature()}, indent=1) + "\n").encode()
