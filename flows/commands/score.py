"""Score the influence of a user's own points on a student, without Prefect: `montessori score`.

The command writes a file with a score for each point, a summary and a figure. The artifacts are in the store.
"""

import json
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from flows.commands.interrupt import exit_on_interrupt
from montessori.artifacts import open_store
from montessori.data import rows as data
from montessori.data import sources
from montessori.errors import InputError
from montessori.extras import require
from montessori.models import state_folder
from montessori.reporting import scores as reporting
from montessori.reporting.scores import Scores
from montessori.settings.execution import Compute
from montessori.settings.score import Scoring

KINDS = (".jsonl", ".parquet")
SUMMARY = ".summary.json"


@dataclass(frozen=True)
class Checked:
    """The checked sources of the options."""

    addresses: dict[str, str]  # points, reference, student[, optimizer]
    points: list[data.Row]
    overlap: int  # number of points with an instruction of the reference set


def score(options: Scoring, console: Console) -> None:
    """Check the options, score the points, and write and show the scores.

    Raises InputError, wherever possible before anything heavy starts.
    """
    started = time.monotonic()
    require("score", purpose="montessori score")
    store, out = open_store(options.store), Path(options.out).expanduser()
    checked = check(options)
    warm_up = options.warm_up_points(len(checked.points))
    if warm_up and not options.warm_up:
        console.print(
            f"No optimiser state: AdamW warms the student up on {warm_up:,} of the {len(checked.points):,} points "
            "first (--warm-up N, --optimizer-state DIR or --optimizer sgd for another step).",
            highlight=False,
            soft_wrap=True,
        )
    store.check_writable()

    from flows.commands import terminal
    from flows.requests import score as scoring
    from tasks.runtime.executor import observed_by
    from tasks.runtime.local import local_executor
    from tasks.runtime.places import gpus

    plan = scoring.plan(options, checked.addresses, len(checked.points), gpu=bool(gpus()))
    if any(not store.exists(address) for address in plan.requests):
        from tasks.runtime.trial import try_model  # imports torch

        try_model(options.student, "--student", options, checked.points[:1], max_length=options.max_length)
    compute = Compute(threads=options.threads, at_once=options.at_once)
    screen = terminal.ScoreScreen(console, plan.scores, len(checked.points))
    with (
        screen,
        observed_by(screen),
        exit_on_interrupt(screen.stop),
        local_executor(store, compute, one_input=True) as executor,
    ):
        for request in plan.requests.values():
            executor.submit(request)
        executor.finish()

    scores = reporting.gather(store, plan.points, plan.scores, plan.split)
    summary = {
        **summarise(options, checked, scores),
        "dtype": plan.dtype,
        "shards": plan.shards,
        "versions": store.manifest(plan.scores[0])["versions"],
        "artifacts": list(plan.requests),
        "command_seconds": round(time.monotonic() - started, 1),
    }
    reporting.write(scores, out)
    written = [out, _beside(out, SUMMARY), *reporting.draw(scores, out.with_suffix(""))]
    written[1].write_text(json.dumps(summary, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    instructions = {row["id"]: row["instruction"] for row in checked.points}
    terminal.show_scores(console, scores, summary, instructions=instructions, files=written)


def check(options: Scoring) -> Checked:
    """Check everything that the options name, before a process starts. Raises InputError that names the option."""
    _check_out(options)
    points, reference = options.points(), options.against()
    addresses = {"points": sources.rows(points, "--data"), "reference": sources.rows(reference, "--reference")}
    addresses["student"] = sources.model(options.student, "--student")
    if options.optimizer_state:
        own = state_folder.is_own(Path(options.optimizer_state).expanduser())
        address = sources.optimizer_state(options.optimizer_state, "--optimizer-state")
        addresses["optimizer" if own else "checkpoint"] = address
        with _named("--optimizer-state"):
            _check_state(options, own)
    rows, against = data.check(points, "--data", "may be blank"), data.check(reference, "--reference")
    for name, number in (("--warm-up", options.warm_up), ("--shards", options.shards)):
        if number and number > len(rows):
            raise InputError(f"{name} = {number}: exceeds the points, of which there are {len(rows)}")
    instructions = {row["instruction"] for row in against}
    return Checked(addresses, rows, sum(row["instruction"] in instructions for row in rows))


def _check_state(options: Scoring, own: bool) -> None:
    """Raise InputError unless AdamW's step can be taken with the optimiser state. Only headers and scalars are read."""
    path = Path(options.optimizer_state or "").expanduser()
    if own:
        scalars = state_folder.check_own(path, Path(options.student).expanduser())
        step, rate = int(scalars["step"]), float(scalars["learning_rate"])
    else:
        from montessori.influence.checkpoint import read_state_dict  # it brings torch, for a file of torch

        saved = read_state_dict(state_folder.state_files(path)[0], vouched=options.optimizer == "adamw")
        step = max(int(state["step"]) for state in saved["state"].values())
        rate = max(float(group["lr"]) for group in saved["param_groups"])
    state_folder.check_scalars(path, step, rate, replaced=options.learning_rate is not None)


def summarise(options: Scoring, checked: Checked, scores: Scores) -> dict[str, Any]:
    """Return `….summary.json` without the entries on the machine."""
    return {
        "student": options.student,
        "step": {"words": reporting.step_in_words(scores.step, _origin(options, checked)), **scores.step},
        "estimator": options.estimator,
        "points": {
            "source": options.data,
            "n": len(scores.rows),
            "truncated": scores.truncated,
            "in_warm_up": sum(row.get("in_warm_up", False) for row in scores.rows),
        },
        "reference": {"source": options.reference, **scores.reference, "overlap": checked.overlap},
        "statuses": scores.statuses,
        "influence": reporting.distribution(scores),
        "lengths": reporting.lengths(scores),
        "check": scores.check,
        "speed": reporting.speed(scores),
        "warnings": reporting.warnings(scores, options.estimator, checked.overlap),
        "options": options.model_dump(mode="json"),
    }


def _origin(options: Scoring, checked: Checked) -> str:
    """Return the origin of the optimiser state, in words that follow "from the optimiser state", or ""."""
    if warm_up := options.warm_up_points(len(checked.points)):
        return f"of a warm-up on {warm_up} of the points,"
    return f"in {options.optimizer_state}" if options.optimizer_state else ""


def _check_out(options: Scoring) -> None:
    out = Path(options.out).expanduser()
    if out.suffix not in KINDS:
        raise InputError(f"--out = {options.out}: must end in {' or '.join(KINDS)}")
    if out.is_dir():
        raise InputError(f"--out = {options.out}: a folder; name a file")
    if not out.parent.is_dir():
        raise InputError(f"--out = {options.out}: the folder {out.parent} does not exist; make it first")
    try:
        with tempfile.TemporaryFile(dir=out.parent):
            pass
    except OSError as error:
        reason = os.strerror(error.errno or 0)
        raise InputError(
            f"--out = {options.out}: nothing can be written in the folder {out.parent} ({reason})"
        ) from None
    inputs = {"--data": options.data, "--reference": options.reference}
    for path in (out, *(_beside(out, end) for end in (SUMMARY, ".svg", ".png"))):
        for name, source in inputs.items():
            if path.resolve() == Path(source).expanduser().resolve():
                raise InputError(f"--out = {options.out}: {path} is the file of {name}, which would be overwritten")


def _beside(out: Path, end: str) -> Path:
    return out.with_name(f"{out.stem}{end}")


@contextmanager
def _named(option: str) -> Iterator[None]:
    """Put the option before an InputError's message."""
    try:
        yield
    except InputError as error:
        raise InputError(f"{option}: {error}") from None
