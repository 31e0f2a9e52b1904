"""How many requests an endpoint is asked at once, found out by asking: a window like that of TCP.

In: what became of each request.  Out: when the next may go. It knows nothing of HTTP.
"""

import asyncio
import time
from collections import deque

FIRST = 8  # requests side by side
# The share of refused requests, of the last window or so many, that halves it. So one in ten that are refused at random
# leave it whole, and an endpoint that bears k at once is asked by k/2 to 3k/2: tests/synthesis/test_openai_engine.py.
TOLERATED, OF_AT_LEAST = 0.25, 16


class Window:
    """How many requests may be under way: twice as many after each window that went well, at first.

    When a quarter of the last ones was refused it is halved, and grows from there by one for each window, as in TCP.
    Fewer refusals are borne: an endpoint that refuses one in ten whatever one does would be asked by one at a time.
    """

    def __init__(self, most: int):
        self.answered = 0
        self._size, self._most = float(min(FIRST, most)), most
        self._doubles_below = float(most)
        self._refused = 0.0  # share of the last requests
        self._halved = (-1.0, 0)  # when, and how many had been answered
        self._resume = 0.0
        self._under_way = 0
        self._queue: deque[asyncio.Future[None]] = deque()

    @property
    def size(self) -> int:
        """Of the window now."""
        return int(self._size)

    async def enter(self) -> float:
        """Wait for room, and as long as the endpoint has asked for. Says when that was."""
        while (left := self._resume - time.monotonic()) > 0 or self._under_way >= self.size:
            if left > 0:
                await asyncio.sleep(left)
            else:
                self._queue.append(asyncio.get_running_loop().create_future())
                await self._queue[-1]
        self._under_way += 1
        self._refused *= 1 - 1 / max(OF_AT_LEAST, self._size)
        return time.monotonic()

    def leave(self) -> None:
        """A request that has entered is over."""
        self._under_way -= 1
        room = self.size - self._under_way
        while self._queue and room > 0:
            if not (turn := self._queue.popleft()).done():  # those of a generation that was given up are
                turn.set_result(None)
                room -= 1

    def went_well(self) -> None:
        """A request was answered."""
        self.answered += 1
        self._size = min(self._most, self._size + (1 if self._size < self._doubles_below else 1 / self._size))

    def too_much(self, begun: float, wait_s: float) -> None:
        """A request that began at `begun` was refused; nothing more for `wait_s`. One burst halves only once."""
        self._resume = max(self._resume, time.monotonic() + wait_s)
        when, answered = self._halved
        if begun <= when:
            return
        self._refused += 1 / max(OF_AT_LEAST, self._size)
        if self._refused >= TOLERATED:
            if self.answered > answered:  # else it is out of order: afterwards it will bear as much as before
                self._doubles_below = self._size / 2
            self._size, self._refused, self._halved = max(1.0, self._size / 2), 0.0, (time.monotonic(), self.answered)
