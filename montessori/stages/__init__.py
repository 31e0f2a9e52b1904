"""The stages: each a pure function from settings, input artifacts and a seed to one artifact, in a module of its own.

A stage module (all here but `asking`, `inputs` and `learning`, which several share) has `Settings` (what it reads, and
so what is in its fingerprint) and `run(job, settings) -> summary`, which writes the artifact's files into `job.out`.
"""

import importlib
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from montessori.artifacts import Journal, Request, Store, is_artifact
from montessori.data import Row, read_rows


@dataclass(frozen=True)
class Stage:
    """Where a stage's code is, and the version that its fingerprints carry: raised when its result would change."""

    module: str
    version: int = 1
    light: bool = False  # loads no model, so needs no GPU
    journaled: bool = False  # keeps what it receives as it comes, since it may be slow or paid for


STAGES = {
    "seeds": Stage("rows", light=True),
    "reference": Stage("rows", light=True),
    "test": Stage("rows", light=True),
    "points": Stage("rows", light=True),
    "scratch-teacher": Stage("scratch"),
    "scratch-student": Stage("scratch"),
    "instructions": Stage("instructions", version=2, journaled=True),
    "responses": Stage("responses", version=2, journaled=True),
    "split": Stage("split", light=True),
    "warm-up": Stage("warm_up"),
    "tokens": Stage("tokens", light=True),
    "reference-gradient": Stage("reference_gradient", version=2),
    "influence": Stage("influence", version=3),
    "preferences": Stage("preferences", light=True),
    "teacher": Stage("teacher"),
    "student": Stage("student"),
    "evaluation": Stage("evaluation"),
    "report": Stage("report", version=2, light=True),
}


def module(stage: str) -> ModuleType:
    """The module of a stage, imported when asked for: most bring torch with them."""
    return importlib.import_module(f"montessori.stages.{STAGES[stage].module}")


def computes(request: Request) -> bool:
    """Whether a request loads a model here, and so wants a GPU or a core's share to itself."""
    return not STAGES[request.stage].light and request.settings.get("engine") != "openai"


@dataclass(frozen=True)
class Job:
    """A request at work: its inputs as paths, and the folder to write into."""

    request: Request
    store: Store
    out: Path
    journal: Journal | None = None

    @property
    def seed(self) -> int:
        """The seed of everything random in this stage."""
        return self.request.seed

    def has(self, name: str) -> bool:
        """Whether an optional input was given."""
        return bool(self.request.inputs.get(name))

    def folders(self, name: str) -> list[Path]:
        """The folders of an input's artifacts, checked."""
        return [self.store.open(address) for address in self.request.inputs[name]]

    def folder(self, name: str) -> Path:
        """The folder of an input that is one artifact."""
        (folder,) = self.folders(name)
        return folder

    def rows(self, name: str, file: str) -> list[Row]:
        """The rows of the Parquet `file` in each of an input's artifacts, one after the other."""
        return [row for folder in self.folders(name) for row in read_rows(folder / file)]

    def model(self, name: str) -> str:
        """Where to load an input's model from: a folder, or a hub name with its revision."""
        (address,) = self.request.inputs[name]
        if is_artifact(address):
            return str(self.folder(name) / "model")
        return location(address)

    def manifests(self, name: str) -> list[dict[str, Any]]:
        """The manifests of an input's artifacts."""
        return [self.store.manifest(address) for address in self.request.inputs[name]]


def location(address: str) -> str:
    """The path or hub name in an address that is not an artifact's."""
    kind, _, rest = address.partition(":")
    return rest.rpartition("#")[0] if kind == "file" else rest
