"""An evaluation as its own artifact: `metrics.json`, `result.md`, `report.html`, tables as CSV and LaTeX, `suite.yaml`.

In: what the other stages measured, an input a model and benchmark: `0:mmlu` are the shards of the first model.
"""

import json
import math
from collections.abc import Iterator
from typing import Any

from montessori import config_file
from montessori.config import Frozen
from montessori.data import Row, read_rows
from montessori.evaluation import agreement, alpaca, duels, harness, mt_bench
from montessori.evaluation.card import Card, Column, Duel, Example, JudgeAbility, Measure, Overlap, Score
from montessori.evaluation.metrics import linearised, measure
from montessori.evaluation.suite import Suite
from montessori.reporting.scorecard import page
from montessori.stages import Job, location
from montessori.stages.asking import PLAIN_TEMPLATE

# As the paper's Table 1 calls them.
NAMES = {
    "alpaca_eval": "AlpacaEval",
    "mt_bench": "MT-Bench",
    "mmlu": "MMLU",
    "gpqa": "GPQA",
    "arc_challenge": "ARC-C",
    "gsm8k": "GSM8K",
    "hellaswag": "HellaSwag",
}
LOSSES = (
    Column("Reference loss", "reference_loss", "nats/token", lower_is_better=True),
    Column("Bits per byte", "reference_bits_per_byte", "bits/byte", lower_is_better=True),
)
HALF = 0.5
EXAMPLES = 3  # of the clearest wins, and as many of the clearest losses


class Settings(Frozen):
    """What was asked for: the suite, but for what changes no number, and the models' names in tables."""

    suite: dict[str, Any]
    models: tuple[str, ...]
    baseline: str | None


def run(job: Job, settings: Settings) -> dict[str, Any]:
    """Gather the results, and write them for people and for programs."""
    card = gather(job, settings)
    (job.out / "suite.yaml").write_text(card.settings_yaml, encoding="utf-8")
    page.write(card, job.out)
    return {
        "models": len(card.models),
        "columns": [column.key for column in card.columns],
        "warnings": list(card.warnings),
        "usage": dict(card.usage),
    }


def gather(job: Job, settings: Settings) -> Card:
    """Everything that the page shows, from the artifacts."""
    suite = Suite.model_validate(settings.suite)
    found = _Gathered(job, settings, suite)
    found.judged()
    found.benchmarks()
    found.losses()
    manifests = job.manifests("stages")
    found.warnings += _told(manifests)
    return Card(
        name=suite.name,
        id=job.request.address.partition("/")[2],
        models=settings.models,
        columns=found.columns,
        scores=found.scores,
        baseline=settings.baseline if settings.baseline in settings.models else None,
        duels=list(_duels(job, settings)),
        examples=found.examples,
        overlaps=list(_overlaps(job)),
        ability=_ability(job, suite),
        judge=_judge(suite),
        published=suite.published,
        warnings=found.warnings,
        seed=suite.seed,
        settings_yaml=config_file.dump(settings.suite),
        command=str(job.request.means.get("command", "")),
        versions=(manifests[-1]["versions"] if manifests else {}) | found.versions,
        usage=_usage(manifests),
    )


class _Gathered:
    """Columns and scores so far, and what must be said of them."""

    def __init__(self, job: Job, settings: Settings, suite: Suite):
        self._job, self._settings, self._suite = job, settings, suite
        self.columns: list[Column] = []
        self.scores: dict[tuple[str, str], Score] = {}
        self.examples: list[Example] = []
        self.warnings: list[str] = []
        self.versions: dict[str, str] = {}

    def judged(self) -> None:
        """AlpacaEval and MT-Bench."""
        for model, rows in self._rows("alpaca_eval", "verdicts.parquet"):
            self._alpaca_eval(model, rows)
        for model, rows in self._rows("mt_bench", "grades.parquet"):
            self._column(Column("MT-Bench", "mt_bench", "1–10", protocol="two turns, single-answer grading"))
            unreadable = sum(row["grade"] is None for row in rows)
            if unreadable < len(rows):
                self.scores[model, "mt_bench"] = mt_bench.score(rows)
            self._warn_of_unreadable(f"MT-Bench, {model}", unreadable, len(rows))

    def benchmarks(self) -> None:
        """Those of the harness."""
        for name, asked in self._suite.benchmarks.items():
            protocol = f"{asked.shots}-shot, {asked.metric}"
            protocol += f", the first {asked.limit} of each task" if asked.limit else ""
            noted = []
            if any(True for _ in self._rows(name, "items.parquet")):
                self._column(Column(NAMES.get(name, name), name, "%", scale=100, protocol=protocol))
            for model, rows in self._rows(name, "items.parquet"):
                notes = self._notes(model, name, len(rows))
                noted += [f"{model}, {note}" for note in notes]
                if not rows:
                    continue
                mean, error, n, groups = harness.score(rows, asked.metric)
                values = {row["id"]: float(json.loads(row["values"])[asked.metric]) for row in rows}
                self.scores[model, name] = Score(Measure(mean, error, n), values, groups, notes=notes)
            if noted:
                self.warnings.append(f"{NAMES.get(name, name)}: {'; '.join(noted)}")

    def losses(self) -> None:
        """On the reference set, in nats a token and in bits a byte."""
        for number, model in enumerate(self._settings.models):
            if not self._job.has(f"{number}:losses"):
                continue
            folder = self._job.folder(f"{number}:losses")
            metrics = json.loads((folder / "metrics.json").read_text())
            rows = [row for row in read_rows(folder / "losses.parquet") if row["set"] == "reference"]
            for column in LOSSES:
                if column.key in metrics:
                    self._column(column)
                    items = dict(zip([row["id"] for row in rows], _losses(rows, column.key), strict=True))
                    self.scores[model, column.key] = Score(Measure(**metrics[column.key]), items)

    def _alpaca_eval(self, model: str, rows: list[Row]) -> None:
        asked, baseline = self._suite.alpaca_eval, self._settings.baseline or ""
        assert asked, "it was measured"
        judge = _judge(self._suite) or ""
        unreadable = sum(row["preference"] is None for row in rows)
        self._warn_of_unreadable(f"AlpacaEval, {model}", unreadable, len(rows))
        if unreadable == len(rows):
            return
        rates = alpaca.win_rates(rows, model, baseline, judge, self._difficulties())
        drawn = f"which answer is A drawn by seed {self._suite.seed}"
        columns = [
            Column(
                "AlpacaEval LC",
                "alpaca_eval_lc",
                "%",
                scale=100,
                protocol=f"{drawn}; {rates.control}",
                baseline=baseline,
            ),
            Column("AlpacaEval WR", "alpaca_eval", "%", scale=100, protocol=drawn, baseline=baseline),
        ]
        plain = Measure(rates.win_rate / 100, rates.standard_error / 100, rates.n)
        self._column(columns[0])
        if rates.length_controlled is not None:
            controlled = Measure(rates.length_controlled / 100, (rates.lc_sampling_error or 0.0) / 100, rates.n)
            self.scores[model, "alpaca_eval_lc"] = Score(controlled, rates.linearised, notes=rates.notes)
        self._column(columns[1])
        self.scores[model, "alpaca_eval"] = Score(plain, rates.items, unreadable=rates.unreadable, notes=rates.notes)
        self.warnings += [f"AlpacaEval, {model}: {note}" for note in rates.notes]
        others = [row for row in rows if row["index"] >= asked.selected_on and row["preference"] is not None]
        if 0 < len(others) < rates.n:
            name = f"AlpacaEval WR, from no. {asked.selected_on + 1} on"
            self._column(Column(name, "alpaca_eval_others", "%", scale=100, protocol=drawn, baseline=baseline))
            items = {row["id"]: row["preference"] for row in others}
            apart = measure(list(items.values()))
            self.scores[model, "alpaca_eval_others"] = Score(
                Measure(apart["mean"], apart["standard_error"], len(items)), items
            )
            self._warn(
                f"the paper's reference set is the first {asked.selected_on} instructions of AlpacaEval: a student or "
                "teacher that was selected on them is measured on the others alone in the column from no. "
                f"{asked.selected_on + 1} on"
            )
        self.examples += _examples(model, baseline, rows)

    def _rows(self, name: str, file: str) -> Iterator[tuple[str, list[Row]]]:
        for number, model in enumerate(self._settings.models):
            if self._job.has(f"{number}:{name}"):
                yield model, self._job.rows(f"{number}:{name}", file)

    def _difficulties(self) -> str:
        asked = self._suite.alpaca_eval
        if self._job.has("difficulties"):
            return location(self._job.request.inputs["difficulties"][0])
        return asked.difficulties if asked else "none"

    def _notes(self, model: str, name: str, n: int) -> list[str]:
        """What the model's context was too short for."""
        folders = self._job.folders(f"{self._settings.models.index(model)}:{name}")
        about = [json.loads((folder / "harness.json").read_text(encoding="utf-8")) for folder in folders]
        self.versions["lm-eval"] = about[0]["lm_eval"]
        cut, long = (sum(one[count] for one in about) for count in ("prompts_cut", "too_long"))
        notes = [f"{cut} of {n} prompts were cut to the model's context"] if cut else []
        return notes + ([f"{long} of {n + long} items are longer than its context and left out"] if long else [])

    def _column(self, column: Column) -> None:
        if all(one.key != column.key for one in self.columns):
            self.columns.append(column)

    def _warn_of_unreadable(self, what: str, unreadable: int, asked: int) -> None:
        if unreadable:
            self._warn(f"{what}: {unreadable} of {asked} verdicts could not be read, and are left out")

    def _warn(self, sentence: str) -> None:
        if sentence not in self.warnings:
            self.warnings.append(sentence)


def _losses(rows: list[Row], key: str) -> list[float]:
    """Each example's value, with the metric as their mean."""
    if key == "reference_loss":
        return [row["loss"] for row in rows]
    return linearised([row["loss"] * row["tokens"] / math.log(2) for row in rows], [row["bytes"] for row in rows])


def _examples(model: str, baseline: str, rows: list[Row]) -> list[Example]:
    readable = sorted(
        (row for row in rows if row["preference"] is not None), key=lambda row: (row["preference"], row["id"])
    )
    clear = readable if len(readable) <= 2 * EXAMPLES else [*readable[:EXAMPLES], *readable[-EXAMPLES:]]
    return [
        Example("alpaca_eval", r["question"], model, r["right"], baseline, r["left"], r["preference"], r["said"])
        for r in reversed(clear)
    ]


def _duels(job: Job, settings: Settings) -> Iterator[Duel]:
    for name in job.request.inputs:
        if name.endswith(":duel"):
            left, right, _ = name.split(":")
            rows = job.rows(name, "verdicts.parquet")
            yield duels.duel(settings.models[int(left)], settings.models[int(right)], rows)


def _overlaps(job: Job) -> Iterator[Overlap]:
    for name in job.request.inputs:
        if name.endswith(":overlap"):
            for one in json.loads((job.folder(name) / "overlap.json").read_text()):
                data = job.manifests(name)[0]["request"]["label"].removeprefix("overlap of ")
                yield Overlap(**{**one, "benchmark": NAMES.get(one["benchmark"], one["benchmark"]), "data": data})


def _ability(job: Job, suite: Suite) -> JudgeAbility | None:
    if not job.has("people"):
        return None
    pairs = agreement.people(location(job.request.inputs["people"][0]))
    verdicts = job.rows("people:verdicts", "verdicts.parquet")
    if all(row["preference"] is None for row in verdicts):
        return None  # as its other verdicts' warnings say
    return agreement.ability(_judge(suite) or "", pairs, verdicts)


def _told(manifests: list[dict[str, Any]]) -> list[str]:
    """What the stages have counted that a reader must know of."""
    told = []
    for label, summaries in _by_label(manifests, "answers").items():
        if summaries[0]["chat_template"] == PLAIN_TEMPLATE:
            told.append(f"{label}: the model has no chat template, so Montessori's plain one was used")
    for label, summaries in _by_label(manifests, "verdicts").items():
        if alone := sum(one["unmatched"] for one in summaries):
            told.append(f"{label}: {alone} instructions are answered on one side alone, and left out")
        shares = [one["letters"] for one in summaries if one["letters"] is not None]
        if shares and min(shares) < HALF:
            told.append(
                f"{label}: the judge's reply begins with A or B with a probability of {min(shares):.0%} on average: "
                "its verdicts are hardly more than guesses"
            )
    return told


def _by_label(manifests: list[dict[str, Any]], stage: str) -> dict[str, list[dict[str, Any]]]:
    """The summaries of a stage's shards, by the label that they share."""
    found: dict[str, list[dict[str, Any]]] = {}
    for manifest in manifests:
        if manifest["request"]["stage"] == stage:
            found.setdefault(manifest["request"]["label"], []).append(manifest["summary"])
    return found


def _judge(suite: Suite) -> str | None:
    if not suite.judge:
        return None
    return suite.judge.openai.model if suite.judge.engine == "openai" else suite.judge.source


def _usage(manifests: list[dict[str, Any]]) -> dict[str, float]:
    """Of the judge: prompts, tokens, dollars, seconds."""
    whole: dict[str, float] = {}
    for manifest in manifests:
        if manifest["request"]["stage"] in ("verdicts", "grades"):
            for name, value in manifest["summary"].get("usage", {}).items():
                whole[name] = round(whole.get(name, 0) + value, 6)
    return whole
