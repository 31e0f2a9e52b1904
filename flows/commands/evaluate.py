"""`montessori evaluate`: any models on a suite of benchmarks, without Prefect; and what its flow shares with it.

In: the options.  Out: the scorecard in the store, its table on the screen.
"""

import argparse
import json
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flows.commands.options import add_settings, add_start, overrides_of
from flows.commands.signals import leaving_at_once
from montessori.errors import InputError
from montessori.settings import files, shipped

if TYPE_CHECKING:
    from flows.requests.evaluation import Plan
    from montessori.artifacts import Request, Store
    from montessori.evaluation.subjects import Subject
    from montessori.settings.suite import Suite

EXAMPLES = """examples:
  montessori evaluate tiny-1a2b3c4d                                     all students of a run, quickly, without a judge
  montessori evaluate models/mine models/theirs --suite paper --judge openai:gpt-4o --set budget.usd=50
  montessori evaluate tiny-1a2b3c4d:Self-Instruct better=models/mine --baseline Self-Instruct
  montessori evaluate models/mine --suite quick --judge vllm:models/judge --set 'alpaca_eval={}'
  montessori evaluate models/mine --set benchmarks.gsm8k.file=test.jsonl --set benchmarks.gsm8k.shots_file=train.jsonl
  montessori evaluate models/mine --suite paper --judge openai:gpt-4o --dry-run     what it would do, and cost

A MODEL is a folder with safetensors, a hub name, a run (all of its students), RUN:SYSTEM, or an artifact of the store
like student/3f2a…; name=MODEL gives it a name for the tables. The key of a paid judge comes from OPENAI_API_KEY. What
the store has is not measured again: add a model or a benchmark, and only that is.
"""


@dataclass(frozen=True)
class Prepared:
    """An evaluation that is ready to start."""

    suite: "Suite"
    store: "Store"
    plan: "Plan"
    questions: dict[str, int]  # how many there are in files, for the judge


def add_parser(add: Any) -> None:
    """Add the command; `add` makes a subparser."""
    parser = add(
        "evaluate",
        help="models on benchmarks: losses, lm-evaluation-harness, AlpacaEval, MT-Bench, head to head",
        description="Measure models on a suite of benchmarks, and compare them. Every number comes with its error.",
        epilog=EXAMPLES,
    )
    parser.add_argument("models", metavar="MODEL", nargs="+", help="what is measured; see below")
    parser.add_argument(
        "--suite", metavar="SUITE", default="quick", help="quick, paper or a YAML file (default: quick)"
    )
    parser.add_argument(
        "--baseline",
        metavar="MODEL",
        help="whom the others are compared with: one of the models by its name, a file of answers as AlpacaEval has "
        "them (name=FILE names them), or reference: the answers that come with AlpacaEval (default: a run's "
        "Self-Instruct student, else the first of several models, else reference)",
    )
    parser.add_argument(
        "--judge", metavar="ENGINE:MODEL", help="who judges: openai:NAME, vllm:MODEL, transformers:MODEL"
    )
    parser.add_argument("--reference", metavar="DATA", help="short for --set reference=DATA: for the reference loss")
    parser.add_argument("--trained-on", metavar="DATA", help="short for --set trained_on=DATA: count its overlap")
    add_settings(parser, "a setting of the suite, for example benchmarks.gsm8k.limit=100")
    add_start(parser, "the plan and what the judge would cost")


def evaluate(options: argparse.Namespace) -> int:
    """Check, measure and show."""
    sources = {"reference": options.reference, "trained_on": options.trained_on}
    overrides = [*overrides_of(options), *files.overrides(sources)]
    ready = prepare(options.models, options.suite, options.baseline, options.judge, overrides, not options.dry_run)

    from rich.console import Console

    from flows.commands import terminal
    from montessori.evaluation import cost
    from tasks.runtime import places
    from tasks.runtime.executor import watching
    from tasks.runtime.local import Direct

    console = Console()
    if ready.suite.judge:
        console.print(
            cost.sentence(ready.suite, ready.plan.requests, ready.store, ready.questions),
            highlight=False,
            soft_wrap=True,
        )
    if options.dry_run:
        terminal.show_plan(console, ready.plan.requests, ready.store)
        return 0
    places.check(ready.suite.compute, ready.store)
    ready.store.check_writable()
    place = places.open_place(ready.suite.compute, ready.suite.vllm.python)
    execution = Direct(ready.store, place, ready.suite.compute)
    screen = terminal.Screen(console)
    with screen, watching(screen.watch), leaving_at_once(screen.stop):
        try:
            for request in ready.plan.requests:
                execution.submit(request)
            execution.finish()
        finally:
            place.close()
    folder = ready.store.open(ready.plan.card)
    terminal.show_result(console, folder / "result.md")
    console.print(f"\nreport      {folder / 'report.html'}", highlight=False, markup=False, soft_wrap=True)
    console.print(f"evaluation  {ready.store.locate(ready.plan.card)}", highlight=False, markup=False, soft_wrap=True)
    return 0


def prepare(
    models: Sequence[str],
    suite: str,
    baseline: str | None,
    judge: str | None,
    overrides: Sequence[str],
    connect: bool = True,
) -> Prepared:
    """Everything that the options name, looked at before a process starts. Raises InputError that names the option.

    `connect`: whether the judge's endpoint and the hub are asked, and engines are looked for.
    """
    from flows.requests import evaluation
    from montessori.artifacts import open_store
    from montessori.evaluation import subjects as models_of
    from tasks.runtime import engines

    path = shipped.path_of(suite, "suite", "--suite")
    asked = _settled(files.read(path, [*judged_by(judge), *overrides]), str(path))
    store = open_store(asked.store)
    store.check_readable()
    found = models_of.find(models, store)
    against, outputs = _baseline(baseline, found, asked)
    _check_sense(asked, found)
    addresses, questions = _addresses(asked, outputs)
    if connect:
        engines.check_suite(asked)
    words = [
        *models,
        "--suite",
        suite,
        *(["--baseline", baseline] if baseline else []),
        *(["--judge", judge] if judge else []),
    ]
    words += [f"--set={override}" for override in overrides]
    command = f"montessori evaluate {shlex.join(words)}"
    plan = evaluation.plan(asked, found, against, addresses, command)
    if connect:
        named = [("MODEL", subject.address.removeprefix("hub:")) for subject in found]
        named += [("judge.source", asked.judge.source or "")] if asked.judge else []
        missing = [request for request in plan.requests if not store.exists(request.address)]
        engines.check_models(named, missing, asked.compute)
    check_benchmarks(asked, plan.requests, store, connect)
    return Prepared(asked, store, plan, questions)


def suited(tree: dict[str, Any], where: str, connect: bool = True) -> "tuple[Suite, dict[str, str]]":
    """The suite that `tree` says, for students still to be made, and the addresses of what it names; all checked.

    `where` is what its errors begin with.
    """
    from tasks.runtime import engines

    asked = _settled(tree, where)
    addresses, _ = _addresses(asked, None)
    if connect:
        engines.check_suite(asked)
    return asked, addresses


def check_benchmarks(suite: "Suite", requests: "Iterable[Request]", store: "Store", connect: bool) -> None:
    """Raise InputError where a benchmark that the store has not yet cannot be had as it is asked for.

    Takes two seconds, ten where a task is not in a folder of its name, or is none: the harness is looked through.
    """
    from montessori.evaluation import catalogue, local

    asked_for = [request for request in requests if request.stage == "benchmark"]
    missing = {request.means["field"] for request in asked_for if not store.exists(request.address)}
    needed = {}
    for name, asked in suite.benchmarks.items():
        if (field := f"benchmarks.{name}") in missing:
            items, shots = (
                local.read(file.source, asked.task, f"{field}.{role}") if file else None
                for role, file in (("file", asked.file), ("shots_file", asked.shots_file))
            )
            if find_spec("lm_eval"):  # else workers have it
                needed[field] = catalogue.check(asked, field, items, shots)
    if connect and suite.compute.place != "pool":
        catalogue.check_hub(needed)


def _check_sense(suite: "Suite", subjects: "Sequence[Subject]") -> None:
    """Raise InputError where something is asked for that would come to nothing."""
    references = {subject.reference for subject in subjects if subject.reference}
    if not suite.reference and len(references) > 1:
        raise InputError("MODEL: these runs have different reference sets; give one for all by --reference DATA")
    judged = suite.alpaca_eval or suite.mt_bench or suite.people
    if suite.judge and not judged:
        raise InputError("--judge: nothing in this suite is judged; add --set 'alpaca_eval={}' or --set 'mt_bench={}'")
    if suite.people and not suite.judge:
        raise InputError("people: measures the judge, and there is none; add --judge openai:NAME (or vllm:MODEL)")
    if suite.head_to_head and len(subjects) < 2:
        raise InputError("head_to_head: takes two models at least")
    if not (judged or suite.benchmarks or suite.reference or references):
        raise InputError("the suite measures nothing: add benchmarks, --reference DATA, or a judge")


def _settled(tree: dict[str, Any], where: str) -> "Suite":
    from montessori.settings.suite import Suite
    from tasks.runtime.engines import settled_engine
    from tasks.runtime.places import gpus

    asked = files.block(Suite, tree, where)
    unjudged = [part for part in ("alpaca_eval", "mt_bench") if getattr(asked, part) is not None]
    if unjudged and not asked.judge:
        without = " and ".join(f"{part}=null" for part in unjudged)
        raise InputError(
            f"{where}: {' and '.join(unjudged)} need a judge; add --judge openai:NAME (or vllm:MODEL), in a "
            f"study's file judge: openai:NAME; or set {without}"
        )
    if asked.head_to_head and not asked.alpaca_eval:
        raise InputError("head_to_head: compares answers to AlpacaEval's instructions; add --set 'alpaca_eval={}'")
    dtype = asked.dtype or ("bfloat16" if gpus() else "float32")
    engine = settled_engine(asked.engine, asked.vllm.python, known=asked.compute.place != "pool")
    return asked.model_copy(update={"dtype": dtype, "engine": engine})


def judged_by(given: str | None, field: str = "--judge") -> list[str]:
    """The settings that `--judge ENGINE:MODEL` is short for. Raises InputError, naming `field`."""
    if given is None:
        return []
    engine, _, model = given.partition(":")
    if engine not in ("openai", "vllm", "transformers") or not model:
        raise InputError(f"{field} {given}: expected openai:NAME, vllm:MODEL or transformers:MODEL")
    field = "judge.openai.model" if engine == "openai" else "judge.source"
    return [f"judge.engine={engine}", f"{field}={json.dumps(model)}"]


def _baseline(given: str | None, subjects: "Sequence[Subject]", suite: "Suite") -> tuple[str | None, str | None]:
    """The baseline's name in tables, and the file of its answers, where it is one."""
    from montessori.evaluation.subjects import REFERENCE, compared_with

    labels = [subject.label for subject in subjects]
    if given is None:
        if len(labels) == 1:
            return (REFERENCE if suite.alpaca_eval else None), None
        return compared_with(labels), None
    if given == REFERENCE and not suite.alpaca_eval:
        raise InputError(f"--baseline {given}: its answers are AlpacaEval's; add --set 'alpaca_eval={{}}'")
    if given in labels or given == REFERENCE:
        return given, None
    name, equals, file = given.partition("=")
    if not equals or "/" in name:  # a path with a = in it
        name, file = "", given
    if not Path(file).expanduser().is_file():
        raise InputError(
            f"--baseline {given}: no file of answers, and none of the models is called so: {', '.join(labels)}"
        )
    if not suite.alpaca_eval:
        raise InputError(f"--baseline {given}: answers are compared in AlpacaEval; add --set 'alpaca_eval={{}}'")
    name = name or _author(Path(file).expanduser())
    if name in (*labels, REFERENCE):
        taken = "a model is called so too" if name in labels else "that means AlpacaEval's own answers"
        raise InputError(f"--baseline {given}: its answers are {name}'s, and {taken}; name them: NAME={file}")
    return name, file


def _author(file: Path) -> str:
    """Whose answers are in a file: the `generator` of its rows where it is one, as AlpacaEval has it; else its name."""
    from montessori.data import rows

    authors = {row.get("generator") for _, row in rows.file_rows(file, "--baseline") if isinstance(row, dict)}
    author = authors.pop() if len(authors) == 1 else None
    return author if isinstance(author, str) and author.strip() else Path(file.name.removesuffix(".gz")).stem


def _addresses(suite: "Suite", outputs: str | None) -> tuple[dict[str, str], dict[str, int]]:
    """The address of everything that the suite names, each one checked; and how many questions there are in files."""
    from montessori.data import rows, sources
    from montessori.evaluation import agreement, alpaca_library, judging
    from montessori.settings.schema import DataSource
    from tasks.benchmarks import read_questions as questions

    found: dict[str, str] = {}
    counts: dict[str, int | None] = {}
    for field in ("reference", "trained_on"):
        if source := getattr(suite, field):
            found[field] = sources.rows(source, field)
            if rows.is_file(source):
                rows.read(source, field)
    for name, benchmark in suite.benchmarks.items():
        for role, file in (("data", benchmark.file), ("shots", benchmark.shots_file)):
            if file:
                field = f"benchmarks.{name}.{'file' if role == 'data' else 'shots_file'}"
                found[f"{name}:{role}"] = sources.rows(DataSource(source=file.source), field)
    if suite.alpaca_eval:
        found["alpaca_eval"] = sources.rows(suite.alpaca_eval.questions, "alpaca_eval.questions")
        counts["alpaca_eval"] = questions.check(suite.alpaca_eval.questions, "alpaca_eval")
        if outputs:
            answers = DataSource(source=outputs)
            found["baseline"] = sources.rows(answers, "--baseline")
            questions.check(answers, "alpaca_eval", role="--baseline")
        if suite.alpaca_eval.difficulties not in ("hub", "none"):
            found["difficulties"] = sources.rows(
                DataSource(source=suite.alpaca_eval.difficulties), "alpaca_eval.difficulties"
            )
            alpaca_library.check(suite.alpaca_eval.difficulties)
    if suite.mt_bench:
        found["mt_bench"] = sources.rows(suite.mt_bench.questions, "mt_bench.questions")
        if suite.mt_bench.references:
            references = DataSource(source=suite.mt_bench.references.source)
            found["mt_references"] = sources.rows(references, "mt_bench.references")
        answered = suite.mt_bench.references
        counts["mt_bench"] = questions.check(
            suite.mt_bench.questions, "mt_bench", answered.source if answered else None
        )
    if suite.people:
        found["people"] = sources.rows(DataSource(source=suite.people.source), "people")
        counts["people"] = len(agreement.people(suite.people.source))
    if judge := suite.judge:
        if judge.prompts:
            found["prompts"] = sources.rows(DataSource(source=judge.prompts), "judge.prompts")
            judging.check(judge.prompts)
        if judge.engine == "openai":
            found["judge"] = f"api:{judge.openai.model}@{judge.openai.base_url}"
        else:
            found["judge"] = sources.model(str(judge.source), "judge.source")
    return found, {kind: count for kind, count in counts.items() if count is not None}
