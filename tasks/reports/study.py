"""Report a study: tables and figures over all cells, `summary.json`, and `study.yaml` (replays the study).

The inputs are artifacts of the cells, by the number of the row in `results`: `3:metrics`, `3:student`, `3:pairs`.
"""

import json
import math
from collections.abc import Iterable, Mapping
from typing import Any

from montessori.data.rows import Row, read_rows
from montessori.evaluation import published
from montessori.evaluation.card import Column, Duel
from montessori.reporting.run.data import ScoredPoint
from montessori.reporting.study import page
from montessori.reporting.study.data import (
    Cost,
    Missing,
    Published,
    Result,
    Scored,
    StudentStep,
    Study,
    TeacherStep,
    Texts,
)
from montessori.reporting.study.figures import draw
from montessori.settings import files
from montessori.settings.base import Frozen
from montessori.settings.study import SELF_INSTRUCT, SYSTEMS, TRANSFER
from tasks.runtime import estimate
from tasks.runtime.job import Job

EXAMPLES = 5  # points of highest and of lowest influence
# The tasks in each part of a system's cost. The others are small, or not the system's own.
WRITING, TUNING, TRAINING = {"instructions", "responses"}, {"teacher", "bootstrap"}, {"student"}
SCORING = {"warm-up", "tokens", "reference-gradient", "influence", "ratings", "rule", "mistakes"}
LOSSES = (
    Column("Held-out loss", "held_out_loss", "nats/token", lower_is_better=True),
    Column("Reference loss", "reference_loss", "nats/token", lower_is_better=True),
    Column("Accuracy", "accuracy", "%", scale=100),
)
# The blocks of settings that are listed as hyperparameters.
BLOCKS = ("instructions", "responses", "probing", "warm_up", "influence", "preferences", "dpo", "sft")
USED = (  # further blocks, each with the setting and value that uses it
    ("bootstrap", "update", "bootstrap"),
    ("llm2llm", "method", "llm2llm"),
    ("rating", "method", "self-reward"),
    ("rating", "preferences.signal", "rating"),
)
LEFT_OUT = ("instructions.forbidden_words", "rating.vllm.", "rating.openai.")  # long, or without effect on a result
NAMED = "rating.openai.model"  # the exception


class Settings(Frozen):
    """The study, and the rows that its inputs belong to."""

    study: dict[str, Any]
    run: dict[str, Any]  # settings of the first cell
    results: list[dict[str, Any]]  # row, group, student, seed
    missing: list[dict[str, Any]]  # the same with the error
    teacher_steps: list[dict[str, Any]]  # seed, share
    student_steps: list[dict[str, Any]]  # row, seed, share
    scored: list[dict[str, Any]]  # seed, and the estimator of the first tuned teacher


def run(job: Job, settings: Settings) -> dict[str, Any]:
    """Gather the results, draw the figures, and write the report."""
    gathered = gather(job, settings)
    (job.out / "study.yaml").write_text(gathered.settings_yaml, encoding="utf-8")
    summary = {
        "rows": [
            {"row": r.row, "group": r.group, "student": r.student, "seed": r.seed, **r.values, **vars(r.cost)}
            for r in [*gathered.results, *gathered.transfer]
        ],
        "missing": [vars(one) for one in gathered.missing],
    }
    (job.out / "summary.json").write_text(json.dumps(summary, indent=1) + "\n")
    page.write(gathered, draw(gathered), job.out)
    return {"results": len(gathered.results), "missing": len(gathered.missing), "seconds": gathered.seconds}


def gather(job: Job, settings: Settings) -> Study:
    """Gather everything that the page shows from the artifacts."""
    tree = settings.study
    results = [_result(job, number, row) for number, row in enumerate(settings.results)]
    inputs = job.request.inputs.items()
    everything = _ancestors(job, [a for name, addresses in inputs if not name.startswith("card-") for a in addresses])
    highest, lowest = _examples(job, settings)
    known = {metric for result in results for metric in result.values}
    systems = [(number, row) for number, row in enumerate(settings.results) if row["group"] == SYSTEMS]
    return Study(
        name=tree["name"],
        id=job.request.address.partition("/")[2],
        command=f"montessori study {job.store.locate(job.request.address)}/study.yaml --store {job.store.uri}",
        settings_yaml=files.dump(tree),
        metrics=[metric for metric in [*LOSSES, *_benchmarks(job)] if metric.key in known],
        baseline=SELF_INSTRUCT,
        results=[result for result in results if result.group != TRANSFER],
        transfer=[result for result in results if result.group == TRANSFER],
        seeds=list(tree["seeds"]),
        students=list(tree["students"]),
        published=[row for student, size in tree["published"].items() for row in _published(student, size)],
        teacher_steps=_teacher_steps(job, settings),
        student_steps=[
            StudentStep(**step, positive=_positive(job, f"student-{number}:scores"))
            for number, step in enumerate(settings.student_steps)
        ],
        duels=_duels(job, systems, next(iter(tree["students"]))),
        scored=[_scored(job, **one) for one in settings.scored],
        highest=highest,
        lowest=lowest,
        texts=_texts(job, systems),
        hyperparameters=hyperparameters(tree, settings.run),
        changes=changes(tree),
        missing=[Missing(**one) for one in settings.missing],
        seconds=sum(manifest["seconds"] for manifest in everything),
        versions=max(everything, key=lambda m: str(m["made_by"]["time"]), default={"versions": {}})["versions"],
    )


def hyperparameters(study: Mapping[str, Any], run: Mapping[str, Any]) -> dict[str, str]:
    """Return the settings that all cells begin with, as text. `run` has the settings of the first cell."""
    trees = [_flat(run), *changes(study).values()]
    more = dict.fromkeys(block for block, name, value in USED if any(str(tree.get(name)) == value for tree in trees))
    flat = _flat({name: run[name] for name in ("training_size", *BLOCKS, *more)})
    return {name: text for name, text in flat.items() if name == NAMED or not name.startswith(LEFT_OUT)}


def changes(study: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    """Return the changes of the study's file, by student, system or row of an ablation."""
    named = {f"student {name}".strip(): change for name, change in study["students"].items()}
    named |= {f"system {name}": change for name, change in study["systems"].items()}
    for group, members in study["ablations"].items():
        named |= {f"{group}: {name}": change for name, change in members.items()}
    return {title: flat for title, change in named.items() if (flat := _flat(change))}


def _flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    flat: dict[str, str] = {}
    for name, value in tree.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": str(value)}
    return flat


def _result(job: Job, number: int, row: dict[str, Any]) -> Result:
    values = {
        key: measure["mean"] for key, measure in _metrics(job, f"{number}:metrics").items() if _finite(measure["mean"])
    }
    name = f"card-{row['seed']}:{row['student']}"
    if row["group"] == SYSTEMS and job.has(name):
        scores = json.loads((job.folder(name) / "metrics.json").read_text())["models"].get(row["row"], {})
        values |= {key: score["mean"] for key, score in scores.items() if key not in values and _finite(score["mean"])}
    return Result(
        **row,
        values=values,
        cost=_cost(job, job.request.inputs[f"{number}:student"]),
        training_points=len(job.rows(f"{number}:pairs", "pairs.parquet")),
    )


def _cost(job: Job, student: list[str]) -> Cost:
    """Add up the cost of all ancestors of a student, without the base models."""
    ancestors = _ancestors(job, student)

    def seconds(tasks: set[str]) -> float:
        """Add up the seconds of these tasks, for each process of a training."""
        return math.fsum(
            m["seconds"] * m["request"].get("means", {}).get("training_processes", 1)
            for m in ancestors
            if m["request"]["stage"] in tasks
        )

    spent = estimate.total(estimate.line_of(m) for m in ancestors if m["request"]["stage"] in WRITING | SCORING)
    by_teacher = estimate.total(estimate.line_of(m) for m in _by_teachers(ancestors))
    return Cost(
        teacher_tokens=by_teacher.tokens_in + by_teacher.tokens_out,
        writing_s=seconds(WRITING),
        scoring_s=seconds(SCORING),
        tuning_s=seconds(TUNING),
        training_s=seconds(TRAINING),
        usd=spent.usd,
    )


def _by_teachers(manifests: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the manifests of texts by teachers, and of ratings by a teacher that is its own judge."""
    written = [m for m in manifests if m["request"]["stage"] in WRITING]
    teachers = {address for m in written for address in m["request"]["inputs"]["teacher"]}
    rated = [m for m in manifests if m["request"]["stage"] == "ratings"]
    return [*written, *(m for m in rated if teachers.issuperset(m["request"]["inputs"]["judge"]))]


def _ancestors(job: Job, addresses: Iterable[str]) -> list[dict[str, Any]]:
    """Return the manifests of artifacts and of all their ancestors, each once."""
    manifests: dict[str, dict[str, Any]] = {}
    waiting = list(addresses)
    while waiting:
        address = waiting.pop()
        if address not in manifests and job.store.exists(address):
            manifests[address] = job.store.manifest(address)
            waiting += manifests[address]["parents"]
    return list(manifests.values())


def _benchmarks(job: Job) -> list[Column]:
    """Return the columns of the scorecards."""
    for name in job.request.inputs:
        if name.startswith("card-"):
            columns = json.loads((job.folder(name) / "metrics.json").read_text())["columns"]
            return [Column(c["name"], c["key"], c["unit"], c["lower_is_better"]) for c in columns]
    return []


def _published(student: str, size: str) -> list[Published]:
    return [
        Published(name, dict(zip(published.COLUMNS, row, strict=True)), student, size)
        for name, row in published.ROWS[size].items()
    ]


def _teacher_steps(job: Job, settings: Settings) -> list[TeacherStep]:
    """Return the untuned teachers with scored points, then the teachers at each stop."""
    steps = []
    first = next(iter(settings.study["students"]))
    estimators = {one["seed"]: one["estimator"] for one in settings.scored}
    for number, row in enumerate(settings.results):
        is_first = (row["row"], row["group"], row["student"]) == (SELF_INSTRUCT, SYSTEMS, first)
        if is_first and settings.teacher_steps and row["seed"] in estimators:
            values = {key: m["mean"] for key, m in _metrics(job, f"{number}:metrics").items()}
            influences = _influences(job, f"scores-{row['seed']}:{estimators[row['seed']]}")
            steps.append(TeacherStep(row["seed"], 0, 0.0, values, influences))
    for number, step in enumerate(settings.teacher_steps):
        values = {key: m["mean"] for key, m in _metrics(job, f"teacher-{number}:metrics").items()}
        (manifest,) = job.manifests(f"teacher-{number}:teacher")
        influences = _influences(job, f"teacher-{number}:scores") if job.has(f"teacher-{number}:scores") else []
        steps.append(TeacherStep(step["seed"], manifest["summary"]["steps"], step["share"], values, influences))
    return steps


def _influences(job: Job, name: str) -> list[float]:
    return [row["influence"] for row in job.rows(name, "scores.parquet") if _finite(row["influence"])]


def _positive(job: Job, name: str) -> float:
    influences = _influences(job, name)
    return sum(influence > 0 for influence in influences) / len(influences) if influences else math.nan


def _duels(job: Job, systems: list[tuple[int, dict[str, Any]]], first: str) -> list[Duel]:
    """Count wins, ties and losses on held-out answers of the student `first`, by item and seed; later rows first."""
    items: dict[tuple[str, str, int], dict[str, float]] = {}
    for number, system in systems:
        rows = job.rows(f"{number}:metrics", "accuracy.parquet")
        items[system["student"], system["row"], system["seed"]] = {row["id"]: row["accuracy"] for row in rows}
    rows_in_order = list(dict.fromkeys(system["row"] for _, system in systems if system["student"] == first))
    duels = []
    for j, left in enumerate(rows_in_order):
        for right in rows_in_order[:j]:
            pairs = [
                (mine[id], theirs[id])
                for (student, row, seed), mine in items.items()
                if row == left and student == first and (theirs := items.get((student, right, seed)))
                for id in mine
                if id in theirs
            ]
            wins, losses = sum(a > b for a, b in pairs), sum(a < b for a, b in pairs)
            duels.append(Duel(left, right, wins, len(pairs) - wins - losses, losses))
    return duels


def _scored(job: Job, seed: int, estimator: str) -> Scored:
    """Return the points that all estimators scored, with the training loss by `estimator`."""
    prefix = f"scores-{seed}:"
    names = [name for name in job.request.inputs if name.startswith(prefix)]
    scores = {name.removeprefix(prefix): {r["id"]: r for r in job.rows(name, "scores.parquet")} for name in names}
    ids = sorted(set.intersection(*(set(points) for points in scores.values())))
    losses = scores[estimator]
    return Scored(
        seed,
        [losses[id]["training_loss"] for id in ids],
        {name: [points[id]["influence"] for id in ids] for name, points in scores.items()},
    )


def _examples(job: Job, settings: Settings) -> tuple[list[ScoredPoint], list[ScoredPoint]]:
    """Return the points of highest and lowest influence of the first seed that has scores."""
    if not settings.scored:
        return [], []
    seed, estimator = settings.scored[0]["seed"], settings.scored[0]["estimator"]
    pairs = {row["id"]: row for row in job.rows(f"points-{seed}", "pairs.parquet")}
    rows = [row for row in job.rows(f"scores-{seed}:{estimator}", "scores.parquet") if row["status"] == "ok"]
    rows.sort(key=lambda row: (-row["influence"], row["id"]))

    def shown(row: Row) -> ScoredPoint:
        return ScoredPoint(pairs[row["id"]]["instruction"], pairs[row["id"]]["response"], row["influence"])

    return [shown(row) for row in rows[:EXAMPLES]], [shown(row) for row in rows[: -EXAMPLES - 1 : -1]]


def _texts(job: Job, systems: list[tuple[int, dict[str, Any]]]) -> list[Texts]:
    by_row: dict[str, Texts] = {}
    for number, system in systems:
        text = by_row.setdefault(system["row"], Texts(system["row"], [], [], []))
        for folder in job.folders(f"{number}:pairs"):
            for row in read_rows(folder / "pairs.parquet"):
                text.instructions.append(row["instruction"])
                text.instruction_tokens.append(row["instruction_tokens"])
                text.response_tokens.append(row["response_tokens"])
    return [text for text in by_row.values() if text.instructions]


def _metrics(job: Job, name: str) -> dict[str, Any]:
    metrics: dict[str, Any] = json.loads((job.folder(name) / "metrics.json").read_text())
    return metrics


def _finite(value: float | None) -> bool:
    return value is not None and math.isfinite(value)
