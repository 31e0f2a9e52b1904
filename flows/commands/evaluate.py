"""Measure any models on a suite of benchmarks: `montessori evaluate`."""

import argparse
from typing import Any

from flows.commands.options import add_settings, add_start, overrides_of
from montessori.settings import files

EXAMPLES = """examples:
  montessori evaluate tiny-1a2b3c4d                                     all students of a run, quickly, without a judge
  montessori evaluate models/mine models/theirs --suite paper --judge openai:gpt-4o --set budget.usd=50
  montessori evaluate tiny-1a2b3c4d:Self-Instruct better=models/mine --baseline Self-Instruct
  montessori evaluate models/mine --suite quick --judge vllm:models/judge --set 'alpaca_eval={}'
  montessori evaluate models/mine --set benchmarks.gsm8k.file=test.jsonl --set benchmarks.gsm8k.shots_file=train.jsonl
  montessori evaluate models/mine --suite paper --judge openai:gpt-4o --dry-run     the plan and its price

A MODEL is a folder with safetensors, a hub name, a run (all of its students), RUN:SYSTEM, or an artifact of the store
like student/3f2a…; name=MODEL gives it a name for the tables. The key of a paid judge comes from OPENAI_API_KEY.
Existing results are not measured again: add a model or a benchmark, and only that one is measured.
"""


def add_parser(add: Any) -> None:
    """Add the command. `add` creates a subparser."""
    parser = add(
        "evaluate",
        help="models on benchmarks: losses, lm-evaluation-harness, AlpacaEval, MT-Bench, head to head",
        description="Measure models on a suite of benchmarks, and compare them. Every number comes with its error.",
        epilog=EXAMPLES,
    )
    parser.add_argument("models", metavar="MODEL", nargs="+", help="the models to measure; see below")
    parser.add_argument(
        "--suite", metavar="SUITE", default="quick", help="quick, paper or a YAML file (default: quick)"
    )
    parser.add_argument(
        "--baseline",
        metavar="MODEL",
        help="the model that the others are compared with: the name of a model, a file of answers in AlpacaEval's "
        "form (name=FILE names them), or reference for the answers of AlpacaEval (default: a run's Self-Instruct "
        "student, else the first of several models, else reference)",
    )
    parser.add_argument(
        "--judge", metavar="ENGINE:MODEL", help="the judge: openai:NAME, vllm:MODEL, transformers:MODEL"
    )
    parser.add_argument("--reference", metavar="DATA", help="short for --set reference=DATA: for the reference loss")
    parser.add_argument("--trained-on", metavar="DATA", help="short for --set trained_on=DATA: count its overlap")
    add_settings(parser, "a setting of the suite, for example benchmarks.gsm8k.limit=100")
    add_start(parser, "the plan and the price of the judge")


def evaluate(options: argparse.Namespace) -> int:
    """Check and measure the models, show the result, and return the exit code."""
    from functools import partial

    from rich.console import Console

    from flows.commands import follow, terminal
    from flows.execution import execute
    from flows.requests import suite
    from montessori.evaluation import judge_cost

    overrides = [
        *overrides_of(options),
        *files.format_overrides({"reference": options.reference, "trained_on": options.trained_on}),
    ]
    choices = {"baseline": options.baseline, "judge": options.judge}
    ready = suite.prepare(options.models, options.suite, overrides, **choices, connect=not options.dry_run)
    plan, console = ready.plan, Console()
    if ready.suite.judge:
        price = judge_cost.describe(ready.suite, list(plan.requests.values()), plan.store, ready.questions)
        console.print(price, highlight=False, soft_wrap=True)
    if options.dry_run:
        terminal.show_plan(console, plan)
        return 0
    suite.check(ready)

    def flow() -> Any:
        from flows.evaluate import evaluate

        return evaluate(options.models, options.suite, **choices, overrides=overrides, return_state=True)

    follow.follow(console, plan, partial(execute, plan), flow, with_prefect=options.prefect)
    follow.show(console, plan.store, plan.address, "evaluation")
    return 0
