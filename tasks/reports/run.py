"""Report a run: `run.yaml` (replays the run), `summary.json`, `result.md`, `report.html` and `figures/`."""

import json
import logging
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from montessori.artifacts import Request
from montessori.data.rows import Row
from montessori.errors import InputError
from montessori.evaluation.card import Measure
from montessori.reporting.run import data as report
from montessori.reporting.run import page, tables
from montessori.reporting.run.systems import ReportedSystem
from montessori.reporting.scores import estimator_doubt
from montessori.settings import files
from montessori.settings.base import Frozen
from montessori.settings.run import Settings as RunSettings
from tasks.runtime import estimate
from tasks.runtime.job import Job

log = logging.getLogger(__name__)
EXAMPLES = 6  # points of highest and of lowest influence, for each iteration
LABELS = 10  # most common first words, for rows without a family

Label = Callable[[str], str | None]


class Settings(Frozen):
    """The run's settings, without those that change no artifact, and the compared systems."""

    run: dict[str, Any]
    systems: list[ReportedSystem]


def run(job: Job, settings: Settings) -> dict[str, Any]:
    """Gather the results of the tasks, and write the report."""
    tuned = {s.iteration: s.name for s in settings.systems if s.iteration and not s.part}
    gathered = gather(job, settings.run, settings.systems, tuned)
    return write(gathered, summarise(gathered), job.out)


def write(gathered: report.Report, summary: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Write the files of a run into `folder`; return `summary`."""
    (folder / "run.yaml").write_text(gathered.run.settings_yaml, encoding="utf-8")
    (folder / "summary.json").write_text(json.dumps(summary, indent=1) + "\n")
    (folder / "result.md").write_text(tables.to_markdown(gathered) + "\n", encoding="utf-8")
    page.write(gathered, folder)
    return summary


def gather(job: Job, run: dict[str, Any], systems: Sequence[ReportedSystem], tuned: Mapping[int, str]) -> report.Report:
    """Gather everything that the report shows from the artifacts.

    `tuned` is the name of the system that learned from each iteration's teacher.
    """
    learners = {system.system for system in systems if system.name in tuned.values()}
    reference = job.rows("reference", "rows.parquet")
    label = _labels(job, reference)
    iterations = [_iteration(job, number, name, run=run, label=label) for number, name in tuned.items()]
    points = {number: _points(job, number, label) for number in tuned if job.has(f"{number}:scores")}
    rejections, rejected = _rejections(job)
    manifests = job.manifests("stages")
    return report.Report(
        run=_run(job, run, manifests),
        systems=[_system(job, system.name, baseline=system.system not in learners) for system in systems],
        accuracy_kind=run["evaluation"]["accuracy"].replace("_", " "),
        iterations=iterations,
        reference_families={row["family"] for row in reference if row.get("family")},
        highest=[point for scored in points.values() for point in scored[:EXAMPLES]],
        lowest=[point for scored in points.values() for point in scored[: -EXAMPLES - 1 : -1]],
        rejections=rejections,
        rejected=rejected,
        stages=[_stage(manifest) for manifest in manifests],
        costs=_costs(job, run, manifests),
    )


def summarise(gathered: report.Report) -> dict[str, Any]:
    """Return `summary.json`: the numbers of each system and iteration, and each task's seconds, cost and estimate."""
    seconds: dict[str, float] = {}
    for stage in gathered.stages:
        seconds[stage.stage] = round(seconds.get(stage.stage, 0.0) + stage.seconds, 3)
    return {
        "run": gathered.run.id,
        "systems": {
            system.name: {
                "training_points": system.training_points,
                "reference_loss": vars(system.reference_loss),
                "held_out_loss": vars(system.held_out_loss) if system.held_out_loss else None,
                "accuracy": vars(system.accuracy) if system.accuracy else None,
            }
            for system in gathered.systems
        },
        "iterations": {
            str(i.number): {
                "pairs": i.pairs,
                "positive_share": i.split_share,
                "above": "zero" if i.threshold == 0 else "momentum",
                "above_before": None if math.isnan(i.positive_share) else i.positive_share,
                "above_after": i.positive_share_after,
                "momentum_influence": i.momentum_influence,
                "families_before": {label or "unrecognised": share for label, share in i.families_before.items()},
                "families_after": {label or "unrecognised": share for label, share in i.families_after.items()},
                "warning": i.warning,
            }
            for i in gathered.iterations
        },
        "seconds": seconds,
        "cost": {
            cost.stage: {"tokens": list(cost.tokens), "hours": list(cost.hours), "usd": list(cost.usd)}
            for cost in gathered.costs
        },
    }


def _run(job: Job, run: dict[str, Any], manifests: list[dict[str, Any]]) -> report.Run:
    times = sorted(manifest["made_by"]["time"] for manifest in manifests)
    return report.Run(
        name=run["name"],
        id=job.request.address.partition("/")[2],
        settings_yaml=files.dump(run),
        command=f"montessori run {job.store.locate(job.request.address)}/run.yaml --store {job.store.uri}",
        versions=manifests[-1]["versions"],
        started=times[0],
        finished=times[-1],
    )


def _system(job: Job, name: str, baseline: bool) -> report.System:
    metrics = json.loads((job.folder(f"{name}:metrics") / "metrics.json").read_text())
    measured = {
        key: Measure(**metrics[key]) if key in metrics else None
        for key in ("reference_loss", "held_out_loss", "accuracy")
    }
    pairs = job.rows(f"{name}:pairs", "pairs.parquet")
    return report.System(
        name=name,
        training_points=len(pairs),
        reference_loss=cast(Measure, measured["reference_loss"]),
        held_out_loss=measured["held_out_loss"],
        accuracy=measured["accuracy"],
        baseline=baseline,
        instruction_tokens=[row["instruction_tokens"] for row in pairs],
        response_tokens=[row["response_tokens"] for row in pairs],
    )


def _iteration(job: Job, number: int, name: str, *, run: dict[str, Any], label: Label) -> report.Iteration:
    """Gather the results of an iteration. Not every method scores points or updates the teacher."""

    def has(part: str) -> bool:
        return job.has(f"{number}:{part}")

    def influences(part: str) -> list[float]:
        return [row["influence"] for row in job.rows(f"{number}:{part}", "scores.parquet")] if has(part) else []

    summary: dict[str, Any] = {"pairs": 0, "positive_share": None, "momentum_influence": None, "warning": None}
    if has("preferences"):
        summary |= json.loads((job.folder(f"{number}:preferences") / "summary.json").read_text())
    before, after = influences("scores"), influences("scores-after")
    doubts = _doubts(job.manifests(f"{number}:scores")) if before else []
    threshold = 0.0 if run["preferences"]["split"] == "zero" else summary["momentum_influence"] or 0.0
    return report.Iteration(
        number=number,
        influences=before,
        influences_after=after,
        threshold=threshold,
        split_share=summary["positive_share"],
        positive_share=_share_above(threshold, before) if before else math.nan,
        positive_share_after=_share_above(threshold, after) if after else None,
        pairs=summary["pairs"],
        split=run["preferences"]["split"] if before else "",
        momentum_influence=summary["momentum_influence"],
        warning="; ".join(filter(None, [summary["warning"], *doubts])) or None,
        families_before=_mix(job.rows(f"{number}:instructions", "instructions.parquet"), label)
        if has("instructions")
        else {},
        families_after=_mix(job.rows(f"{name}:instructions", "instructions.parquet"), label),
        warm_up=_curve(job.folder(f"{number}:warm-up")) if has("warm-up") else [],
        dpo=_curve(job.folder(f"{number}:teacher")) if has("teacher") else [],
        sft=_curve(job.folder(f"{name}:student")),
    )


def _doubts(shards: list[dict[str, Any]]) -> list[str]:
    """Return what the check of the estimator, which one of the shards has, found wrong."""
    checks = (shard["summary"].get("check") for shard in shards)
    return [doubt for check in checks if check and (doubt := estimator_doubt(check))]


def _share_above(threshold: float, influences: list[float]) -> float:
    finite = report.finite(influences)
    return sum(influence > threshold for influence in finite) / max(1, len(finite))


def _curve(folder: Path) -> list[report.Step]:
    known = set(report.Step.__dataclass_fields__)
    rows = json.loads((folder / "log.json").read_text())
    return [report.Step(**{key: value for key, value in row.items() if key in known}) for row in rows]


def _labels(job: Job, reference: list[Row]) -> Label:
    """Return a function that names an instruction: its family in the pocket world, else its first word if common."""
    if any(row.get("family") for row in reference):
        from montessori.pocket.world import family_of

        return family_of
    texts = [row["instruction"] for name in job.request.inputs if name.endswith(":instructions") and job.has(name)
             for row in job.rows(name, "instructions.parquet")]  # fmt: skip
    common = {word for word, _ in Counter(map(_first_word, texts)).most_common(LABELS)}
    return lambda text: word if (word := _first_word(text)) in common else None


def _first_word(text: str) -> str:
    return text.split(maxsplit=1)[0].lower().strip(".,:;!?")


def _mix(instructions: list[Row], label: Label) -> dict[str | None, float]:
    counts = Counter(label(row["instruction"]) for row in instructions)
    return {name: count / len(instructions) for name, count in counts.most_common()}


def _points(job: Job, number: int, label: Label) -> list[report.ScoredPoint]:
    """Return the scored points of an iteration, the most influential first."""
    pairs = {row["id"]: row for row in job.rows(f"{number}:pairs", "pairs.parquet")}
    scores = [row for row in job.rows(f"{number}:scores", "scores.parquet") if row["status"] == "ok"]
    return [
        report.ScoredPoint(
            iteration=number,
            instruction=pairs[row["id"]]["instruction"],
            response=pairs[row["id"]]["response"],
            influence=row["influence"],
            family=label(pairs[row["id"]]["instruction"]),
        )
        for row in sorted(scores, key=lambda row: (-row["influence"], row["id"]))
    ]


def _rejections(job: Job) -> tuple[dict[str, int], list[report.Rejection]]:
    counts: Counter[str] = Counter()
    samples: dict[str, str] = {}
    for name in job.request.inputs:
        if name.endswith(":instructions") and job.has(name):
            rejected = json.loads((job.folder(name) / "rejected.json").read_text())
            counts.update(rejected["counts"])
            samples = {**{reason: texts[0] for reason, texts in rejected["samples"].items()}, **samples}
    return dict(counts.most_common()), [report.Rejection(*sample) for sample in samples.items()]


def _costs(job: Job, run: dict[str, Any], manifests: list[dict[str, Any]]) -> list[report.Cost]:
    """Return the estimate before the run's first artifact, beside the real cost."""
    requests = {m["address"]: Request.model_validate(m["request"]) for m in manifests}
    before = min(manifest["made_by"]["time"] for manifest in manifests)
    try:
        estimated, _ = estimate.estimate(RunSettings.model_validate(run), requests, job.store, before)
    except InputError as error:  # a source may have moved since
        log.warning("no estimate to compare with: %s", error)
        return []
    costs = []
    for line in estimated:
        taken = estimate.total(estimate.line_of(m) for m in manifests if m["request"]["stage"] == line.task)
        tokens = (line.tokens_in + line.tokens_out, taken.tokens_in + taken.tokens_out)
        costs.append(report.Cost(line.task, tokens, (line.hours, taken.hours or 0.0), (line.usd, taken.usd)))
    return costs


def _stage(manifest: dict[str, Any]) -> report.Stage:
    request = manifest["request"]
    index, count = request["shard"]
    return report.Stage(
        stage=request["stage"],
        address=manifest["address"],
        seconds=manifest["seconds"],
        label=Request.model_validate(request).who,
        shard=f"{index + 1} of {count}" if count > 1 else "",
        seed=request["seed"],
        bytes=sum(file["bytes"] for file in manifest["files"].values()),
        parents=manifest["parents"],
    )
