"""What the tests of both kinds of store do with one."""

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from s3 import BUCKET, Server

from montessori.artifacts import Folder, Store, open_store
from montessori.artifacts.store import MANIFEST


def put(store: Store, address: str, **files: str) -> bool:
    with store.staging() as folder:
        for name, content in files.items():
            (folder / name).write_text(content)
        return store.commit(address, folder, {"summary": {"n": 1}, "seconds": 1.0})


def start(code: str, *arguments: object, **environment: object) -> "subprocess.Popen[str]":
    """A Python process of its own."""
    command = [sys.executable, "-c", code, *map(str, arguments)]
    more = {name: str(value) for name, value in environment.items()}
    return subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={**os.environ, **more}
    )


def elsewhere(store: Store, cache: Path) -> Store:
    """The same store as another machine sees it."""
    if isinstance(store, Folder):
        return store
    before = os.environ["MONTESSORI_CACHE"]
    os.environ["MONTESSORI_CACHE"] = str(cache)
    try:
        return open_store(store.uri)
    finally:
        os.environ["MONTESSORI_CACHE"] = before


def behind(store: Store, address: str, name: str, change: Callable[[bytes], bytes | None]) -> None:
    """Change a file of an artifact, or its manifest, or remove it, without the store's knowledge."""
    if isinstance(store, Folder):
        path = store.root / address / name
        changed = change(path.read_bytes())
        if changed is None:
            path.unlink()
        else:
            path.write_bytes(changed)
        return
    s3, key = server(store).client(), key_of(store, address, name)
    changed = change(s3.get_object(Bucket=BUCKET, Key=key)["Body"].read())
    if changed is None:
        s3.delete_object(Bucket=BUCKET, Key=key)
    else:
        s3.put_object(Bucket=BUCKET, Key=key, Body=changed)


def key_of(store: Store, address: str, name: str) -> str:
    """Where a file of an artifact is in the bucket."""
    room = [] if name == MANIFEST else [store.manifest(address)["room"]]
    return "/".join([prefix(store), address, *room, name])


def prefix(store: Store) -> str:
    return store.uri.partition("?")[0].split("/", 3)[3]


def server(store: Store) -> Server:
    """The one that the store is on."""
    return Server(int(re.search(r"127\.0\.0\.1:(\d+)", store.uri)[1]))


def keys(store: Store) -> list[str]:
    """All that is in the bucket under the store's prefix, without it."""
    pages = server(store).client().get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=prefix(store) + "/")
    return [item["Key"][len(prefix(store)) + 1 :] for page in pages for item in page.get("Contents", [])]
