"""Prepare an evaluation: check the models and the suite before anything heavy starts, and plan the requests."""

import json
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from flows.requests import evaluation
from flows.requests.builder import Plan
from montessori.artifacts import Request, Store, open_store
from montessori.data import rows, sources
from montessori.errors import InputError
from montessori.evaluation import agreement, alpaca_library, harness_data, harness_tasks, judging
from montessori.evaluation import subjects as models_of
from montessori.evaluation.subjects import REFERENCE, Subject, default_baseline
from montessori.settings import files, shipped
from montessori.settings.data import DataSource
from montessori.settings.suite import Suite
from tasks.benchmarks import read_questions
from tasks.runtime import engines, places
from tasks.runtime.engines import resolve_engine
from tasks.runtime.places import gpus


@dataclass(frozen=True)
class Evaluation:
    """An evaluation that is ready to start."""

    suite: Suite
    plan: Plan
    questions: dict[str, int]  # the number in local files, by benchmark, for the price


def prepare(
    models: Sequence[str],
    suite: str,
    overrides: Sequence[str] = (),
    *,
    baseline: str | None = None,
    judge: str | None = None,
    connect: bool = True,
) -> Evaluation:
    """Check everything that the options name, and plan the evaluation. Nothing is started.

    With `connect` the judge's endpoint, the hub and the engines are checked. Raises InputError that names the option.
    """
    path = shipped.path_of(suite, "suite", "--suite")
    resolved = _resolve(files.read(path, [*judge_overrides(judge), *overrides]), str(path))
    store = open_store(resolved.store)
    store.check_readable()
    subjects = models_of.find(models, store)
    against, outputs = _baseline(baseline, subjects, resolved)
    _check_purpose(resolved, subjects)
    addresses, questions = _addresses(resolved, outputs)
    if connect:
        engines.check_suite(resolved)
    words = [*models, "--suite", suite]
    words += ["--baseline", baseline] if baseline else []
    words += ["--judge", judge] if judge else []
    words += [f"--set={override}" for override in overrides]
    command = f"montessori evaluate {shlex.join(words)}"
    requests = evaluation.plan(resolved, subjects, against, addresses, command=command)
    plan = Plan(store, resolved.compute, resolved.vllm.python, requests, list(requests)[-1])
    if connect:
        named = [("MODEL", subject.address.removeprefix("hub:")) for subject in subjects]
        named += [("judge.source", resolved.judge.source or "")] if resolved.judge else []
        engines.check_models(named, plan.missing, resolved.compute)
        if plan.missing and resolved.compute.place != "pool":
            from tasks.runtime import trial  # imports torch

            trial.check_suite(resolved, plan.missing)
    check_benchmarks(resolved, requests.values(), store, connect)
    return Evaluation(resolved, plan, questions)


def check(ready: Evaluation) -> None:
    """Raise InputError when the place cannot be had, or the store cannot be written."""
    places.check(ready.plan.compute, ready.plan.store)
    ready.plan.store.check_writable()


def suite_of(tree: dict[str, Any], where: str, connect: bool = True) -> tuple[Suite, dict[str, str]]:
    """Return the suite in `tree` for the students of a run, and the addresses of its sources, all checked.

    `where` begins the message of an InputError.
    """
    suite = _resolve(tree, where)
    addresses, _ = _addresses(suite, None)
    if connect:
        engines.check_suite(suite)
    return suite, addresses


def check_benchmarks(suite: Suite, requests: Iterable[Request], store: Store, connect: bool) -> None:
    """Raise InputError when a benchmark without an artifact cannot run with its settings.

    This takes two seconds, or ten where the harness must be searched for a task.
    """
    planned = [request for request in requests if request.stage == "benchmark"]
    missing = {request.means["field"] for request in planned if not store.exists(request.address)}
    needed = {}
    for name, benchmark in suite.benchmarks.items():
        if (field := f"benchmarks.{name}") in missing:
            items, shots = (
                harness_data.read(file.source, benchmark.task, f"{field}.{role}") if file else None
                for role, file in (("file", benchmark.file), ("shots_file", benchmark.shots_file))
            )
            if find_spec("lm_eval"):  # a pool's workers may have it
                needed[field] = harness_tasks.check(benchmark, field, items, shots)
    if connect and suite.compute.place != "pool":
        harness_tasks.check_hub(needed)


def _check_purpose(suite: Suite, subjects: Sequence[Subject]) -> None:
    """Raise InputError for a setting that would have no effect."""
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


def _resolve(tree: dict[str, Any], where: str) -> Suite:
    """Return the suite in `tree` with its engine and dtype chosen. Raises InputError where it needs a judge."""
    suite = files.block(Suite, tree, where)
    unjudged = [part for part in ("alpaca_eval", "mt_bench") if getattr(suite, part) is not None]
    if unjudged and not suite.judge:
        without = " and ".join(f"{part}=null" for part in unjudged)
        raise InputError(
            f"{where}: {' and '.join(unjudged)} need a judge; add --judge openai:NAME (or vllm:MODEL), in a "
            f"study's file judge: openai:NAME; or set {without}"
        )
    if suite.head_to_head and not suite.alpaca_eval:
        raise InputError("head_to_head: compares answers to AlpacaEval's instructions; add --set 'alpaca_eval={}'")
    dtype = suite.dtype or ("bfloat16" if gpus() else "float32")
    engine = resolve_engine(suite.engine, suite.vllm.python, local=suite.compute.place != "pool")
    return suite.model_copy(update={"dtype": dtype, "engine": engine})


def judge_overrides(judge: str | None, field: str = "--judge") -> list[str]:
    """Return the settings for `--judge ENGINE:MODEL`. Raises InputError that names `field`."""
    if judge is None:
        return []
    engine, _, model = judge.partition(":")
    if engine not in ("openai", "vllm", "transformers") or not model:
        raise InputError(f"{field} {judge}: expected openai:NAME, vllm:MODEL or transformers:MODEL")
    field = "judge.openai.model" if engine == "openai" else "judge.source"
    return [f"judge.engine={engine}", f"{field}={json.dumps(model)}"]


def _baseline(given: str | None, subjects: Sequence[Subject], suite: Suite) -> tuple[str | None, str | None]:
    """Return the baseline's name in tables, and the file of its answers, if it is a file."""
    labels = [subject.label for subject in subjects]
    if given is None:
        if len(labels) == 1:
            return (REFERENCE if suite.alpaca_eval else None), None
        return default_baseline(labels), None
    if given == REFERENCE and not suite.alpaca_eval:
        raise InputError(f"--baseline {given}: its answers are AlpacaEval's; add --set 'alpaca_eval={{}}'")
    if given in labels or given == REFERENCE:
        return given, None
    name, equals, file = given.partition("=")
    if not equals or "/" in name:  # a path that contains =
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
    """Return the author of a file of answers: the `generator` of all rows, as in AlpacaEval, else the file's name."""
    authors = {row.get("generator") for _, row in rows.file_rows(file, "--baseline") if isinstance(row, dict)}
    author = authors.pop() if len(authors) == 1 else None
    return author if isinstance(author, str) and author.strip() else Path(file.name.removesuffix(".gz")).stem


def _addresses(suite: Suite, outputs: str | None) -> tuple[dict[str, str], dict[str, int]]:
    """Check the sources of a suite. Return their addresses, and the number of questions in local files."""
    addresses: dict[str, str] = {}
    counts: dict[str, int | None] = {}
    for field in ("reference", "trained_on"):
        if source := getattr(suite, field):
            addresses[field] = sources.rows(source, field)
            if rows.is_file(source):
                rows.check(source, field)
    for name, benchmark in suite.benchmarks.items():
        for role, file in (("data", benchmark.file), ("shots", benchmark.shots_file)):
            if file:
                field = f"benchmarks.{name}.{'file' if role == 'data' else 'shots_file'}"
                addresses[f"{name}:{role}"] = sources.rows(DataSource(source=file.source), field)
    if suite.alpaca_eval:
        addresses["alpaca_eval"] = sources.rows(suite.alpaca_eval.questions, "alpaca_eval.questions")
        counts["alpaca_eval"] = read_questions.check(suite.alpaca_eval.questions, "alpaca_eval")
        if outputs:
            answers = DataSource(source=outputs)
            addresses["baseline"] = sources.rows(answers, "--baseline")
            read_questions.check(answers, "alpaca_eval", role="--baseline")
        if suite.alpaca_eval.difficulties not in ("hub", "none"):
            addresses["difficulties"] = sources.rows(
                DataSource(source=suite.alpaca_eval.difficulties), "alpaca_eval.difficulties"
            )
            alpaca_library.check(suite.alpaca_eval.difficulties)
    if suite.mt_bench:
        addresses["mt_bench"] = sources.rows(suite.mt_bench.questions, "mt_bench.questions")
        if suite.mt_bench.references:
            references = DataSource(source=suite.mt_bench.references.source)
            addresses["mt_references"] = sources.rows(references, "mt_bench.references")
        answered = suite.mt_bench.references
        counts["mt_bench"] = read_questions.check(
            suite.mt_bench.questions, "mt_bench", answered.source if answered else None
        )
    if suite.people:
        addresses["people"] = sources.rows(DataSource(source=suite.people.source), "people")
        counts["people"] = len(agreement.read_pairs(suite.people.source))
    if judge := suite.judge:
        if judge.prompts:
            addresses["prompts"] = sources.rows(DataSource(source=judge.prompts), "judge.prompts")
            judging.check(judge.prompts)
        if judge.engine == "openai":
            addresses["judge"] = f"api:{judge.openai.model}@{judge.openai.base_url}"
        else:
            addresses["judge"] = sources.model(str(judge.source), "judge.source")
    return addresses, {kind: count for kind, count in counts.items() if count is not None}
