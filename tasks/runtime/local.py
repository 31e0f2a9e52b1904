"""Run requests without Prefect, from threads of this process: the default of the command line."""

import random
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from typing import Any

from montessori.artifacts import Request, Store
from montessori.errors import InputError
from montessori.settings.engines import Vllm
from montessori.settings.execution import Compute
from tasks.runtime.executor import Executor, Record
from tasks.runtime.places import Place, open_place
from tasks.runtime.retry import JITTER, delays, worth_a_retry

THREADS = 64  # requests wait in them; the place decides how many run at once


@contextmanager
def local_executor(
    store: Store, compute: Compute, vllm_python: str = Vllm().python, *, one_input: bool = False
) -> Iterator[Executor]:
    """Open an executor at the place that `compute` names, and end all that it started with the block."""
    place = open_place(compute, vllm_python)
    try:
        yield LocalExecutor(store, place, compute, one_input=one_input)
    finally:
        place.close()


class LocalExecutor(Executor):
    """Start each request when its inputs are done."""

    def __init__(self, store: Store, place: Place, compute: Compute, *, one_input: bool = False):
        """Create the executor. With `one_input` all requests read the same input, so wrong input of one ends all."""
        super().__init__(store, place, compute)
        self._one_input = one_input
        self._pool = ThreadPoolExecutor(THREADS)
        self._futures: dict[str, Future[None]] = {}

    def submit(self, request: Request) -> None:
        """Start the task as soon as the requests that make its inputs, submitted before it, are done."""
        inputs = {address for addresses in request.inputs.values() for address in addresses}
        self.records[request.address] = Record(request)
        waits = [self._futures[address] for address in inputs if address in self._futures]
        future = self._futures[request.address] = Future[None]()
        _when_all(waits, lambda: self._pool.submit(self._settle, request, waits, future))

    def wait(self) -> None:
        """Return when all requests have ended, well or not."""
        wait(self._futures.values())

    def finish(self) -> None:
        """Wait for all requests, and raise their failures. With `one_input`, wrong input is raised unchanged."""
        self.wait()
        self._pool.shutdown()
        wrong = [record.error for record in self.records.values() if record.wrong_input]
        if wrong and self._one_input:
            raise InputError(wrong[0])
        self.raise_failures()
        for future in self._futures.values():
            future.result()  # an error that no record shows

    def _settle(self, request: Request, waits: list[Future[None]], future: Future[None]) -> None:
        try:
            self._attempt(request, waits)
            future.set_result(None)
        except BaseException as error:
            future.set_exception(error)

    def _attempt(self, request: Request, waits: list[Future[None]]) -> None:
        """Try until the request is done. Raises the error of a failed input."""
        for future in waits:
            future.result()
        if self._one_input and any(record.wrong_input for record in list(self.records.values())):
            raise CancelledError  # all shards would report the same error
        for attempt, delay in enumerate([*delays(self.compute), None], start=1):
            try:
                self.run(request, attempt)
                return
            except Exception as error:
                if delay is None or not worth_a_retry(error):
                    raise
            threading.Event().wait(delay * random.uniform(1, 1 + JITTER))


def _when_all(futures: list[Future[None]], act: Callable[[], Any]) -> None:
    """Call `act` when the last of `futures` has ended, well or not."""
    left, lock = len(futures) + 1, threading.Lock()

    def one_less(_: object) -> None:
        nonlocal left
        with lock:
            left -= 1
            last = left == 0
        if last:
            act()

    for future in futures:
        future.add_done_callback(one_less)
    one_less(None)
