"""End a command on Ctrl-C at once, with all its processes. The store is always whole."""

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def exit_on_interrupt(clear_screen: Callable[[], None]) -> Iterator[None]:
    """End this process and its children on Ctrl-C and SIGTERM, without any further work.

    Prefect's own exit would wait for its embedded server, which the same Ctrl-C has ended.
    """

    from tasks.runtime import status_writer

    def leave(*_: object) -> None:
        clear_screen()
        status_writer.write_stopped()
        print("montessori: stopped; the same command goes on from here", file=sys.stderr, flush=True)
        for children in Path("/proc/self/task").glob("*/children"):
            for pid in children.read_text().split():
                with suppress(ProcessLookupError):
                    os.kill(int(pid), signal.SIGTERM)
        os._exit(1)

    before = {number: signal.signal(number, leave) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
