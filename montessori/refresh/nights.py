"""What becomes of each night's refresh, as a document of the store.

    .refresh/<name>/<night>-<digits>.json

The digits are of the settings. A night is begun once: it keeps the champion that it began with, so that the same
command, after a crash or a year, asks for the same artifacts, whoever is champion by then.
"""

import json
from typing import Literal

from pydantic import Field, ValidationError

from montessori.artifacts import Store
from montessori.artifacts.store import Manifest, signature
from montessori.errors import ArtifactError
from montessori.settings.schema import Frozen

PLACE = ".refresh"
CHAMPION, CHALLENGER = "Champion", "Challenger"  # how the names of a night's systems begin


class Night(Frozen):
    """One night of one settings' refresh."""

    name: str
    night: str  # 2026-11-23
    digits: str
    champion: str | None  # the teacher that it begins with; None: the settings' base teacher
    entry: int  # the champion's in the history, 0: none
    state: Literal["running", "kept", "promoted", "failed"] = "running"  # of the challenger, but for "running"
    refresh: str | None = None  # address of the comparison, made or to come
    error: str = ""
    who: dict[str, str] = Field(default_factory=dict)  # user, host and time of the last change

    @property
    def document(self) -> str:
        """The name of this night's document."""
        return f"{PLACE}/{self.name}/{self.night}-{self.digits}.json"


def find(store: Store, night: Night) -> Night:
    """`night` as it was begun, or as given when it was not."""
    return _read(store, night.document) or night


def known(store: Store) -> list[Night]:
    """All nights that were ever begun."""
    found = (_read(store, document) for document in store.names(f"{PLACE}/"))
    return [night for night in found if night]


def kept(store: Store, name: str) -> list[Manifest]:
    """The comparisons of the nights of settings `name` that kept their champion."""
    made = [manifest for manifest in store.manifests("refreshes") if not manifest["summary"]["better"]]
    return [manifest for manifest in made if manifest["request"]["settings"]["run"]["name"] == name]


def begin(store: Store, night: Night) -> Night:
    """Write `night` down unless somebody has; the night that was begun."""
    store.create(night.document, _text(night))
    return find(store, night)


def tell(store: Store, night: Night) -> None:
    """Let the document say how `night` goes."""
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
