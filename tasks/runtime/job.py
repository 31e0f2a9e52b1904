"""Give a task its inputs and its output folder: the first argument of every `run(job, settings)`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from montessori.artifacts import Journal, Request, Store, is_artifact
from montessori.data.rows import Row, read_rows


@dataclass(frozen=True)
class Job:
    """One request with its store, and the folder to write into."""

    request: Request
    store: Store
    out: Path
    journal: Journal | None = None
    rank: int = 0  # among the processes that train one model together
    world_size: int = 1

    @property
    def writes(self) -> bool:
        """Tell whether this process writes the artifact's files."""
        return self.rank == 0

    @property
    def load_place(self) -> str | None:
        """Return where to load a model for training: None for the device, "cpu" where several ranks shard it."""
        return "cpu" if self.world_size > 1 else None

    @property
    def seed(self) -> int:
        """Return the seed of everything random in this task."""
        return self.request.seed

    def has(self, name: str) -> bool:
        """Tell whether an optional input was given."""
        return bool(self.request.inputs.get(name))

    def folders(self, name: str) -> list[Path]:
        """Return the folders of an input's artifacts, with their files checked."""
        return [self.store.open(address) for address in self.request.inputs[name]]

    def folder(self, name: str) -> Path:
        """Return the folder of an input that is one artifact."""
        (folder,) = self.folders(name)
        return folder

    def rows(self, name: str, file: str) -> list[Row]:
        """Return the rows of the Parquet `file` in all artifacts of an input, in order."""
        return [row for folder in self.folders(name) for row in read_rows(folder / file)]

    def model(self, name: str) -> str:
        """Return where to load an input's model from: a folder, or a hub name with its revision."""
        (address,) = self.request.inputs[name]
        if is_artifact(address):
            return str(self.folder(name) / "model")
        return location(address)

    def manifests(self, name: str) -> list[dict[str, Any]]:
        """Return the manifests of an input's artifacts."""
        return [self.store.manifest(address) for address in self.request.inputs[name]]


def location(address: str) -> str:
    """Return the path or hub name in an address outside the store."""
    kind, _, rest = address.partition(":")
    return rest.rpartition("#")[0] if kind == "file" else rest
