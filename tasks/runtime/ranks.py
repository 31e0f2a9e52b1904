"""A stage in several processes that train one model together: ranks, started here and followed to their end.

In: a request and the folder for its artifact's files.  Out: the stage's summary, the files being there.
All ranks run the stage's code (`tasks.runtime.rank`); the first reports progress and writes. One that fails ends them
all, and its error is raised here. They end too when this process does, whatever ends it.
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

Said = SimpleQueue[tuple[int, dict[str, Any] | None]]  # a rank and a line of it, None when it has ended


class RankError(Exception):
    """A rank died, or failed in a way that a second try may mend."""


def run(request: Request, store: Store, out: Path, threads: int, ranks: int) -> dict[str, Any]:
    """Do what `request` asks in `ranks` processes with `threads` CPU threads each; the stage's summary.

    Raises the MontessoriError that a rank raised, or RankError saying what became of it.
    """
    said: Said = SimpleQueue()
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
            processes.extend(_start(rank, ranks, threads) for rank in range(ranks))
            for rank, process in enumerate(processes):
                _send(process, order)
                threading.Thread(target=_listen, args=(rank, process, said), daemon=True).start()
            return _follow(processes, said)
        finally:
            for process in processes:
                process.kill()
                process.wait()
                assert process.stdin
                with suppress(BrokenPipeError):
                    process.stdin.close()


def _start(rank: int, ranks: int, threads: int) -> subprocess.Popen[bytes]:
    place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": ranks, "LOCAL_WORLD_SIZE": ranks}
    return subprocess.Popen(
        [sys.executable, "-m", "tasks.runtime.rank"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={
            **os.environ,
            **{name: str(value) for name, value in place.items()},
            "OMP_NUM_THREADS": str(threads),
            "PYTHONSAFEPATH": "1",
        },
    )


def _send(process: subprocess.Popen[bytes], order: dict[str, Any]) -> None:
    """Its order, a line; its standard input stays open, and tells by its end that this process has died."""
    assert process.stdin
    with suppress(BrokenPipeError):  # it has died already; `_follow` says of what
        process.stdin.write(json.dumps(order).encode() + b"\n")
        process.stdin.flush()


def _listen(rank: int, process: subprocess.Popen[bytes], said: Said) -> None:
    assert process.stdout
    with process.stdout as lines:
        for line in lines:
            said.put((rank, json.loads(line)))
    said.put((rank, None))


def _follow(processes: list[subprocess.Popen[bytes]], said: Said) -> dict[str, Any]:
    """Pass progress on until all have ended well; the summary that the first rank gave."""
    summary: dict[str, Any] = {}
    failures: list[dict[str, Any]] = []
    working = set(range(len(processes)))
    while working:
        rank, line = said.get()
        if line is None:
            working.discard(rank)
            if processes[rank].wait():
                raise _cause(processes, said, working, failures)
        elif "progress" in line:
            progress.report(*line["progress"])
        elif "error" in line:
            failures.append(line)
        else:
            summary = line["summary"]
    return summary


def _cause(
    processes: list[subprocess.Popen[bytes]], said: Said, working: set[int], failures: list[dict[str, Any]]
) -> Exception:
    """What made the first rank fail that failed. A rank whose peer has gone fails too, but later, and only for that."""
    count = len(processes)
    codes = [process.poll() for process in processes]  # before any is ended from here
    for process in processes:
        process.kill()
    while working:
        rank, line = said.get()
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
