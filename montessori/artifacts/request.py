"""What a stage is asked to do, and the fingerprint under which its result is kept.

A stage is a pure function of its name and version, the settings that it reads, its inputs and the seed, so those
and nothing else make the fingerprint. An input is one of

    instructions/3f2a…                    an artifact
    file:/data/seeds.jsonl#9c1e…          a file or folder outside the store, with the SHA-256 of its content
    hub:vicgalle/alpaca-gpt4@main         a hub name and revision
    api:gpt-4o@https://api.openai.com/v1  a model behind an endpoint
    pocket                                the pocket world

A file's path says where to read, not what: only its hash is in the fingerprint.
"""

import hashlib
import json
from typing import Any

from pydantic import BaseModel, ConfigDict, model_validator


class Request(BaseModel):
    """One task, or one shard of it, with all that it needs.

    `system`, `iteration`, `part`, `role` and `cell` say what the artifact is for. They are for people and for grouping,
    and are in no fingerprint: what two runs share was asked for by the first.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    stage: str  # the task, as the registry names it
    version: int
    settings: dict[str, Any]
    inputs: dict[str, list[str]]
    seed: int
    shard: tuple[int, int] = (0, 1)  # index, count
    system: str = ""  # Montessori, Self-Instruct, a model that is evaluated
    iteration: int | None = None  # of the system, from 1
    part: str = ""  # of the system's work: "training set", "after the update"
    role: str = ""  # what the artifact is there: "instructions"; "" is the task's name
    cell: str = ""  # of a study
    means: dict[str, Any] = {}  # how it may be made, not what: an endpoint's limits, a budget; not in the fingerprint
    kept_as: str | None = None  # an address of its own in place of stage/fingerprint (a run's)

    @model_validator(mode="before")
    @classmethod
    def _read_a_label(cls, data: Any) -> Any:
        """Take the label of a manifest from before the fields above as the role."""
        if isinstance(data, dict) and "label" in data:
            data = {**data, "role": data["label"]}
            del data["label"]
        return data

    @property
    def fingerprint(self) -> str:
        """20 hexadecimal digits (80 bits) of the SHA-256 over all that determines the result."""
        what = {
            "stage": self.stage,
            "version": self.version,
            "settings": self.settings,
            "inputs": {name: [identity(a) for a in addresses] for name, addresses in self.inputs.items()},
            "seed": self.seed,
            "shard": list(self.shard),
        }
        text = json.dumps(what, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
        return hashlib.sha256(text.encode()).hexdigest()[:20]

    @property
    def address(self) -> str:
        """Where the artifact is in a store: `stage/fingerprint`."""
        return self.kept_as or f"{self.stage}/{self.fingerprint}"

    @property
    def who(self) -> str:
        """The system, its iteration and the part of its work, as one display text."""
        named = f"{self.system} iteration {self.iteration}" if self.iteration else self.system
        return ", ".join(part for part in (named, self.part) if part)

    @property
    def label(self) -> str:
        """What the artifact is, as one display text without the cell and the shard."""
        return ": ".join(part for part in (self.who, self.role or self.stage) if part)

    @property
    def name(self) -> str:
        """The label, and which shard of how many."""
        index, count = self.shard
        return self.label + (f" {index + 1}/{count}" if count > 1 else "")

    @property
    def title(self) -> str:
        """The name, after the study's cell where there is one."""
        return f"{self.cell} · {self.name}" if self.cell else self.name


def identity(address: str) -> str:
    """The part of an input's address that says what it is, not where."""
    return "file#" + address.rpartition("#")[2] if address.startswith("file:") else address


def is_artifact(address: str) -> bool:
    """Whether `address` names an artifact of the store."""
    return "/" in address and not address.startswith(("file:", "hub:", "api:"))
