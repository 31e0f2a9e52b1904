"""Run one of the processes that train a model together: `python -m tasks.runtime.rank`.

`tasks.runtime.training_processes` starts it. It reads an order, one JSON line on standard input, and its rank from the
environment, as torch.distributed.run would set it. It reports in JSON lines on standard output. The ranks have a GPU
each and use NCCL; without GPUs they use gloo.
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
    """Run this rank's part of the task, and return the exit code."""
    out = os.dup(1)
    os.dup2(2, 1)  # prints of libraries must not mix with the JSON lines
    rank, world_size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])

    def report(**fields: Any) -> None:
        os.write(out, json.dumps(fields).encode() + b"\n")

    order = json.loads(sys.stdin.buffer.readline())
    meeting = Path(order["meeting"])
    threading.Thread(target=_end_with_parent, args=(meeting,), daemon=True).start()
    logging.basicConfig(level=logging.INFO, format=f"%(asctime)s rank {rank} %(name)s %(message)s")
    try:
        _join(meeting, rank, world_size)
        request = Request.model_validate(order["request"])
        job = Job(request, open_store(order["store"]), Path(order["out"]), rank=rank, world_size=world_size)
        module = registry.module(request.stage)
        prepare(request, order["threads"])
        with progress.send_to(lambda *step: report(progress=step) if job.writes else None):
            summary = module.run(job, module.Settings.model_validate(request.settings))
        if job.writes:
            report(summary=summary)
    except BaseException as error:
        report(error=type(error).__name__, message=str(error)[:2000] or "no message", rank=rank, at=time.time())
        traceback.print_exc()
        os._exit(1)  # an orderly exit would wait for the other ranks
    dist.destroy_process_group()
    return 0


def _join(folder: Path, rank: int, world_size: int) -> None:
    """Join the process group, by a file in `folder`. Raises InputError where a rank has no GPU."""
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if 0 < gpus < world_size:
        raise InputError(f"compute.training_processes = {world_size}: only {gpus} GPUs are to be seen here; lower it")
    if gpus:
        torch.cuda.set_device(rank)
    backend = "cpu:gloo,cuda:nccl" if gpus else "gloo"
    dist.init_process_group(backend, init_method=f"file://{folder}/store", rank=rank, world_size=world_size)


def _end_with_parent(meeting: Path) -> None:
    """Exit when standard input closes. The parent process holds it open while it lives."""
    while os.read(0, 4096):
        pass
    shutil.rmtree(meeting, ignore_errors=True)
    os._exit(1)


if __name__ == "__main__":
    sys.exit(main())
