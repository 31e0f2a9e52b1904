"""Estimate a run before it starts: prompts, tokens, hours, bytes and price, task by task.

The result is a line for each task. An artifact in the store counts with its own cost. A missing artifact is estimated
from the manifests of similar artifacts of other runs, or from stated assumptions where there are none.
"""

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from montessori.artifacts import Request, Store
from montessori.budget import dollars, price_of
from montessori.settings.models import Model
from montessori.settings.run import Settings
from montessori.synthesis.lengths import Lengths, expected_lengths
from tasks.registry import TASKS, Cost

YIELD = 0.8  # share of the generated instructions that pass all filters
PAIRS = 0.5  # preference pairs, or positive outputs, for each scored point
# Floating-point operations per second. GPU: an H100 (990 TFLOP/s in bfloat16) at 40% in training and 10% in generation.
# CPU: a core of a laptop in float32, on the small matrices of small models.
SPEED = {"gpu": {"train": 4e14, "generate": 1e14}, "cpu": {"train": 2e10, "generate": 5e9}}
LARGE = 5e8  # parameters; above it a GPU is assumed
ROW_BYTES = 1500
RATING_PROMPT, RATING = 230, 100  # tokens of a judge's prompt without the point, and of a rating with its reason
# The settings that `expected_lengths` reads. Runs with the same ones, as most cells of a study, share the lengths.
READ_BY_LENGTHS: Any = {
    "seed": True,
    "seeds": True,
    "pocket": True,
    "teacher": True,
    "generation": {"engine"},
    "instructions": True,
    "responses": {"sampling"},
}
HUB_SIZE = re.compile(r"(\d+(?:\.\d+)?)[bB]\b")  # in a model's name

GENERATION = {"instructions", "responses", "ratings"}  # by the teacher; ratings by another judge count alike


@dataclass
class Line:
    """The cost of a task with all its artifacts, and the basis of the estimate."""

    task: str
    artifacts: int = 0
    prompts: float = 0.0
    tokens_in: float = 0.0
    tokens_out: float = 0.0
    hours: float | None = 0.0
    bytes: float = 0.0
    usd: float | None = None
    basis: set[str] = field(default_factory=set)  # "made", "measured", "assumed"

    def add(self, other: "Line") -> None:
        """Add the cost of an artifact or of a whole task."""
        for name in ("artifacts", "prompts", "tokens_in", "tokens_out", "bytes"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.hours = None if self.hours is None or other.hours is None else self.hours + other.hours
        if other.usd is not None:
            self.usd = (self.usd or 0.0) + other.usd
        self.basis |= other.basis


def estimate(
    settings: Settings, requests: Mapping[str, Request], store: Store, before: str | None = None
) -> tuple[list[Line], tuple[str, ...]]:
    """Return a line for each task of the plan `requests`, in order, and the assumptions in words.

    With `before` (an ISO time) the estimate is as of that time, with nothing of this run in the store. The report
    compares it with the real cost.
    """
    return estimate_all([(settings, requests)], store, before)


def estimate_all(
    runs: Sequence[tuple[Settings, Mapping[str, Request]]], store: Store, before: str | None = None
) -> tuple[list[Line], tuple[str, ...]]:
    """Return the same for several runs together. Shared artifacts count once."""
    past = _past(store, {address for _, requests in runs for address in requests}, before)
    lines: dict[str, Line] = {}
    assumed: dict[str, None] = {}
    seen: set[str] = set()
    lengths: dict[str, Lengths] = {}
    for settings, requests in runs:
        estimator = _Estimator(settings, requests, past, lengths)
        for address, request in requests.items():
            if address not in seen:
                exists = before is None and store.exists(address)
                line = line_of(store.manifest(address)) if exists else estimator.estimate(request)
                lines.setdefault(request.stage, Line(request.stage)).add(line)
        seen |= set(requests)
        assumed |= dict.fromkeys(estimator.assumptions)
    return list(lines.values()), tuple(assumed)


def line_of(manifest: Mapping[str, Any]) -> Line:
    """Return the cost of an existing artifact."""
    usage = manifest["summary"].get("usage", {})
    return Line(
        manifest["request"]["stage"],
        1,
        usage.get("prompts", 0),
        usage.get("prompt_tokens", 0),
        usage.get("completion_tokens", 0),
        max(manifest["seconds"], usage.get("seconds", 0)) / 3600,
        sum(file["bytes"] for file in manifest["files"].values()),
        usage.get("usd"),
        {"made"},
    )


def total(lines: Iterable[Line], name: str = "total") -> Line:
    """Return the sum of `lines`."""
    whole = Line(name)
    for line in lines:
        whole.add(line)
    return whole


def cost_of(request: Request) -> Cost:
    """Return the row of a request's task that its time and size depend on."""
    return TASKS[request.stage].cost


Past = dict[str, list[tuple[Line, float]]]  # by kind of task: the cost and the work of each artifact


class _Estimator:
    """Estimates the artifacts of one plan."""

    def __init__(self, settings: Settings, requests: Mapping[str, Request], past: Past, lengths: dict[str, Lengths]):
        """`lengths` is a cache by the settings they were read from; new ones are added."""
        self._settings, self._requests, self._past, self._cache = settings, requests, past, lengths
        self.assumptions: tuple[str, ...] = ()

    @cached_property
    def lengths(self) -> Lengths:
        """Return the expected lengths of texts. Looked up only where no past run gives a rate."""
        key = self._settings.model_dump_json(include=READ_BY_LENGTHS)
        if key not in self._cache:
            self._cache[key] = expected_lengths(self._settings)
        lengths = self._cache[key]
        self.assumptions = (*lengths.assumed, f"{YIELD:.0%} of the texts pass the filters")
        return lengths

    def estimate(self, request: Request) -> Line:
        """Return the expected cost of an artifact."""
        past = self._past.get(_kind(request.model_dump()), [])
        line = self._measured(request, past) if past else self._assumed(request)
        line.usd = self._price(request, line)
        return line

    def _measured(self, request: Request, past: list[tuple[Line, float]]) -> Line:
        """Scale the cost of similar artifacts by the work. A model's size does not depend on the work."""
        before, work = total(line for line, _ in past), sum(work for _, work in past)
        share = self._work(request) / work if work else 1 / len(past)
        size = before.bytes / len(past) if cost_of(request).keeps else before.bytes * share
        hours = (before.hours or 0) * share
        return Line(
            request.stage,
            1,
            before.prompts * share,
            before.tokens_in * share,
            before.tokens_out * share,
            hours,
            size,
            basis={"measured"},
        )

    def _assumed(self, request: Request) -> Line:
        """Estimate from the lengths of the seeds, and from the stated yields and speeds."""
        work = self._work(request)
        line = Line(request.stage, 1, bytes=self._bytes(request), basis={"assumed"})
        match cost_of(request).work:
            case "instructions":
                texts = work / YIELD
                line.prompts = math.ceil(texts / self._settings.instructions.samples_per_prompt)
                line.tokens_in, line.tokens_out = line.prompts * self.lengths.prompt, texts * self.lengths.text
            case "responses":
                line.prompts = work
                line.tokens_in, line.tokens_out = work * self.lengths.instruction, work * self.lengths.response
            case "ratings":
                line.prompts = work
                line.tokens_in = work * (RATING_PROMPT + self.lengths.instruction + self.lengths.response)
                line.tokens_out = work * RATING
        line.hours = self._hours(request, line, work)
        return line

    def _work(self, request: Request) -> float:
        """Return the work of a request in the units of its registry row, or 1 where it has none."""
        settings, s = self._settings, request.settings
        points = settings.probing.probing
        match request.stage:
            case "instructions":
                return float(s["target"])
            case "responses":
                (instructions,) = request.inputs["instructions"]
                count = s["limit"] if "limit" in s else self._requests[instructions].settings["target"]
                return float(count * s.get("samples", 1)) / request.shard[1]
            case "ratings":
                return points / request.shard[1]
            case "warm-up":
                return settings.training_size if "pairs" in request.inputs else settings.probing.warm_up
            case "student" | "mistakes":
                return settings.training_size
            case "influence":
                tokens = self._requests[request.inputs["tokens"][0]]
                count = sum(self._points(self._requests[address]) for address in tokens.inputs["points"])
                return min(float(tokens.settings["limit"]), count) / request.shard[1]
            case "teacher":
                return self._pairs(self._requests[request.inputs["preferences"][0]])
            case "bootstrap":
                return PAIRS * points
        return 1.0

    def _points(self, request: Request) -> float:
        """Return the number of points in the artifact of `request`."""
        if request.stage == "responses":
            return self._work(request)
        return float(self._settings.probing.probing if request.stage == "split" else self._settings.training_size)

    def _pairs(self, request: Request) -> float:
        """Return the expected pairs of the task `preferences`: with best_worst one for each prompt, else a share."""
        preferences, settings = request.settings["preferences"], self._settings
        of_responses = request.settings.get("outputs") == "responses"
        samples = settings.responses.samples if of_responses else settings.instructions.samples_per_prompt
        points = settings.probing.probing
        pairs = points // samples if preferences["split"] == "best_worst" else PAIRS * points
        return min(preferences["max_pairs"] or math.inf, pairs)

    def _hours(self, request: Request, line: Line, work: float) -> float | None:
        """Divide the operations by the speed: 2 per parameter and token in generation, 6 in training."""
        cost = cost_of(request)
        if request.settings.get("engine") == "openai" or TASKS[request.stage].device == "cpu" or not cost.work:
            return 0.0
        model = self._model(request)
        parameters = _parameters(model) if model else None
        if parameters is None:
            return None
        speed = SPEED["gpu" if parameters > LARGE else "cpu"]
        if cost.work in GENERATION:
            return 2 * parameters * (line.tokens_in + line.tokens_out) / speed["generate"] / 3600
        pair = self.lengths.instruction + self.lengths.response
        output = self.lengths.prompt + self.lengths.text
        training = request.settings.get("training") or request.settings.get("dpo") or {}
        passes = float(training.get("epochs", 1) * training.get("stop", 1))
        operations = {
            "pretraining": 6 * float(s.steps * s.batch_size * s.context) if model and (s := model.scratch) else 0.0,
            "dpo": 8 * 2 * work * output * passes,  # two texts a pair, each read by the teacher and its frozen copy
            "bootstrap": 6 * work * output * passes,
            "fine-tuning": 6 * work * pair * passes,
            "measuring": 6 * max(work, 256) * pair,
        }
        return operations[cost.work] * parameters / speed["train"] / 3600

    def _model(self, request: Request) -> Model | None:
        return self._settings.teacher if cost_of(request).model == "teacher" else self._settings.student

    def _bytes(self, request: Request) -> float:
        keeps, model = cost_of(request).keeps, self._model(request)
        if not keeps or model is None:
            return ROW_BYTES * self._work(request)
        weights = 2 if model.dtype == "bfloat16" else 4
        each = {"weights": weights, "optimizer": weights + 8, "gradient": 4}  # moments and gradients are float32
        return each[keeps] * (_parameters(model) or 0)

    def _price(self, request: Request, line: Line) -> float | None:
        if request.settings.get("engine") != "openai":
            return None
        rates = request.stage == "ratings" and self._settings.rating.engine == "openai"
        price = price_of(self._settings.rating.openai if rates else self._settings.generation.openai)
        return dollars(price, line.tokens_in, line.tokens_out) if price else None


def _past(store: Store, own: set[str], before: str | None) -> Past:
    """Return the cost and the work of the artifacts of other runs, by kind of task."""
    past: Past = {}
    for manifest in store.manifests():
        request = manifest["request"]
        earlier = before is None or manifest["made_by"]["time"] < before
        if earlier and manifest["address"] not in own and request["kept_as"] is None:
            units = TASKS[request["stage"]].cost.units
            work = float(sum(manifest["summary"][name] for name in units)) if units else 1.0
            past.setdefault(_kind(request), []).append((line_of(manifest), work))
    return past


def _kind(request: Mapping[str, Any]) -> str:
    """Return what similar artifacts share: the task, its settings without amounts, and the base models."""
    settings = {name: value for name, value in request["settings"].items() if name not in {"target", "limit"}}
    models = [
        address
        for name in ("teacher", "student")
        for address in request["inputs"].get(name, [])
        if address.startswith(("hub:", "file:", "api:"))
    ]
    return json.dumps([request["stage"], settings, models], sort_keys=True)


def _parameters(model: Model) -> float | None:
    """Return the number of a model's parameters, from its shape, the size of its files or its name."""
    if shape := model.scratch:
        attention = 4 * shape.hidden * shape.heads * (shape.head_dim or shape.hidden // shape.heads)
        return shape.vocabulary * shape.hidden + shape.layers * (attention + 9 * shape.hidden**2)
    if (folder := Path(model.source).expanduser()).is_dir():
        return sum(file.stat().st_size for file in folder.glob("*.safetensors")) / (
            2 if model.dtype == "bfloat16" else 4
        )
    named = HUB_SIZE.search(model.source)
    return float(named.group(1)) * 1e9 if named else None
