"""Compare the challenger of a night with the champion, and write the files of a run."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from montessori.data.rows import Row
from montessori.errors import InputError, StageError
from montessori.evaluation.paired import Losses, PairedTest, compare
from montessori.refresh.nights import CHALLENGER, CHAMPION
from montessori.reporting.run.systems import ReportedSystem
from montessori.settings.base import Frozen
from montessori.settings.run import Refresh
from tasks.reports.run import gather, summarise, write
from tasks.runtime.job import Job


class Settings(Frozen):
    """The run's settings with `refresh`, the date of the night, and the compared systems."""

    run: dict[str, Any]
    night: str
    systems: list[ReportedSystem]


def run(job: Job, settings: Settings) -> dict[str, Any]:
    """Compare the students of both teachers on the reference set, and report it as a run."""
    level = Refresh.model_validate(settings.run["refresh"]).level
    test = _compare(job, settings.systems, "reference")
    held_out = _compare(job, settings.systems, "test") if job.has("test") else None
    better = test.p_value < level
    gathered = gather(job, settings.run, settings.systems, {1: CHALLENGER})
    shown = replace(
        gathered.run,
        name=f"{gathered.run.name}, night {settings.night}",
        command=gathered.run.command.replace("montessori run", "montessori refresh") + f" --night {settings.night}",
    )
    gathered = replace(gathered, run=shown, verdict=_verdict(test, held_out, better, level))
    (champion,), (challenger,) = job.request.inputs["champion"], job.request.inputs["1:teacher"]
    summary = {
        "night": settings.night,
        "champion": champion,
        "challenger": challenger,
        "better": better,
        "level": level,
        "test": test.model_dump(),
        "held_out": held_out.model_dump() if held_out else None,
        **summarise(gathered),
    }
    return write(gathered, summary, job.out)


def _compare(job: Job, systems: Sequence[ReportedSystem], points: str) -> PairedTest:
    """Test the students' losses on `points`, "reference" or "test"; the same examples in the same order."""
    losses: dict[str, list[Losses]] = {CHAMPION: [], CHALLENGER: []}
    for system in systems:
        rows = [row for row in job.rows(f"{system.name}:metrics", "losses.parquet") if row["set"] == points]
        _check(system.name, rows)
        losses[system.system].append([row["loss"] for row in rows])
    return compare(losses[CHAMPION], losses[CHALLENGER])


def _check(student: str, rows: list[Row]) -> None:
    if len(rows) < 2:
        raise InputError(f"reference: {len(rows)} examples that fit the student; a comparison needs two at least")
    bad = next((row for row in rows if not math.isfinite(row["loss"])), None)
    if bad:
        raise StageError(f"{student}: its student's loss on example {bad['id']} is {bad['loss']}: nothing to compare")


def _verdict(test: PairedTest, held_out: PairedTest | None, better: bool, level: float) -> list[str]:
    """Return the result in sentences."""
    pairs = "one pair of students" if test.seeds == 1 else f"{test.seeds} pairs of students"
    seeds = "without" if test.seeds == 1 else "with"
    sentences = [
        f"The challenger {'is better' if better else 'is not better by more than the noise'}: its student's reference "
        f"loss is {_lower(test)} than the champion's (p = {test.p_value:.2g}, level {level:g}).",
        f"A one-sided paired test on {test.n:,} reference examples and {pairs}; "
        f"the error is {seeds} the variation between training seeds.",
    ]
    if held_out:
        sentences.append(f"On the {held_out.n:,} held-out points, which do not decide, it is {_lower(held_out)}.")
    return sentences


def _lower(test: PairedTest) -> str:
    word = "lower" if test.difference >= 0 else "higher"
    return f"{abs(test.difference):.3g} ± {test.standard_error:.2g} nats/token {word}"
