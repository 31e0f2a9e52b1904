"""Stages without Prefect, whose start takes ten seconds: each is started when its inputs are there."""

import random
import threading
from collections.abc import Callable
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor, wait
from itertools import count
from typing import Any

from montessori.artifacts import Request, Store
from montessori.errors import InputError
from montessori.settings.schema import Compute
from tasks.runtime.executor import Attempts, Record, worth_a_retry
from tasks.runtime.places import Place

THREADS = 64  # in which stages wait for their turn; the place says how many run side by side


class Direct(Attempts):
    """Runs requests as their inputs come, as many side by side as the place takes."""

    def __init__(self, store: Store, place: Place, compute: Compute, apart: bool = False):
        """`apart`: the requests are of several runs, so that wrong input of one says nothing of the others."""
        super().__init__(store, place, compute)
        self._apart = apart
        self._pool = ThreadPoolExecutor(THREADS)
        self._futures: dict[str, Future[None]] = {}

    def submit(self, request: Request) -> None:
        """Start the stage as soon as those that make its inputs, submitted before it, are done."""
        inputs = {address for addresses in request.inputs.values() for address in addresses}
        self.records[request.address] = Record(request.title)
        waits = [self._futures[address] for address in inputs if address in self._futures]
        made = self._futures[request.address] = Future[None]()
        _when_all(waits, lambda: self._pool.submit(self._settle, request, waits, made))

    def wait(self) -> None:
        """Return when all have ended, well or not."""
        wait(self._futures.values())

    def finish(self) -> None:
        """Wait for all. Raises InputError as the stage that found it said it, StageError naming all that failed."""
        self.wait()
        self._pool.shutdown()
        wrong = [record.error for record in self.records.values() if record.wrong_input]
        if wrong and not self._apart:
            raise InputError(wrong[0])
        self.raise_failures()
        for future in self._futures.values():
            future.result()  # what no record tells of

    def _settle(self, request: Request, waits: list[Future[None]], made: Future[None]) -> None:
        try:
            self._follow(request, waits)
            made.set_result(None)
        except BaseException as error:
            made.set_exception(error)

    def _follow(self, request: Request, waits: list[Future[None]]) -> None:
        """Try until it is done; an input's error is this stage's too."""
        for future in waits:
            future.result()
        if not self._apart and any(record.wrong_input for record in list(self.records.values())):
            raise CancelledError  # the shards of one input would all say the same
        for attempt in count(1):
            try:
                self.run(request, attempt)
                return
            except Exception as error:
                if attempt > self.compute.retries or not worth_a_retry(error):
                    raise
            delay = self.compute.retry_delay_s * 2 ** (attempt - 1)
            threading.Event().wait(delay * random.uniform(1, 1.5))  # as Prefect's backoff and jitter


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
