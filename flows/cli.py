"""The command line: `montessori run CONFIG`.

Exit codes: 0 done; 2 the input is wrong, said in one sentence, nothing started; 1 anything else.
"""

import argparse
import json
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from importlib.metadata import version
from pathlib import Path

from montessori import config_file
from montessori.errors import InputError, MontessoriError

EXAMPLES = """examples:
  montessori run configs/tiny.yaml                        two iterations in the pocket world, on a laptop
  montessori run configs/tiny.yaml --set dpo.beta=0.2     again with another beta: only what follows from it is redone
  montessori run configs/tinyllama-1.1b.yaml --dry-run    what a run would do, without doing it
  montessori run store/runs/tiny-1a2b3c4d/run.yaml        replay a run
"""


def main(arguments: list[str] | None = None) -> int:
    """Run the command in `arguments` (default: the process's); the exit code."""
    options = _parser().parse_args(arguments)
    if options.command is None:
        _parser().print_help(sys.stderr)
        return 2
    try:
        return _run(options)
    except InputError as error:
        print(f"montessori: {error}", file=sys.stderr)
        return 2
    except MontessoriError as error:
        print(f"montessori: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("montessori: stopped; the same command goes on from here", file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="montessori",
        description="Make training data fitted to the student model that learns from it.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {version('montessori')}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    run = commands.add_parser(
        "run",
        help="one run of Montessori-Instruct, end to end",
        description="Run the method beside Self-Instruct and the base student. What the store has is not done again.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    run.add_argument("config", metavar="CONFIG", help="a YAML file of settings")
    run.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        dest="overrides",
        help="change a setting, for example dpo.beta=0.2; may be repeated",
    )
    run.add_argument("--iterations", type=int, metavar="N", help="short for --set iterations=N")
    run.add_argument("--store", metavar="DIR", help="short for --set store=DIR")
    run.add_argument("--dry-run", action="store_true", help="show the plan and what of it is cached; start nothing")
    return parser


def _run(options: argparse.Namespace) -> int:
    short = {"iterations": options.iterations, "store": options.store}
    overrides = options.overrides + [f"{key}={json.dumps(value)}" for key, value in short.items() if value is not None]
    settings = config_file.load(options.config, overrides)
    from montessori import sources
    from montessori.artifacts import Store

    store = Store(settings.store)
    sources.addresses(settings)  # wrong input is found here, before anything heavy starts
    if not options.dry_run:
        store.check_writable()
    from rich.console import Console

    console = Console()
    _quiet_prefect()
    from flows import terminal
    from flows.montessori import montessori, plan
    from tasks.execution import watching

    if options.dry_run:
        steps, _ = plan(settings)
        terminal.show_plan(console, list(steps.requests.values()), store)
        return 0
    with terminal.Screen(console) as screen, watching(screen.watch), _leaving_at_once(screen.stop):
        run = montessori(settings)
    folder = store.open(run)
    terminal.show_result(console, folder / "result.md")
    print(f"\nreport  {folder / 'report.html'}\nrun     {folder}")
    return 0


@contextmanager
def _leaving_at_once(clear_screen: Callable[[], None]) -> Iterator[None]:
    """On Ctrl-C and SIGTERM end this process and those that it started, nothing else: the store is always whole.

    Prefect's own way out would wait for its embedded server, which the same Ctrl-C has ended. A server of the user's
    is told, by Prefect, that the run has crashed.
    """

    def leave(*_: object) -> None:
        clear_screen()
        print("montessori: stopped; the same command goes on from here", file=sys.stderr, flush=True)
        for children in Path("/proc/self/task").glob("*/children"):
            for pid in children.read_text().split():
                with suppress(ProcessLookupError):
                    os.kill(int(pid), signal.SIGTERM)
        os._exit(1)

    embedded = not os.environ.get("PREFECT_API_URL")
    before = {number: signal.signal(number, leave) for number in (signal.SIGINT, signal.SIGTERM) if embedded}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _quiet_prefect() -> None:
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


if __name__ == "__main__":
    sys.exit(main())
