"""Run Montessori-Instruct or a night, and show it on the screen: `montessori run` and `montessori refresh`."""

import argparse
from datetime import UTC, date, datetime
from typing import Any

from flows.commands.options import add_settings, add_start, overrides_of, settings_of

EXAMPLES = """examples:
  montessori run tiny                                     two iterations in the pocket world, on a laptop
  montessori run tiny --set dpo.beta=0.2                  again with another beta; only what depends on it is made anew
  montessori run tinyllama-1.1b --dry-run                 the plan of a run
  montessori run store/runs/tiny-1a2b3c4d/run.yaml        replay a run
"""
REFRESH_EXAMPLES = """examples:
  montessori refresh tiny                             tonight's challenger against the champion
  montessori refresh tiny --night 2026-11-23          that night again: it continues or is replayed
  montessori refresh tiny --set refresh.seeds=5       five pairs of students instead of three
  montessori champion history --name tiny             all promotions, and nights without one
"""


def add_parsers(add: Any) -> None:
    """Add both commands. `add` creates a subparser."""
    run = add(
        "run",
        help="one run of Montessori-Instruct, end to end",
        description="Run the method beside Self-Instruct and the base student. Existing artifacts are not made again.",
        epilog=EXAMPLES,
    )
    refresh = add(
        "refresh",
        help="one night: tune the champion teacher, and keep the better one",
        description="Tune the champion teacher, compare the students of both, and promote the challenger if its "
        "student's reference loss is lower by more than the noise. A repeated night continues where it stopped.",
        epilog=REFRESH_EXAMPLES,
    )
    for command in (run, refresh):
        command.add_argument("config", metavar="CONFIG", help="settings by name, for example tiny, or a YAML file")
        add_settings(command, "a setting, for example dpo.beta=0.2")
    run.add_argument("--iterations", type=int, metavar="N", help="short for --set iterations=N")
    run.add_argument("--suite", metavar="SUITE", help="also measure the students: quick, paper or a YAML file")
    run.add_argument("--judge", metavar="ENGINE:MODEL", help="the judge of the suite, as in `montessori evaluate`")
    refresh.add_argument(
        "--night",
        type=_night,
        default=datetime.now(UTC).date(),
        metavar="DATE",
        help="the night, like 2026-11-23; each has new data (default: today in UTC)",
    )
    for command in (run, refresh):
        add_start(command, "the plan and its cached part")


def _night(text: str) -> date:
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no date: expected one like 2026-11-23") from None


def run(options: argparse.Namespace) -> int:
    """Check and run, show the result, and return the exit code."""
    settings = settings_of(options)  # before the imports below, which take a second
    from functools import partial

    from rich.console import Console
    from rich.markup import escape

    from flows.commands import follow, terminal
    from flows.execution import execute
    from flows.requests import run as requests
    from tasks.runtime import engines

    ready = requests.prepare(settings, options.suite, options.judge, not options.dry_run)
    plan, console = ready.plan, Console()
    if options.dry_run:
        terminal.show_plan(console, plan)
        return 0
    requests.check(ready.settings, plan)
    console.print(f"[bold]engine[/] {escape(engines.describe(ready.settings))}", highlight=False, soft_wrap=True)

    def flow() -> Any:
        from flows.montessori import montessori

        choices = {"suite": options.suite, "judge": options.judge}
        return montessori(options.config, overrides=overrides_of(options), **choices, return_state=True)

    follow.follow(console, plan, partial(execute, plan), flow, with_prefect=options.prefect)
    if ready.card:
        follow.show(console, plan.store, ready.card, "benchmarks")
    follow.show(console, plan.store, plan.address, "run")
    return 0


def refresh(options: argparse.Namespace) -> int:
    """Check and run the night, show its result, and return the exit code."""
    settings = settings_of(options)
    from functools import partial

    from rich.console import Console
    from rich.markup import escape

    from flows.commands import follow, terminal
    from flows.execution import execute_refresh
    from flows.requests import night as requests
    from flows.requests.run import check
    from montessori.refresh import champions
    from tasks.runtime import engines

    ready = requests.prepare(settings, options.night.isoformat())
    plan, console = ready.plan, Console()
    if options.dry_run:
        terminal.show_plan(console, plan)
        return 0
    check(ready.settings, plan)
    console.print(f"[bold]engine[/] {escape(engines.describe(ready.settings))}", highlight=False, soft_wrap=True)
    before = ready.night.champion or "the settings' base teacher"
    console.print(f"[bold]champion[/] {escape(before)}", highlight=False, soft_wrap=True)

    def flow() -> Any:
        from flows.teacher_refresh import teacher_refresh

        return teacher_refresh(options.config, overrides=overrides_of(options), night=options.night, return_state=True)

    follow.follow(console, plan, partial(execute_refresh, ready), flow, with_prefect=options.prefect)
    follow.show(console, plan.store, plan.address, "refresh")
    entries = champions.history(plan.store, ready.settings.name)
    print(f"champion  {entries[-1].teacher if entries else before}")
    return 0
