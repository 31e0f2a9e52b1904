"""Find out how many requests an endpoint takes at the same time, with a window like TCP's.

In: the result of each request.  Out: the time of the next one. This module knows nothing of HTTP.
"""

import asyncio
import time
from collections import deque

FIRST_SIZE = 8  # requests at the same time
# The window halves when this share of the last requests was refused. The last requests are the last window, and at
# least 16. So an endpoint that refuses one request in ten at random keeps its window, and an endpoint that takes k
# requests at the same time gets k/2 to 3k/2 (tests/synthesis/test_openai_engine.py).
REFUSED_SHARE, LAST_REQUESTS = 0.25, 16


class Window:
    """Limit the number of running requests. At first it doubles after each window of successes.

    When a quarter of the last requests was refused the window halves. From there it grows by one for each window, as in
    TCP. A smaller share of refusals is accepted. Otherwise an endpoint that refuses one request in ten at random would
    get one request at a time.
    """

    def __init__(self, most: int):
        self.answered = 0
        self._size, self._most = float(min(FIRST_SIZE, most)), most
        self._doubles_below = float(most)
        self._refused = 0.0  # the refused share of the last requests
        self._halved = (-1.0, 0)  # the time of the last halving, and the requests answered until then
        self._resume = 0.0
        self._running = 0
        self._queue: deque[asyncio.Future[None]] = deque()

    @property
    def size(self) -> int:
        """Return the current size of the window."""
        return int(self._size)

    async def enter(self) -> float:
        """Wait for room, and for the endpoint's requested pause. Return the time of entering."""
        while (left := self._resume - time.monotonic()) > 0 or self._running >= self.size:
            if left > 0:
                await asyncio.sleep(left)
            else:
                self._queue.append(asyncio.get_running_loop().create_future())
                await self._queue[-1]
        self._running += 1
        self._refused *= 1 - 1 / max(LAST_REQUESTS, self._size)
        return time.monotonic()

    def leave(self) -> None:
        """Record that an entered request has ended."""
        self._running -= 1
        room = self.size - self._running
        while self._queue and room > 0:
            if not (waiter := self._queue.popleft()).done():  # cancelled waiters are done
                waiter.set_result(None)
                room -= 1

    def record_success(self) -> None:
        """Record that a request was answered."""
        self.answered += 1
        self._size = min(self._most, self._size + (1 if self._size < self._doubles_below else 1 / self._size))

    def record_refusal(self, started: float, wait_s: float) -> None:
        """Record that a request that began at `started` was refused, and pause for `wait_s`.

        One burst of refusals halves the window only once.
        """
        self._resume = max(self._resume, time.monotonic() + wait_s)
        when, answered = self._halved
        if started <= when:
            return
        self._refused += 1 / max(LAST_REQUESTS, self._size)
        if self._refused >= REFUSED_SHARE:
            if self.answered > answered:  # otherwise the endpoint is down, and will later take as many as before
                self._doubles_below = self._size / 2
            self._size, self._refused, self._halved = max(1.0, self._size / 2), 0.0, (time.monotonic(), self.answered)
