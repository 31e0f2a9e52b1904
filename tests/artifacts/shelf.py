"""A store with small artifacts of any age, made from one another."""

import json
import subprocess
import sys
from datetime import UTC, datetime, timedelta

from montessori.artifacts import Folder
from montessori.artifacts.store import MANIFEST

HOUR = 3600.0
ORPHAN = """
import sys
from montessori.artifacts import Folder
with Folder(sys.argv[1]).staging() as folder:
    (folder / "half.bin").write_bytes(b"x" * 100_000)
    print("staged", flush=True)
    sys.stdin.readline()
"""


def put(store: Folder, address: str, *parents: str, age_h: float = 0.0, files: dict[str, str] | None = None) -> str:
    """Commit an artifact made from `parents`, as if `age_h` hours ago."""
    stage = address.partition("/")[0]
    request = {"stage": stage, "version": 1, "settings": {}, "inputs": {"x": list(parents)}, "seed": 0, "label": stage}
    with store.staging() as folder:
        for name, text in (files or {"file": address * 10}).items():
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_text(text)
        store.commit(address, folder, {"request": request, "parents": sorted(parents), "seconds": 1.0, "summary": {}})
    path = store.root / address / MANIFEST
    manifest = json.loads(path.read_text())
    manifest["made_by"]["time"] = f"{datetime.now(UTC) - timedelta(hours=age_h):%Y-%m-%dT%H:%M:%SZ}"
    path.write_text(json.dumps(manifest))
    return address


def orphan(store: Folder) -> None:
    """Let a writer be killed."""
    with subprocess.Popen(
        [sys.executable, "-c", ORPHAN, store.root], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as writer:
        assert writer.stdout and writer.stdout.readline() == "staged\n"
        writer.kill()
