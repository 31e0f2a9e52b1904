"""`montessori study`: a grid of runs. A cell that fails stops no other one."""

import argparse
from typing import Any

from flows.commands.options import add_settings, add_start, overrides_of
from montessori.settings import shipped

EXAMPLES = """examples:
  montessori study pocket                       all systems and ablations, five seeds, half an hour
  montessori study pocket --set 'seeds=[0,1]'   fewer; the same with five seeds then adds three
  montessori study paper-1.1b --dry-run         what it would do
  montessori estimate paper-1.1b                what it would take

A study is a grid of systems, students and seeds on one set of settings. What cells share is made once, what the store
has is not made again, and a cell that fails stops no other one: the same command makes what is missing.
"""


def add_parser(add: Any) -> None:
    """Add the command; `add` makes a subparser."""
    parser = add(
        "study",
        help="systems × students × seeds, as tables and figures",
        description="Run every system that the paper compares, and draw its tables and figures from these runs.",
        epilog=EXAMPLES,
    )
    parser.add_argument(
        "config",
        metavar="STUDY",
        help=f"a study by name ({', '.join(shipped.names('study'))}), or the path of a YAML file",
    )
    add_settings(parser, "the study, for example change.dpo.beta=0.2 for all its runs")
    add_start(parser, "the grid and what of it is there")


def study(options: argparse.Namespace) -> int:
    """Check, run and show."""
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
    """What all cells would take together, what they share counted once; and what the judge would."""
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
        console.print("\nNot in it: the benchmarks (docs/how-to/evaluate.md says what they take).", highlight=False)
        if ready.suite.judge:
            said = judge_cost.describe(ready.suite, list(ready.grid.requests.values()), ready.plan.store, {})
            console.print(said, highlight=False, soft_wrap=True)
    return 0
