"""A store to run tasks in, with artifacts put there by hand."""

from pathlib import Path
from typing import Any

from montessori.artifacts import Folder, Request
from montessori.data.rows import Row, write_rows
from tasks.registry import TASKS
from tasks.runtime import worker


class Making:
    """Makes artifacts in the store at `folder`."""

    def __init__(self, folder: Path):
        self.store = Folder(folder)

    def put(self, address: str, **tables: list[Row]) -> str:
        """Commit an artifact with a Parquet file for each of `tables`, and return its address."""
        with self.store.staging() as folder:
            for name, rows in tables.items():
                write_rows(folder / f"{name.replace('_', '-')}.parquet", rows)
            self.store.commit(address, folder, {"summary": {}, "seconds": 0.0})
        return address

    def make(
        self, task: str, settings: dict[str, Any], seed: int = 0, shard: tuple[int, int] = (0, 1), **inputs: Any
    ) -> Path:
        """Run a task in this process, and return the folder of its artifact."""
        given = {name: [one] if isinstance(one, str) else one for name, one in inputs.items()}
        version = TASKS[task].version
        request = Request(stage=task, version=version, settings=settings, inputs=given, seed=seed, shard=shard)
        worker.run(request, self.store)
        return self.store.open(request.address)
