"""Train one model in several processes, the ranks (`tasks.runtime.rank`).

All ranks run the code of the task. The first rank reports progress and writes the artifact's files. If a rank fails,
all end, and its error is raised here. They also end when this process ends, even if it is killed.
"""

import json
import os
import subprocess
import sys
import tempfile
import threading
from contextlib import suppress
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from montessori import errors, progress
from montessori.artifacts import Request, Store

Lines = SimpleQueue[tuple[int, dict[str, Any] | None]]  # a rank with one of its lines, or None at its end


class RankError(Exception):
    """A rank died, or failed in a way that a retry may mend."""


def run(request: Request, store: Store, out: Path, *, threads: int, world_size: int) -> dict[str, Any]:
    """Run the task of `request` in `world_size` processes with `threads` CPU threads each, and return its summary.

    The artifact's files are then in `out`. Raises the MontessoriError of the first rank that failed, or RankError.
    """
    lines: Lines = SimpleQueue()
    with tempfile.TemporaryDirectory(prefix="montessori-ranks-") as meeting:
        order = {
            "request": request.model_dump(mode="json"),
            "store": store.uri,
            "out": str(out),
            "threads": threads,
            "meeting": meeting,
        }
        processes: list[subprocess.Popen[bytes]] = []
        try:
            processes.extend(_start(rank, world_size, threads) for rank in range(world_size))
            for rank, process in enumerate(processes):
                _send(process, order)
                threading.Thread(target=_listen, args=(rank, process, lines), daemon=True).start()
            return _follow(processes, lines)
        finally:
            for process in processes:
                process.kill()
                process.wait()
                assert process.stdin
                with suppress(BrokenPipeError):
                    process.stdin.close()


def _start(rank: int, world_size: int, threads: int) -> subprocess.Popen[bytes]:
    group = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world_size, "LOCAL_WORLD_SIZE": world_size}
    return subprocess.Popen(
        [sys.executable, "-m", "tasks.runtime.rank"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={
            **os.environ,
            **{name: str(value) for name, value in group.items()},
            "OMP_NUM_THREADS": str(threads),
            "PYTHONSAFEPATH": "1",
        },
    )


def _send(process: subprocess.Popen[bytes], order: dict[str, Any]) -> None:
    """Send the order, one line. Standard input stays open, since a rank ends when it closes."""
    assert process.stdin
    with suppress(BrokenPipeError):  # it has died already, and `_follow` raises the cause
        process.stdin.write(json.dumps(order).encode() + b"\n")
        process.stdin.flush()


def _listen(rank: int, process: subprocess.Popen[bytes], lines: Lines) -> None:
    assert process.stdout
    with process.stdout as output:
        for line in output:
            lines.put((rank, json.loads(line)))
    lines.put((rank, None))


def _follow(processes: list[subprocess.Popen[bytes]], lines: Lines) -> dict[str, Any]:
    """Pass progress on until all ranks have ended well, and return the summary of the first."""
    summary: dict[str, Any] = {}
    failures: list[dict[str, Any]] = []
    working = set(range(len(processes)))
    while working:
        rank, line = lines.get()
        if line is None:
            working.discard(rank)
            if processes[rank].wait():
                raise _cause(processes, lines, working, failures)
        elif "progress" in line:
            progress.report(*line["progress"])
        elif "error" in line:
            failures.append(line)
        else:
            summary = line["summary"]
    return summary


def _cause(
    processes: list[subprocess.Popen[bytes]], lines: Lines, working: set[int], failures: list[dict[str, Any]]
) -> Exception:
    """Return the error of the rank that failed first. The others fail later, because a peer has gone."""
    count = len(processes)
    codes = [process.poll() for process in processes]  # before this process kills any
    for process in processes:
        process.kill()
    while working:
        rank, line = lines.get()
        if line is None:
            working.discard(rank)
        elif "error" in line:
            failures.append(line)
    for rank, code in enumerate(codes):
        if code is not None and code < 0:
            return RankError(f"process {rank + 1} of {count} was killed by signal {-code}")
    if not failures:
        rank = next(rank for rank, code in enumerate(codes) if code)
        return RankError(f"process {rank + 1} of {count} ended with code {codes[rank]} and without a word")
    first = min(failures, key=lambda failure: failure["at"])
    kind = getattr(errors, first["error"], None)
    if isinstance(kind, type) and issubclass(kind, errors.MontessoriError):
        return kind(first["message"])
    return RankError(f"process {first['rank'] + 1} of {count}: {first['error']}: {first['message']}")
