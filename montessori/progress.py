"""Report the progress of a task.

Library code calls `report`. The caller of the library says where the reports go. A worker sends them as JSON lines,
a terminal moves a bar.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

OnProgress = Callable[[int, int, str, str], None]

_receivers: list[OnProgress] = []


def report(done: int, total: int, unit: str, note: str = "") -> None:
    """Report that `done` of `total` `unit` are finished."""
    if _receivers:
        _receivers[-1](done, total, unit, note)


@contextmanager
def send_to(on_progress: OnProgress) -> Iterator[None]:
    """Send the reports inside the block to `on_progress`, as (done, total, unit, note)."""
    _receivers.append(on_progress)
    try:
        yield
    finally:
        _receivers.remove(on_progress)
