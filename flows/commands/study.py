"""Run a study, a grid of runs: `montessori study`."""

import argparse
from typing import Any

from flows.commands.options import add_settings, add_start, overrides_of
from montessori.settings import shipped

EXAMPLES = """examples:
  montessori study pocket                       all systems and ablations, five seeds, half an hour
  montessori study pocket --set 'seeds=[0,1]'   two seeds; the same command with five seeds adds three
  montessori study paper-1.1b --dry-run         the plan
  montessori estimate paper-1.1b                the time and the price

A study is a grid of systems, students and seeds on one set of settings. Cells share their common artifacts, and
existing artifacts are not made again. A failed cell stops no other cell. Repeat the command to make what is missing.
"""


def add_parser(add: Any) -> None:
    """Add the command. `add` creates a subparser."""
    parser = add(
        "study",
        help="systems × students × seeds, as tables and figures",
        description="Run all systems of a study, and draw tables and figures from their runs.",
        epilog=EXAMPLES,
    )
    parser.add_argument(
        "config",
        metavar="STUDY",
        help=f"a study by name ({', '.join(shipped.names('study'))}), or the path of a YAML file",
    )
    add_settings(parser, "the study, for example change.dpo.beta=0.2 for all its runs")
    add_start(parser, "the grid and its cached part")


def study(options: argparse.Namespace) -> int:
    """Check and run the study, show its result, and return the exit code."""
    from functools import partial

    from rich.console import Console

    from flows.commands import follow, terminal
    from flows.execution import execute_study
    from flows.requests import study_file

    overrides = overrides_of(options)
    ready, console = study_file.prepare(options.config, overrides, not options.dry_run), Console()
    if options.dry_run:
        names = dict.fromkeys(name for name, _ in ready.grid.cells)
        terminal.show_grid(console, names, list(ready.grid.requests.values()), ready.plan.store)
        return 0
    study_file.check(ready)

    def flow() -> Any:
        from flows.study import study

        return study(options.config, overrides, return_state=True)

    done = follow.follow(console, ready.plan, partial(execute_study, ready), flow, with_prefect=options.prefect)
    address, error = done or (ready.plan.address, None)
    follow.show(console, ready.plan.store, address, "study")
    if error:
        raise error
    return 0


def estimate(options: argparse.Namespace) -> int:
    """Show the estimate of all cells together, shared tasks counted once, and of the judge."""
    from rich.console import Console

    from flows.commands import terminal
    from flows.requests import study_file
    from montessori.evaluation import judge_cost
    from tasks.runtime.estimate import estimate_all

    ready, console = study_file.prepare(options.config, overrides_of(options), connect=False), Console()
    with console.status("reading the seeds and the rates of past runs"):
        lines, assumed = estimate_all(
            [(steps.settings, steps.requests) for _, steps in ready.grid.cells], ready.plan.store
        )
    terminal.show_estimate(console, lines, assumed, ready.study.budget)
    if ready.suite:
        console.print("\nNot in it: the benchmarks (docs/how-to/evaluate.md has their cost).", highlight=False)
        if ready.suite.judge:
            price = judge_cost.describe(ready.suite, list(ready.grid.requests.values()), ready.plan.store, {})
            console.print(price, highlight=False, soft_wrap=True)
    return 0
