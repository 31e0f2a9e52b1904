"""Run a command's plan in this process or through Prefect, and show it on the screen."""

import logging
import os
import sys
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any, TypeVar

from rich.console import Console

from flows.commands import terminal
from flows.commands.interrupt import exit_on_interrupt
from flows.requests.builder import Address, Plan
from montessori.artifacts import Store
from montessori.errors import MontessoriError, StageError
from montessori.extras import require
from tasks.runtime.executor import Executor, observed_by
from tasks.runtime.local import local_executor

T = TypeVar("T")


def follow(
    console: Console, plan: Plan, work: Callable[[Executor], T], flow: Callable[[], Any], *, with_prefect: bool
) -> T | None:
    """Call `work` with the local executor, show its tasks on the screen, and return its result.

    With Prefect (`with_prefect`, or PREFECT_API_URL in the environment) call `flow` instead, and return None. `flow`
    returns a final state. Raises the error of a failed run.
    """
    through_prefect = with_prefect or bool(os.environ.get("PREFECT_API_URL"))
    if through_prefect:
        require("flows", purpose="--prefect" if with_prefect else "PREFECT_API_URL")
    screen = terminal.Screen(console)
    with screen, observed_by(screen):
        if through_prefect:
            _through_prefect(console, screen, flow)
            return None
        with (
            exit_on_interrupt(screen.stop),
            local_executor(plan.store, plan.compute, plan.vllm_python) as executor,
        ):
            return work(executor)


def show(console: Console, store: Store, address: Address, what: str) -> None:
    """Show an artifact's result, and the paths of its report and of the artifact."""
    folder = store.open(address)
    terminal.show_result(console, folder / "result.md")
    width = max(len(what), len("report")) + 2
    sys.stdout.write(f"\n{'report':<{width}}{folder / 'report.html'}\n{what:<{width}}{store.locate(address)}\n")


def _through_prefect(console: Console, screen: terminal.Screen, flow: Callable[[], Any]) -> None:
    """Call `flow` under Prefect: its server at PREFECT_API_URL, else a temporary one of Prefect's own."""
    import prefect.flow_engine
    from prefect.settings import PREFECT_API_URL

    from tasks.runtime.server import connected, start_server

    embedded = not PREFECT_API_URL.value()
    if embedded:  # Prefect's handler of SIGTERM would wait for a server that the same signal has ended
        setattr(prefect.flow_engine, "capture_sigterm", nullcontext)  # noqa: B010
        start_server()
    else:
        with connected():  # one sentence on a wrong server, in place of Prefect's 150 lines
            pass
    logging.getLogger("prefect.flow_runs").addHandler(terminal.Warnings(console))
    with exit_on_interrupt(screen.stop) if embedded else nullcontext():
        state = flow()
    if not state.is_completed():
        error = state.result(raise_on_failure=False)
        raise error if isinstance(error, MontessoriError) else StageError(state.message or f"the flow is {state.name}")
