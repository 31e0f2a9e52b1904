"""Stages without Prefect, whose start takes ten seconds: each in a thread that waits for its inputs."""

import random
import threading
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor, wait
from itertools import count

from montessori.artifacts import Request, Store
from montessori.config import Compute
from montessori.errors import InputError
from tasks.attempts import Attempts, Record, worth_a_retry
from tasks.places import Place

THREADS = 64  # that wait; the place says how many stages run side by side


class Direct(Attempts):
    """Runs requests in the order of their inputs, as many side by side as the place takes."""

    def __init__(self, store: Store, place: Place, compute: Compute):
        super().__init__(store, place, compute)
        self._pool = ThreadPoolExecutor(THREADS)
        self._futures: dict[str, Future[None]] = {}

    def submit(self, request: Request) -> None:
        """Start the stage as soon as those that make its inputs, submitted before it, are done."""
        inputs = [address for addresses in request.inputs.values() for address in addresses]
        self.records[request.address] = Record(request.title)
        waits = [self._futures[address] for address in inputs if address in self._futures]
        self._futures[request.address] = self._pool.submit(self._follow, request, waits)

    def finish(self) -> None:
        """Wait for all. Raises InputError as the stage that found it said it, StageError naming all that failed."""
        wait(self._futures.values())
        self._pool.shutdown()
        wrong = [record.error for record in self.records.values() if record.wrong_input]
        if wrong:
            raise InputError(wrong[0])
        self.raise_failures()

    def _follow(self, request: Request, waits: list[Future[None]]) -> None:
        """Try until it is done; an input's error is this stage's too."""
        for future in waits:
            future.result()
        if any(record.wrong_input for record in self.records.values()):
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
