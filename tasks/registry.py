"""List all tasks, one row each. A task is a pure function from settings, input artifacts and a seed to one artifact.

A task's module has `Settings` (all that it reads, so the fingerprint covers them) and `run(job, settings) -> summary`,
which writes the artifact's files into `job.out`. CONTRIBUTING.md shows how to add one.
"""

import importlib
from dataclasses import dataclass
from types import ModuleType
from typing import Literal

from montessori.artifacts import Request
from montessori.extras import Extra

Libraries = Literal["light", "training", "vllm"]
Work = Literal[
    "instructions", "responses", "ratings", "fine-tuning", "bootstrap", "dpo", "pretraining", "measuring", ""
]


@dataclass(frozen=True)
class Cost:
    """The quantities that decide a task's time and size, for `montessori estimate`."""

    work: Work = ""  # the kind of work; "" costs next to nothing
    units: tuple[str, ...] = ()  # fields of the task's summary whose sum is the work done
    model: Literal["teacher", "student"] = "student"  # the model that works
    keeps: Literal["weights", "optimizer", "gradient", ""] = ""  # the part of the model in the artifact


@dataclass(frozen=True)
class Task:
    """One task: its code, its version, and how it is run."""

    module: str  # below `tasks`
    version: int = 1  # part of every fingerprint; raised when the result would change
    device: Literal["gpu", "cpu"] = "gpu"  # cpu: it loads no model
    torch: bool = False  # the CPU task needs torch
    extra: Extra = "score"  # the extra of the package with the task's imports
    journaled: bool = False  # saves each answer at once, since answers are slow or paid for
    cost: Cost = Cost()

    @property
    def libraries(self) -> Libraries:
        """Return the libraries that a worker imports beforehand for this task."""
        return "training" if self.device == "gpu" or self.torch else "light"


TRAINED = ("encoded", "dropped")

TASKS = {
    "seeds": Task("read_rows", version=2, device="cpu"),
    "reference": Task("read_rows", version=2, device="cpu"),
    "test": Task("read_rows", version=2, device="cpu"),
    "points": Task("read_rows", version=2, device="cpu"),
    "scratch-teacher": Task(
        "train_from_scratch", version=2, cost=Cost("pretraining", model="teacher", keeps="weights")
    ),
    "scratch-student": Task("train_from_scratch", version=2, cost=Cost("pretraining", keeps="weights")),
    "instructions": Task(
        "generate_instructions",
        version=3,
        journaled=True,
        cost=Cost("instructions", units=("instructions",), model="teacher"),
    ),
    "responses": Task(
        "generate_responses", version=3, journaled=True, cost=Cost("responses", units=("pairs",), model="teacher")
    ),
    "split": Task("split_points", device="cpu"),
    "optimizer-state": Task("import_optimizer_state", device="cpu", torch=True),
    "warm-up": Task(
        "warm_up_student", version=2, extra="train", cost=Cost("fine-tuning", units=TRAINED, keeps="optimizer")
    ),
    "tokens": Task("tokenize_points", version=2, device="cpu", torch=True),
    "reference-gradient": Task("reference_gradient", version=3, cost=Cost("measuring", keeps="gradient")),
    "influence": Task("score_influence", version=4, cost=Cost("measuring", units=("points",))),
    "ratings": Task("rate_points", version=2, journaled=True, cost=Cost("ratings", units=("points",), model="teacher")),
    "rule": Task("rate_by_rule", device="cpu"),
    "preferences": Task("build_preferences", device="cpu"),
    "teacher": Task(
        "train_teacher",
        version=2,
        extra="train",
        cost=Cost("dpo", units=("trained",), model="teacher", keeps="weights"),
    ),
    "bootstrap": Task(
        "bootstrap_teacher",
        version=2,
        extra="train",
        cost=Cost("bootstrap", units=TRAINED, model="teacher", keeps="weights"),
    ),
    "mistakes": Task("find_mistakes", version=2, cost=Cost("measuring")),
    "union": Task("merge_training_sets", device="cpu"),
    "student": Task(
        "train_student", version=2, extra="train", cost=Cost("fine-tuning", units=TRAINED, keeps="weights")
    ),
    "evaluation": Task("evaluate_student", version=5, cost=Cost("measuring")),
    "report": Task("reports.run", version=3, device="cpu", torch=True),
    "refresh": Task("reports.night", device="cpu", torch=True),
    "study": Task("reports.study", version=2, device="cpu", torch=True),
    "benchmark": Task("benchmarks.run_benchmark", extra="evaluation"),
    "questions": Task("benchmarks.read_questions", version=2, device="cpu"),
    "answers": Task("benchmarks.answer_questions", version=2, journaled=True),
    "verdicts": Task("benchmarks.compare_answers", version=2, journaled=True),
    "grades": Task("benchmarks.grade_answers", version=2, journaled=True),
    "people": Task("benchmarks.read_human_verdicts", device="cpu"),
    "overlap": Task("benchmarks.measure_overlap", device="cpu"),
    "scorecard": Task("benchmarks.build_scorecard", version=3, device="cpu", torch=True),
}


def module(task: str) -> ModuleType:
    """Import and return a task's module. Most bring torch with them, so call this where the task runs."""
    return importlib.import_module(f"tasks.{TASKS[task].module}")


def loads_model(request: Request) -> bool:
    """Tell whether a request loads a model on this machine, and so needs a GPU or a core's share to itself."""
    return TASKS[request.stage].device == "gpu" and request.settings.get("engine") != "openai"


def extras(request: Request) -> tuple[Extra, ...]:
    """Return the extras of the package that a request needs. vLLM's environment is checked elsewhere."""
    engine, task = request.settings.get("engine"), TASKS[request.stage]
    if engine == "openai":
        return ("openai",)
    return (task.extra,) if engine != "vllm" and (task.device == "gpu" or task.torch) else ()


def libraries(request: Request) -> Libraries:
    """Return the libraries of a request, as `python -m tasks.runtime.worker --listen` names them."""
    if request.settings.get("engine") == "vllm":
        return "vllm"
    task = TASKS[request.stage]
    return "training" if loads_model(request) or task.torch else "light"
