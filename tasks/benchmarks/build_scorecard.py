"""Build the scorecard of an evaluation: `metrics.json`, `result.md`, `report.html`, CSV and LaTeX tables, `suite.yaml`.

There is an input for each model and benchmark. `0:mmlu` are the shards of the first model.
"""

import json
import math
from collections.abc import Iterator
from typing import Any

from montessori.artifacts import identity
from montessori.data.rows import Row, read_rows
from montessori.evaluation import agreement, alpaca, harness, mt_bench, verdicts
from montessori.evaluation.card import SPENT, Card, Column, Duel, Example, JudgeAbility, Measure, Overlap, Score
from montessori.evaluation.metrics import linearise, measure
from montessori.evaluation.subjects import default_baseline
from montessori.reporting.scorecard import page
from montessori.reporting.text import count, listed
from montessori.settings import files
from montessori.settings.base import Frozen
from montessori.settings.suite import Suite
from tasks.runtime.generation import PLAIN_TEMPLATE
from tasks.runtime.job import Job, location

# The names of the paper's Table 1.
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
    Column(
        "Reference loss",
        "reference_loss",
        "nats/token",
        lower_is_better=True,
        protocol="mean over examples of the loss on the answer's tokens",
    ),
    Column(
        "Bits per byte",
        "reference_bits_per_byte",
        "bits/byte",
        lower_is_better=True,
        protocol="bits of all answers over their bytes, the same examples",
    ),
)
HALF = 0.5
KINDS = {"evaluation": 0, "benchmark": 0, "answers": 0, "verdicts": 1, "grades": 1}  # indices into SPENT, by task
COMPARED = {"alpaca_eval": "AlpacaEval", "duel": "head to head", "verdicts": "what people judged"}  # by input
WIN_RATES = ("alpaca_eval_lc", "alpaca_eval", "alpaca_eval_others")
UNREAD = "none of the judge's verdicts could be read"
NO_REFERENCE = "no reference set was named for it (--reference DATA); a run's students bring that of their run"


class Settings(Frozen):
    """The suite, without the settings that change no number, and the models' names in tables."""

    suite: dict[str, Any]
    models: tuple[str, ...]
    baseline: str | None


def run(job: Job, settings: Settings) -> dict[str, Any]:
    """Gather the results, and write the scorecard."""
    card = gather(job, settings)
    (job.out / "suite.yaml").write_text(card.settings_yaml, encoding="utf-8")
    page.write(card, job.out)
    return {
        "models": len(card.models),
        "columns": [column.key for column in card.columns],
        "warnings": list(card.warnings),
    }


def gather(job: Job, settings: Settings) -> Card:
    """Gather everything that the page shows from the artifacts."""
    suite = Suite.model_validate(settings.suite)
    gathered = _Results(job, settings, suite)
    gathered.add_judged()
    gathered.add_benchmarks()
    gathered.add_losses()
    gathered.warn_of_counts()
    manifests = job.manifests("stages")
    return Card(
        name=suite.name,
        id=job.request.address.partition("/")[2],
        models=settings.models,
        columns=gathered.columns,
        scores=gathered.scores,
        missing=gathered.missing,
        baseline=_baseline(settings),
        duels=list(_duels(job, settings)),
        examples=gathered.examples,
        overlaps=list(_overlaps(job)),
        ability=_ability(job, suite),
        judge=_judge(suite),
        published=suite.published,
        warnings=gathered.warnings(),
        seed=suite.seed,
        settings_yaml=files.dump(settings.suite),
        command=str(job.request.means.get("command", "")),
        versions=(manifests[-1]["versions"] if manifests else {}) | gathered.versions,
        usage=_usage(manifests),
    )


class _Results:
    """The columns, scores and warnings gathered so far."""

    def __init__(self, job: Job, settings: Settings, suite: Suite):
        self._job, self._settings, self._suite = job, settings, suite
        self.columns: list[Column] = []
        self.scores: dict[tuple[str, str], Score] = {}
        self.missing: dict[tuple[str, str], str] = {}
        self.examples: list[Example] = []
        self._warned: dict[tuple[str, str], list[str]] = {}  # the models of each warning, by its subject and sentence
        self.versions: dict[str, str] = {}

    def add_judged(self) -> None:
        """Gather AlpacaEval and MT-Bench."""
        for model, rows in self._rows("alpaca_eval", "verdicts.parquet"):
            self._alpaca_eval(model, rows)
        for model, rows in self._rows("mt_bench", "grades.parquet"):
            self._column(Column("MT-Bench", "mt_bench", "1–10", protocol="two turns, single-answer grading"))
            unreadable = sum(row["grade"] is None for row in rows)
            if unreadable < len(rows):
                self.scores[model, "mt_bench"] = mt_bench.score(rows)
                self.examples += verdicts.graded_examples(model, rows)
            else:
                self.missing[model, "mt_bench"] = UNREAD
            self._warn_of_unreadable("MT-Bench", model, unreadable, len(rows))

    def add_benchmarks(self) -> None:
        """Gather the benchmarks of the harness."""
        for name, benchmark in self._suite.benchmarks.items():
            protocol = f"{benchmark.shots}-shot, {benchmark.metric}"
            protocol += f", the first {benchmark.limit} of each task" if benchmark.limit else ""
            if any(True for _ in self._rows(name, "items.parquet")):
                self._column(Column(NAMES.get(name, name), name, "%", scale=100, protocol=protocol))
            for model, rows in self._rows(name, "items.parquet"):
                notes = self._notes(model, name, len(rows))
                for note in notes:
                    self._warn(note, NAMES.get(name, name), model)
                if not rows:
                    self.missing[model, name] = "; ".join(notes)
                    continue
                mean, error, n, groups = harness.score(rows, benchmark.metric)
                values = {row["id"]: float(json.loads(row["values"])[benchmark.metric]) for row in rows}
                self.scores[model, name] = Score(Measure(mean, error, n), values, groups, notes=notes)

    def warn_of_counts(self) -> None:
        """Warn of plain chat templates and doubtful verdicts, as the tasks have counted them."""
        addresses = [identity(address) for address in self._job.request.inputs.get("models", [])]
        for manifest in self._job.manifests("stages"):
            request = manifest["request"]
            if request["stage"] == "answers" and manifest["summary"]["chat_template"] == PLAIN_TEMPLATE:
                whose = identity(request["inputs"]["teacher"][0])
                models = [m for m, address in zip(self._settings.models, addresses, strict=True) if address == whose]
                self._warn("no chat template of its own, so Montessori's plain one was used", "", *models)
        for name in self._job.request.inputs:
            *numbers, kind = name.split(":")
            if kind in COMPARED and self._job.has(name):
                models = [self._settings.models[int(number)] for number in numbers if number.isdigit()]
                self._warn_of_verdicts(COMPARED[kind], models, [m["summary"] for m in self._job.manifests(name)])

    def warnings(self) -> list[str]:
        """Return the warnings, each sentence once, after the names of its models."""
        about = {key: ", ".join(filter(None, (key[0], listed(models)))) for key, models in self._warned.items()}
        return [f"{about[key]}: {key[1]}" if about[key] else key[1] for key in self._warned]

    def add_losses(self) -> None:
        """Gather losses on the reference set, in nats per token and in bits per byte."""
        for number, model in enumerate(self._settings.models):
            if not self._job.has(f"{number}:losses"):
                self.missing |= {(model, column.key): NO_REFERENCE for column in LOSSES}
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
        benchmark, baseline = self._suite.alpaca_eval, self._settings.baseline or ""
        assert benchmark, "it was measured"
        judge = _judge(self._suite) or ""
        unreadable = sum(row["preference"] is None for row in rows)
        self._warn_of_unreadable("AlpacaEval", model, unreadable, len(rows))
        if unreadable == len(rows):
            self.missing |= dict.fromkeys([(model, key) for key in WIN_RATES], UNREAD)
            return
        rates = alpaca.win_rates(rows, model=model, baseline=baseline, judge=judge, difficulties=self._difficulties())
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
        if rates.length_controlled is None:
            self.missing[model, "alpaca_eval_lc"] = "; ".join(rates.notes)
        else:
            controlled = Measure(rates.length_controlled / 100, (rates.lc_sampling_error or 0.0) / 100, rates.n)
            self.scores[model, "alpaca_eval_lc"] = Score(
                controlled, rates.linearised, unreadable=rates.unreadable, notes=rates.notes
            )
            for note in rates.notes:
                self._warn(note, "AlpacaEval", model)
        self._column(columns[1])
        self.scores[model, "alpaca_eval"] = Score(plain, rates.items, unreadable=rates.unreadable)
        others = [row for row in rows if row["index"] >= benchmark.selected_on and row["preference"] is not None]
        if 0 < len(others) < rates.n:
            first = benchmark.selected_on + 1
            name, protocol = f"AlpacaEval WR {first}+", f"from instruction no. {first} on; {drawn}"
            self._column(Column(name, "alpaca_eval_others", "%", scale=100, protocol=protocol, baseline=baseline))
            items = {row["id"]: row["preference"] for row in others}
            apart = measure(list(items.values()))
            self.scores[model, "alpaca_eval_others"] = Score(
                Measure(apart["mean"], apart["standard_error"], len(items)), items
            )
            self._warn(
                f"the paper's reference set is the first {benchmark.selected_on} instructions of AlpacaEval: a student "
                f"or teacher that was selected on them is measured on the others alone in the column {name}"
            )
        self.examples += verdicts.compared_examples(model, baseline, rows)

    def _rows(self, name: str, file: str) -> Iterator[tuple[str, list[Row]]]:
        for number, model in enumerate(self._settings.models):
            if self._job.has(f"{number}:{name}"):
                yield model, self._job.rows(f"{number}:{name}", file)

    def _difficulties(self) -> str:
        benchmark = self._suite.alpaca_eval
        if self._job.has("difficulties"):
            return location(self._job.request.inputs["difficulties"][0])
        return benchmark.difficulties if benchmark else "none"

    def _notes(self, model: str, name: str, n: int) -> list[str]:
        """Return notes on prompts that were too long for the model's context."""
        folders = self._job.folders(f"{self._settings.models.index(model)}:{name}")
        about = [json.loads((folder / "harness.json").read_text(encoding="utf-8")) for folder in folders]
        self.versions["lm-eval"] = about[0]["lm_eval"]
        cut, long = (sum(one[count] for one in about) for count in ("prompts_cut", "too_long"))
        notes = [f"{cut} of {n} prompts were cut to the model's context"] if cut else []
        return notes + ([f"{long} of {n + long} items are longer than its context and left out"] if long else [])

    def _warn_of_verdicts(self, what: str, models: list[str], summaries: list[dict[str, Any]]) -> None:
        if alone := sum(one["unmatched"] for one in summaries):
            self._warn(f"{count(alone, 'instruction')} answered on one side alone, and left out", what, *models)
        shares = [one["letters"] for one in summaries if one["letters"] is not None]
        if shares and min(shares) < HALF:
            self._warn(
                f"the judge's reply begins with A or B with a probability of {min(shares):.0%} on average: its "
                "verdicts are hardly more than guesses",
                what,
                *models,
            )

    def _column(self, column: Column) -> None:
        if all(one.key != column.key for one in self.columns):
            self.columns.append(column)

    def _warn_of_unreadable(self, what: str, model: str, unreadable: int, total: int) -> None:
        if unreadable:
            self._warn(f"{unreadable} of {total} verdicts could not be read, and are left out", what, model)

    def _warn(self, sentence: str, what: str = "", *models: str) -> None:
        whom = self._warned.setdefault((what, sentence), [])
        whom += [model for model in models if model not in whom]


def _losses(rows: list[Row], key: str) -> list[float]:
    """Return each example's value, with the metric as their mean."""
    if key == "reference_loss":
        return [row["loss"] for row in rows]
    return linearise([row["loss"] * row["tokens"] / math.log(2) for row in rows], [row["bytes"] for row in rows])


def _duels(job: Job, settings: Settings) -> Iterator[Duel]:
    for name in job.request.inputs:
        if name.endswith(":duel"):
            left, right, _ = name.split(":")
            rows = job.rows(name, "verdicts.parquet")
            yield verdicts.duel(settings.models[int(left)], settings.models[int(right)], rows)


def _overlaps(job: Job) -> Iterator[Overlap]:
    training_sets: list[str] = job.request.means.get("training_sets", [])
    for name in job.request.inputs:
        if name.endswith(":overlap"):
            for one in json.loads((job.folder(name) / "overlap.json").read_text()):
                data = training_sets[int(name.partition(":")[0])]
                yield Overlap(**{**one, "benchmark": NAMES.get(one["benchmark"], one["benchmark"]), "data": data})


def _ability(job: Job, suite: Suite) -> JudgeAbility | None:
    if not job.has("people"):
        return None
    pairs = agreement.read_pairs(location(job.request.inputs["people"][0]))
    verdicts = job.rows("people:verdicts", "verdicts.parquet")
    if all(row["preference"] is None for row in verdicts):
        return None  # the warnings on its other verdicts say so
    return agreement.measure_judge(_judge(suite) or "", pairs, verdicts)


def _baseline(settings: Settings) -> str | None:
    """Return the model that the others are compared with, even if win rates are against other answers."""
    if len(settings.models) < 2 or settings.baseline in settings.models:
        return settings.baseline if settings.baseline in settings.models else None
    return default_baseline(settings.models)


def _judge(suite: Suite) -> str | None:
    if not suite.judge:
        return None
    return suite.judge.openai.model if suite.judge.engine == "openai" else suite.judge.source


def _usage(manifests: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Add up prompts, tokens, dollars and seconds of all tasks, by kind, with cached ones."""
    whole: dict[str, dict[str, float]] = {}
    for manifest in manifests:
        used = dict(manifest["summary"].get("usage", {}))
        used["seconds"] = max(manifest["seconds"], used.get("seconds", 0))  # the usage counts all attempts
        kind = whole.setdefault(SPENT[KINDS.get(manifest["request"]["stage"], -1)], {})
        for name, value in used.items():
            kind[name] = round(kind.get(name, 0) + value, 6)
    return {kind: whole[kind] for kind in SPENT if kind in whole}
