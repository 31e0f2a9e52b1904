"""The stages: each a pure function from settings, input artifacts and a seed to one artifact, in a module of its own.

A stage module (all here but `asking`, `inputs` and `learning`, which several share) has `Settings` (what it reads, and
so what is in its fingerprint) and `run(job, settings) -> summary`, which writes the artifact's files into `job.out`.
"""

import importlib
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from montessori.artifacts import Journal, Request, Store, is_artifact
from montessori.data.rows import Row, read_rows


@dataclass(frozen=True)
class Stage:
    """Where a stage's code is, and the version that its fingerprints carry: raised when its result would change."""

    module: str
    version: int = 1
    light: bool = False  # loads no model, so needs no GPU
    torch: bool = False  # light, and still needs torch, which the machine of the flow may not have
    journaled: bool = False  # keeps what it receives as it comes, since it may be slow or paid for


STAGES = {
    "seeds": Stage("read_rows", light=True),
    "reference": Stage("read_rows", light=True),
    "test": Stage("read_rows", light=True),
    "points": Stage("read_rows", light=True),
    "scratch-teacher": Stage("train_from_scratch"),
    "scratch-student": Stage("train_from_scratch"),
    "instructions": Stage("generate_instructions", version=2, journaled=True),
    "responses": Stage("generate_responses", version=2, journaled=True),
    "split": Stage("split_points", light=True),
    "warm-up": Stage("warm_up_student"),
    "tokens": Stage("tokenize_points", light=True, torch=True),
    "reference-gradient": Stage("reference_gradient", version=2),
    "influence": Stage("score_influence", version=3),
    "ratings": Stage("rate_points", journaled=True),
    "rule": Stage("rate_by_rule", light=True),
    "preferences": Stage("build_preferences", light=True),
    "teacher": Stage("train_teacher"),
    "bootstrap": Stage("bootstrap_teacher"),
    "mistakes": Stage("find_mistakes"),
    "union": Stage("merge_training_sets", light=True),
    "student": Stage("train_student"),
    "evaluation": Stage("evaluate_student", version=4),
    "report": Stage("reports.run", version=2, light=True, torch=True),
    "refresh": Stage("reports.night", light=True, torch=True),
    "study": Stage("reports.study", version=2, light=True, torch=True),
    "benchmark": Stage("benchmarks.run_benchmark"),
    "questions": Stage("benchmarks.read_questions", light=True),
    "answers": Stage("benchmarks.answer_questions", journaled=True),
    "verdicts": Stage("benchmarks.compare_answers", journaled=True),
    "grades": Stage("benchmarks.grade_answers", journaled=True),
    "people": Stage("benchmarks.read_human_verdicts", light=True),
    "overlap": Stage("benchmarks.measure_overlap", light=True),
    "scorecard": Stage("benchmarks.build_scorecard", version=3, light=True, torch=True),
}


def module(stage: str) -> ModuleType:
    """The module of a stage, imported when asked for: most bring torch with them."""
    return importlib.import_module(f"tasks.{STAGES[stage].module}")


def computes(request: Request) -> bool:
    """Whether a request loads a model here, and so wants a GPU or a core's share to itself."""
    return not STAGES[request.stage].light and request.settings.get("engine") != "openai"


def libraries(request: Request) -> str:
    """Which libraries a request needs, as `python -m tasks.runtime.worker --listen` calls them."""
    if request.settings.get("engine") == "vllm":
        return "vllm"
    return "training" if computes(request) or STAGES[request.stage].torch else "light"


@dataclass(frozen=True)
class Job:
    """A request at work: its inputs as paths, and the folder to write into."""

    request: Request
    store: Store
    out: Path
    journal: Journal | None = None
    rank: int = 0  # which of the processes that do this together
    ranks: int = 1

    @property
    def writes(self) -> bool:
        """Whether this process writes the artifact's files."""
        return self.rank == 0

    @property
    def load_place(self) -> str | None:
        """Where a model to train is loaded: the device, or in ranks the CPU, from where its shards go there."""
        return "cpu" if self.ranks > 1 else None

    @property
    def seed(self) -> int:
        """The seed of everything random in this stage."""
        return self.request.seed

    def has(self, name: str) -> bool:
        """Whether an optional input was given."""
        return bool(self.request.inputs.get(name))

    def folders(self, name: str) -> list[Path]:
        """The folders of an input's artifacts, checked."""
        return [self.store.open(address) for address in self.request.inputs[name]]

    def folder(self, name: str) -> Path:
        """The folder of an input that is one artifact."""
        (folder,) = self.folders(name)
        return folder

    def rows(self, name: str, file: str) -> list[Row]:
        """The rows of the Parquet `file` in each of an input's artifacts, one after the other."""
        return [row for folder in self.folders(name) for row in read_rows(folder / file)]

    def model(self, name: str) -> str:
        """Where to load an input's model from: a folder, or a hub name with its revision."""
        (address,) = self.request.inputs[name]
        if is_artifact(address):
            return str(self.folder(name) / "model")
        return location(address)

    def manifests(self, name: str) -> list[dict[str, Any]]:
        """The manifests of an input's artifacts."""
        return [self.store.manifest(address) for address in self.request.inputs[name]]


def location(address: str) -> str:
    """The path or hub name in an address that is not an artifact's."""
    kind, _, rest = address.partition(":")
    return rest.rpartition("#")[0] if kind == "file" else rest
