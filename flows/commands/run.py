"""`montessori run` and `montessori refresh`: a run or a night as a flow of Prefect, followed on the screen.

In: the options.  Out: the artifact in the store, its table on the screen.
"""

import argparse
import logging
import os
from collections.abc import Callable
from contextlib import nullcontext
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING, Any

from flows.commands.options import add_settings, add_start, settings_of
from flows.commands.signals import leaving_at_once
from montessori.errors import InputError

if TYPE_CHECKING:
    from rich.console import Console

    from montessori.artifacts import Request, Store
    from montessori.settings.schema import Settings

EXAMPLES = """examples:
  montessori run tiny                                     two iterations in the pocket world, on a laptop
  montessori run tiny --set dpo.beta=0.2                  again with another beta: only what follows from it is redone
  montessori run tinyllama-1.1b --dry-run                 what a run would do, without doing it
  montessori run store/runs/tiny-1a2b3c4d/run.yaml        replay a run
"""
REFRESH_EXAMPLES = """examples:
  montessori refresh tiny                             tonight's challenger against the champion
  montessori refresh tiny --night 2026-11-23          that night again: it goes on, or replays, from the store
  montessori refresh tiny --set refresh.seeds=5       five pairs of students instead of three
  montessori champion history --name tiny             what each night promoted or kept
"""


def add_parsers(add: Any) -> None:
    """Add both commands; `add` makes a subparser."""
    run = add(
        "run",
        help="one run of Montessori-Instruct, end to end",
        description="Run the method beside Self-Instruct and the base student. What the store has is not done again.",
        epilog=EXAMPLES,
    )
    refresh = add(
        "refresh",
        help="one night: tune the champion teacher, and keep what its student learns more from",
        description="Tune the champion teacher, compare the students of both, and promote the challenger if its "
        "student's reference loss is lower by more than the noise. The same night goes on where it stopped.",
        epilog=REFRESH_EXAMPLES,
    )
    for command in (run, refresh):
        command.add_argument("config", metavar="CONFIG", help="a YAML file of settings")
        add_settings(command, "a setting, for example dpo.beta=0.2")
    run.add_argument("--iterations", type=int, metavar="N", help="short for --set iterations=N")
    run.add_argument(
        "--suite", metavar="SUITE", help="benchmarks for the students as well: quick, paper or a YAML file"
    )
    run.add_argument("--judge", metavar="ENGINE:MODEL", help="who judges in the suite, as `montessori evaluate` has it")
    refresh.add_argument(
        "--night",
        type=_night,
        default=datetime.now(UTC).date(),
        metavar="DATE",
        help="which night, as 2026-11-23; each makes new data (default: today, in UTC)",
    )
    for command in (run, refresh):
        add_start(command, "the plan and what of it is cached")


def _night(text: str) -> date:
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no date: expected one like 2026-11-23") from None


def run(options: argparse.Namespace) -> int:
    """Check, run and show."""
    settings = settings_of(options)
    quiet_prefect()
    from rich.console import Console
    from rich.markup import escape

    from flows.commands import terminal
    from flows.requests.run import benchmarks, plan
    from montessori.artifacts import open_store
    from tasks.runtime import engines

    store = open_store(settings.store)
    store.check_readable()
    settings = engines.settled(settings)
    if options.judge and not options.suite:
        raise InputError("--judge: there is no suite that it would judge; add --suite paper")
    requests = list(plan(settings)[0].requests.values())  # wrong input is found here, before anything heavy starts
    measuring = benchmarks(settings, options.suite, options.judge, not options.dry_run)
    if not options.dry_run:
        _check(settings, requests, store)
    console = Console()
    if options.dry_run:
        terminal.show_plan(console, [*requests, *(one for one in measuring if one not in requests)], store)
        return 0
    console.print(f"[bold]engine[/] {escape(engines.said(settings))}", highlight=False, soft_wrap=True)

    def flow() -> str:
        from flows.montessori import montessori

        return montessori(settings, options.suite, options.judge)

    address = _followed(console, flow)
    folder = store.open(address)
    terminal.show_result(console, folder / "result.md")
    if measuring:
        card = store.open(measuring[-1].address)
        terminal.show_result(console, card / "result.md")
        print(f"\nbenchmarks  {card / 'report.html'}")
    print(f"\nreport  {folder / 'report.html'}\nrun     {store.locate(address)}")
    return 0


def refresh(options: argparse.Namespace) -> int:
    """Check, run the night and show what became of it."""
    settings = settings_of(options)
    quiet_prefect()
    from rich.console import Console
    from rich.markup import escape

    from flows.commands import terminal
    from flows.methods.night import plan
    from montessori.artifacts import open_store
    from montessori.refresh import champions
    from tasks.runtime import engines

    store = open_store(settings.store)
    store.check_readable()
    settings = engines.settled(settings)
    planned, night = plan(settings, options.night.isoformat(), store)
    requests = list(planned.requests.values())
    if not options.dry_run:
        _check(planned.settings, requests, store)
    console = Console()
    if options.dry_run:
        terminal.show_plan(console, requests, store)
        return 0
    console.print(f"[bold]engine[/] {escape(engines.said(settings))}", highlight=False, soft_wrap=True)
    before = night.champion or "the settings' base teacher"
    console.print(f"[bold]champion[/] {escape(before)}", highlight=False, soft_wrap=True)

    def flow() -> str:
        from flows.teacher_refresh import teacher_refresh

        return teacher_refresh(settings, options.night)

    address = _followed(console, flow)
    folder = store.open(address)
    terminal.show_result(console, folder / "result.md")
    entries = champions.history(store, settings.name)
    print(f"\nchampion  {entries[-1].teacher if entries else before}")
    print(f"report    {folder / 'report.html'}\nrefresh   {store.locate(address)}")
    return 0


def _check(settings: "Settings", requests: "list[Request]", store: "Store") -> None:
    """Raise InputError when something that the stages still to be made need cannot be had, or nothing be written."""
    from tasks.runtime import engines, places

    places.check(settings.compute, store)
    engines.check(settings, [request for request in requests if not store.exists(request.address)])
    store.check_writable()


def _followed(console: "Console", flow: Callable[[], str]) -> str:
    """What `flow` returns, which runs under Prefect, its stages on the screen."""
    import prefect.flow_engine
    from prefect.settings import PREFECT_API_URL

    from flows.commands import terminal
    from tasks.runtime.executor import watching
    from tasks.runtime.server import connected

    embedded = not PREFECT_API_URL.value()
    if embedded:  # its own handler of SIGTERM would wait for a server that the same signal has ended
        setattr(prefect.flow_engine, "capture_sigterm", nullcontext)  # noqa: B010
    else:
        with connected():  # Prefect says in 150 lines what is wrong with a server
            pass
    logging.getLogger("prefect.flow_runs").addHandler(terminal.Warnings(console))
    screen = terminal.Screen(console)
    with screen, watching(screen.watch), leaving_at_once(screen.stop) if embedded else nullcontext():
        return flow()


def quiet_prefect() -> None:
    """The lines on the screen are ours; Prefect's own go to its server, whose telemetry stays off."""
    for name, value in {
        "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL",
        "PREFECT_SERVER_LOGGING_LEVEL": "CRITICAL",
        "PREFECT_INTERNAL_LOGGING_LEVEL": "CRITICAL",
        "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",  # 20 is too few on a busy laptop
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "1",
    }.items():
        os.environ.setdefault(name, value)
