"""What a run will take, before it runs: prompts, tokens, hours, bytes and the price, stage by stage.

In: the plan of a run.  Out: a line a stage. What past runs of like stages took is in their manifests, and is the rate
to go by; where there is none, a stated assumption is. What the store has already is counted as it was.
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

YIELD = 0.8  # of the texts that a teacher writes, those that pass all filters
PAIRS = 0.5  # preference pairs, or outputs that are worth learning, a scored point
# Floating-point operations a second. GPU: what an H100 (990 TFLOP/s in bfloat16) does at 40% when it learns, at 10%
# when it writes. CPU: a core of a laptop in float32, on matrices as small as those of small models.
SPEED = {"gpu": {"learn": 4e14, "write": 1e14}, "cpu": {"learn": 2e10, "write": 5e9}}
LARGE = 5e8  # parameters; above it a GPU is assumed
ROW_BYTES = 1500
RATING_PROMPT, RATING = 230, 100  # tokens of a judge's prompt without the point, and of a rating with its reason
# What `expected_lengths` reads of the settings: runs that share it, as most cells of a study do, have the same lengths.
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

GENERATION = {"instructions", "responses", "ratings"}  # by the teacher; a rating by another judge is counted so too


@dataclass
class Line:
    """A stage with all its artifacts: what they take, and how much of that is known from like ones."""

    stage: str
    artifacts: int = 0
    prompts: float = 0.0
    tokens_in: float = 0.0
    tokens_out: float = 0.0
    hours: float | None = 0.0
    bytes: float = 0.0
    usd: float | None = None
    basis: set[str] = field(default_factory=set)  # "made", "measured", "assumed"

    def add(self, other: "Line") -> None:
        """Add an artifact, or a whole stage."""
        for name in ("artifacts", "prompts", "tokens_in", "tokens_out", "bytes"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.hours = None if self.hours is None or other.hours is None else self.hours + other.hours
        if other.usd is not None:
            self.usd = (self.usd or 0.0) + other.usd
        self.basis |= other.basis


def estimate(
    settings: Settings, requests: Mapping[str, Request], store: Store, before: str | None = None
) -> tuple[list[Line], tuple[str, ...]]:
    """A line for each stage of the plan `requests`, in order; and what was assumed about texts, in words.

    `before` (an ISO time): as if asked then, with nothing of this run made, for a comparison with what it took.
    """
    return estimate_all([(settings, requests)], store, before)


def estimate_all(
    runs: Sequence[tuple[Settings, Mapping[str, Request]]], store: Store, before: str | None = None
) -> tuple[list[Line], tuple[str, ...]]:
    """The same for several runs together; what they share counts once."""
    past = _past(store, {address for _, requests in runs for address in requests}, before)
    lines: dict[str, Line] = {}
    assumed: dict[str, None] = {}
    seen: set[str] = set()
    known: dict[str, Lengths] = {}
    for settings, requests in runs:
        estimator = _Estimator(settings, requests, past, known)
        for address, request in requests.items():
            if address not in seen:
                made = before is None and store.exists(address)
                one = as_made(store.manifest(address)) if made else estimator.one(request)
                lines.setdefault(request.stage, Line(request.stage)).add(one)
        seen |= set(requests)
        assumed |= dict.fromkeys(estimator.assumptions)
    return list(lines.values()), tuple(assumed)


def as_made(manifest: Mapping[str, Any]) -> Line:
    """What an artifact has taken."""
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
    """All together."""
    whole = Line(name)
    for line in lines:
        whole.add(line)
    return whole


def cost_of(request: Request) -> Cost:
    """Return what the time and size of a request depend on."""
    return TASKS[request.stage].cost


Past = dict[str, list[tuple[Line, float]]]  # by kind of stage: what each artifact took, and how much work it was


class _Estimator:
    """Estimates single artifacts of one plan."""

    def __init__(self, settings: Settings, requests: Mapping[str, Request], past: Past, known: dict[str, Lengths]):
        """`known` are the lengths by what they were read from; new ones are added."""
        self._settings, self._requests, self._past, self._known = settings, requests, past, known
        self.assumptions: tuple[str, ...] = ()

    @cached_property
    def lengths(self) -> Lengths:
        """How long texts will be; looked up only where no past run says it."""
        key = self._settings.model_dump_json(include=READ_BY_LENGTHS)
        if key not in self._known:
            self._known[key] = expected_lengths(self._settings)
        found = self._known[key]
        self.assumptions = (*found.assumed, f"{YIELD:.0%} of the texts pass the filters")
        return found

    def one(self, request: Request) -> Line:
        """One artifact that is not there yet."""
        past = self._past.get(_kind(request.model_dump()), [])
        line = self._measured(request, past) if past else self._assumed(request)
        line.usd = self._price(request, line)
        return line

    def _measured(self, request: Request, past: list[tuple[Line, float]]) -> Line:
        """By what like artifacts took for their work. A model is as large as those were, whatever it learned from."""
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
        """By the lengths of seeds and by stated yields and speeds."""
        work, asked = self._work(request), self._settings.instructions
        line = Line(request.stage, 1, bytes=self._bytes(request), basis={"assumed"})
        match cost_of(request).work:
            case "instructions":
                texts = work / YIELD
                line.prompts = math.ceil(texts / asked.samples_per_prompt)
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
        """Return how much work a request is, in the units of its registry row; 1 where that is not known."""
        settings, s = self._settings, request.settings
        points = settings.probing.probing
        match request.stage:
            case "instructions":
                return float(s["target"])
            case "responses":
                (instructions,) = request.inputs["instructions"]
                there = s["limit"] if "limit" in s else self._requests[instructions].settings["target"]
                return float(there * s.get("samples", 1)) / request.shard[1]
            case "ratings":
                return points / request.shard[1]
            case "warm-up":
                return settings.training_size if "pairs" in request.inputs else settings.probing.warm_up
            case "student" | "mistakes":
                return settings.training_size
            case "influence":
                tokens = self._requests[request.inputs["tokens"][0]]
                there = sum(self._points(self._requests[address]) for address in tokens.inputs["points"])
                return min(float(tokens.settings["limit"]), there) / request.shard[1]
            case "teacher":
                return self._pairs(self._requests[request.inputs["preferences"][0]])
            case "bootstrap":
                return PAIRS * points
        return 1.0

    def _points(self, request: Request) -> float:
        """How many points there are in what a stage makes from which they are scored."""
        if request.stage == "responses":
            return self._work(request)
        return float(self._settings.probing.probing if request.stage == "split" else self._settings.training_size)

    def _pairs(self, request: Request) -> float:
        """Of a stage `preferences`: with best_worst one a prompt, all of whose samples are taken to be scored."""
        asked, settings = request.settings["preferences"], self._settings
        of_responses = request.settings.get("outputs") == "responses"
        samples = settings.responses.samples if of_responses else settings.instructions.samples_per_prompt
        points = settings.probing.probing
        pairs = points // samples if asked["split"] == "best_worst" else PAIRS * points
        return min(asked["max_pairs"] or math.inf, pairs)

    def _hours(self, request: Request, line: Line, work: float) -> float | None:
        """Operations over speed: two a parameter and token that is read or written, six that is learned from."""
        cost = cost_of(request)
        if request.settings.get("engine") == "openai" or TASKS[request.stage].device == "cpu" or not cost.work:
            return 0.0
        model = self._model(request)
        parameters = _parameters(model) if model else None
        if parameters is None:
            return None
        speed = SPEED["gpu" if parameters > LARGE else "cpu"]
        if cost.work in GENERATION:
            return 2 * parameters * (line.tokens_in + line.tokens_out) / speed["write"] / 3600
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
        return operations[cost.work] * parameters / speed["learn"] / 3600

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
    """What the store has of other runs, by kind: what each artifact took, and how much work that was."""
    found: dict[str, list[tuple[Line, float]]] = {}
    for manifest in store.manifests():
        request = manifest["request"]
        earlier = before is None or manifest["made_by"]["time"] < before
        if earlier and manifest["address"] not in own and request["kept_as"] is None:
            units = TASKS[request["stage"]].cost.units
            work = float(sum(manifest["summary"][name] for name in units)) if units else 1.0
            found.setdefault(_kind(request), []).append((as_made(manifest), work))
    return found


def _kind(request: Mapping[str, Any]) -> str:
    """What two artifacts share that take alike: the stage, its settings but for how much, and models from outside."""
    settings = {name: value for name, value in request["settings"].items() if name not in {"target", "limit"}}
    models = [
        address
        for name in ("teacher", "student")
        for address in request["inputs"].get(name, [])
        if address.startswith(("hub:", "file:", "api:"))
    ]
    return json.dumps([request["stage"], settings, models], sort_keys=True)


def _parameters(model: Model) -> float | None:
    """How many a model has: by its shape, by the size of its files, or by its name."""
    if shape := model.scratch:
        attention = 4 * shape.hidden * shape.heads * (shape.head_dim or shape.hidden // shape.heads)
        return shape.vocabulary * shape.hidden + shape.layers * (attention + 9 * shape.hidden**2)
    if (folder := Path(model.source).expanduser()).is_dir():
        return sum(file.stat().st_size for file in folder.glob("*.safetensors")) / (
            2 if model.dtype == "bfloat16" else 4
        )
    named = HUB_SIZE.search(model.source)
    return float(named.group(1)) * 1e9 if named else None
