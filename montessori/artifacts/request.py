"""The request of a task, and the fingerprint of its artifact.

A task is a pure function of its name, its version, its settings, its inputs and the seed. The fingerprint is a hash of
these and of nothing else. An input is one of

    instructions/3f2a…                    an artifact
    file:/data/seeds.jsonl#9c1e…          a file or folder outside the store, with the SHA-256 of its content
    hub:vicgalle/alpaca-gpt4@main         a hub name and revision
    api:gpt-4o@https://api.openai.com/v1  a model behind an endpoint
    pocket                                the pocket world

The path of a file says only where to read it. The fingerprint contains its hash.
"""

import hashlib
import json
from typing import Any

from pydantic import BaseModel, ConfigDict, model_validator


class Request(BaseModel):
    """One task, or one shard of it, with all of its inputs and settings.

    `system`, `iteration`, `part`, `role` and `cell` serve display and grouping, and are not in the fingerprint. An
    artifact shared by two runs keeps the values of the first.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    stage: str  # name of the task in the registry
    version: int
    settings: dict[str, Any]
    inputs: dict[str, list[str]]
    seed: int
    shard: tuple[int, int] = (0, 1)  # index, count
    system: str = ""  # Montessori, Self-Instruct, or an evaluated model
    iteration: int | None = None  # of the system, from 1
    part: str = ""  # part of the system's work: "training set", "after the update"
    role: str = ""  # the artifact in that part: "instructions". Empty: the task's name
    cell: str = ""  # cell of a study
    means: dict[str, Any] = {}  # how to run the task: an endpoint's limits, a budget; not in the fingerprint
    kept_as: str | None = None  # address in place of stage/fingerprint, for example a run's

    @model_validator(mode="before")
    @classmethod
    def _read_a_label(cls, data: Any) -> Any:
        """Read the label of a manifest without these fields as its role."""
        if isinstance(data, dict) and "label" in data:
            data = {**data, "role": data["label"]}
            del data["label"]
        return data

    @property
    def fingerprint(self) -> str:
        """Return 20 hexadecimal digits (80 bits) of the SHA-256 of everything that decides the result."""
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
        """Return the artifact's address in a store: `stage/fingerprint`."""
        return self.kept_as or f"{self.stage}/{self.fingerprint}"

    @property
    def who(self) -> str:
        """Return the system, its iteration and the part of its work, for display."""
        named = f"{self.system} iteration {self.iteration}" if self.iteration else self.system
        return ", ".join(part for part in (named, self.part) if part)

    @property
    def label(self) -> str:
        """Return what the artifact is, for display, without the cell and the shard."""
        return ": ".join(part for part in (self.who, self.role or self.stage) if part)

    @property
    def name(self) -> str:
        """Return the label and the shard, for display."""
        index, count = self.shard
        return self.label + (f" {index + 1}/{count}" if count > 1 else "")

    @property
    def title(self) -> str:
        """Return the name, after the study's cell if there is one."""
        return f"{self.cell} · {self.name}" if self.cell else self.name


def identity(address: str) -> str:
    """Return an input's address without its place, for the fingerprint."""
    return "file#" + address.rpartition("#")[2] if address.startswith("file:") else address


def is_artifact(address: str) -> bool:
    """Tell whether `address` is the address of an artifact."""
    return "/" in address and not address.startswith(("file:", "hub:", "api:"))
