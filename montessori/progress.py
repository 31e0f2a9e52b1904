"""How far the stage at hand is: one function for library code to report it, one place to say who listens.

A listener gets (done, total, unit, note). In a stage process it writes JSON lines, in a terminal it moves a bar.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

Listener = Callable[[int, int, str, str], None]
T = TypeVar("T")

_listeners: list[Listener] = []


def report(done: int, total: int, unit: str, note: str = "") -> None:
    """Tell who listens that `done` of `total` `unit` are finished."""
    if _listeners:
        _listeners[-1](done, total, unit, note)


def track(items: Iterable[T], total: int, unit: str, size: Callable[[T], int] = lambda _: 1) -> Iterator[T]:
    """`items` as they are, reporting after each how much of `total` is finished; `size` is what an item counts."""
    report(0, total, unit)
    done = 0
    for item in items:
        yield item
        done += size(item)
        report(done, total, unit)


@contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Send reports to `listener` inside the block."""
    _listeners.append(listener)
    try:
        yield
    finally:
        _listeners.remove(listener)
