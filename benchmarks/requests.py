"""Count the object store requests of a stage and their bytes, by kind, for artifacts of several shapes.

    python benchmarks/requests.py --store s3://bucket/prefix?endpoint=http://127.0.0.1:9000

For each shape one writer commits the artifact. One reader opens it with an empty cache, one reads it from its cache,
and one checks whether it exists. Every request counts, with the retries of the SDK. The script leaves nothing in the
store.
"""

import argparse
import os
import tempfile
import uuid
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from montessori.artifacts import Store, open_store

MB = 10**6
SHAPES = {  # files, and the bytes of each
    "a shard's scores": {"scores.parquet": 20_000, "momentum.json": 40},
    "a shard's pairs": {"pairs.parquet": 2 * MB},
    "a model of 200 MB": {"model/model.safetensors": 200 * MB, **{f"model/{name}.json": 2_000 for name in "abcde"}},
}


def main() -> None:
    """Print a line for each shape and operation."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--store", required=True)
    uri = parser.parse_args().store
    print(f"{'':<20}{'':<12}{'head':>6}{'get':>6}{'put':>6}{'list':>6}{'other':>7}")
    for shape, files in SHAPES.items():
        address = f"benchmark/{uuid.uuid4().hex}"
        with tempfile.TemporaryDirectory() as writer, tempfile.TemporaryDirectory() as reader:
            _show(shape, "commit", uri, writer, lambda store, a=address, f=files: _commit(store, a, f))
            _show("", "open", uri, reader, lambda store, a=address: store.open(a))
            _show("", "open again", uri, reader, lambda store, a=address: store.open(a))
            _show("", "exists", uri, reader, lambda store, a=address: store.exists(a))
            open_store(uri).delete(address)


def _show(shape: str, act: str, uri: str, cache: str, do: Callable[[Any], Any]) -> None:
    """Run the operation with a store of its own, and print its requests."""
    os.environ["MONTESSORI_CACHE"] = cache
    store: Any = open_store(uri)
    seen: Counter[str] = Counter()

    def count(request: Any, **_: Any) -> None:
        listing = request.method == "GET" and ("list-type=2" in request.url or "uploads" in request.url)
        seen["list" if listing else request.method.lower()] += 1

    store._s3.meta.events.register("before-send.s3", count)
    do(store)
    other = sum(number for name, number in seen.items() if name not in ("head", "get", "put", "list"))
    print(
        f"{shape:<20}{act:<12}" + "".join(f"{seen[name]:>6}" for name in ("head", "get", "put", "list")) + f"{other:>7}"
    )


def _commit(store: Store, address: str, files: dict[str, int]) -> None:
    with store.staging() as folder:
        for name, size in files.items():
            path = Path(folder, name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(os.urandom(size))
        store.commit(address, folder, {})


if __name__ == "__main__":
    main()
