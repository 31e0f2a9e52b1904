"""One of the processes that train a model together, started by `tasks.runtime.ranks`: `python -m tasks.runtime.rank`.

In: an order, one JSON line on standard input, and its rank in the environment, as torch.distributed.run would set it.
Out: JSON lines on standard output. Where there are GPUs each rank has one and they talk over NCCL, else over gloo.
"""

import json
import logging
import os
import shutil
import sys
import threading
import time
import traceback
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from montessori import progress
from montessori.artifacts import Request, open_store
from montessori.errors import InputError
from tasks import registry
from tasks.runtime.job import Job
from tasks.runtime.worker import prepare


def main() -> int:
    """The stage's part of this rank; the exit code."""
    out = os.dup(1)
    os.dup2(2, 1)  # what libraries print must not mix with the lines
    rank, ranks = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])

    def say(**what: Any) -> None:
        os.write(out, json.dumps(what).encode() + b"\n")

    order = json.loads(sys.stdin.buffer.readline())
    meeting = Path(order["meeting"])
    threading.Thread(target=_end_with_parent, args=(meeting,), daemon=True).start()
    logging.basicConfig(level=logging.INFO, format=f"%(asctime)s rank {rank} %(name)s %(message)s")
    try:
        _meet(meeting, rank, ranks)
        request = Request.model_validate(order["request"])
        job = Job(request, open_store(order["store"]), Path(order["out"]), rank=rank, ranks=ranks)
        module = registry.module(request.stage)
        prepare(request, order["threads"])
        with progress.send_to(lambda *report: say(progress=report) if job.writes else None):
            summary = module.run(job, module.Settings.model_validate(request.settings))
        if job.writes:
            say(summary=summary)
    except BaseException as error:
        say(error=type(error).__name__, message=str(error)[:2000] or "no message", rank=rank, at=time.time())
        traceback.print_exc()
        os._exit(1)  # an orderly end would wait for the others
    dist.destroy_process_group()
    return 0


def _meet(folder: Path, rank: int, ranks: int) -> None:
    """Join the other ranks, by a file in `folder`. Raises InputError where there is no GPU for this one."""
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if 0 < gpus < ranks:
        raise InputError(f"compute.training_processes = {ranks}: only {gpus} GPUs are to be seen here; lower it")
    if gpus:
        torch.cuda.set_device(rank)
    backend = "cpu:gloo,cuda:nccl" if gpus else "gloo"
    dist.init_process_group(backend, init_method=f"file://{folder}/store", rank=rank, world_size=ranks)


def _end_with_parent(meeting: Path) -> None:
    """End when standard input does, which the stage's own process holds open while it lives."""
    while os.read(0, 4096):
        pass
    shutil.rmtree(meeting, ignore_errors=True)
    os._exit(1)


if __name__ == "__main__":
    sys.exit(main())
