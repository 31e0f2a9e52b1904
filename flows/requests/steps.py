"""Request the tasks of a run, one method each.

A method selects the settings and the inputs of its task, and returns the address of the artifact. A task with shards
returns an address for each shard. Nothing runs yet.
"""

import hashlib
from collections.abc import Sequence
from copy import copy
from dataclasses import asdict
from typing import Any

from flows.requests.builder import NOBODY, Address, Requests, Shards, Who
from montessori.artifacts import Request
from montessori.data.sources import POCKET
from montessori.evaluation import judging
from montessori.reporting.run.systems import ReportedSystem
from montessori.settings.base import identity
from montessori.settings.data import DataSource
from montessori.settings.models import Model
from montessori.settings.run import Settings
from montessori.synthesis import prompts
from tasks.runtime.job import location

ReferenceInputs = dict[str, list[Address]]  # by the name of the input


class Steps:
    """Requests the tasks of one run. `sources` are the addresses from `montessori.data.sources`."""

    def __init__(self, settings: Settings, sources: dict[str, str], cell: str = ""):
        """Start without requests. `cell` is the name of the run in a study."""
        self.settings, self.sources = settings, sources
        self._builder = Requests(cell)

    @property
    def requests(self) -> dict[Address, Request]:
        """Return all requests so far, in their order."""
        return self._builder.by_address

    def set_budget(self) -> None:
        """Give all requests so far the budget of the settings, which they share."""
        self._builder.set_budget(self.settings.budget)

    def for_student(self, name: str) -> "Steps":
        """Return the steps of the same run with the student `transfer.<name>` in place of its own."""
        other = copy(self)
        other.settings = self.settings.model_copy(update={"student": self.settings.transfer[name]})
        other.sources = self.sources | {"student": self.sources.get(f"transfer.{name}", "")}
        return other

    def rows(self, role: str, source: DataSource) -> Address:
        """Request the seeds, the reference set or the test points."""
        if source.source == POCKET:
            settings: dict[str, Any] = {"pocket": getattr(self.settings.pocket, role)}
        else:
            settings = source.part()
        return self._step(role, settings, {"source": [self.sources[role]]}, role=role)

    def endpoint(self) -> Address | None:
        """Return the address of the endpoint that generates in place of the base teacher, or None."""
        openai = self.settings.generation.openai
        return f"api:{openai.model}@{openai.base_url}" if self.settings.generation.engine == "openai" else None

    def base_model(self, role: str, model: Model, seeds: Address) -> Address:
        """Return the address of the base teacher or student, and request its training if it starts from scratch."""
        if model.scratch is None:
            return self.sources[role]
        inputs = {} if self.sources["seeds"] == POCKET else {"seeds": [seeds]}
        settings = {"scratch": model.scratch, "prompt": prompts.wording() if role == "teacher" else ""}
        return self._step(f"scratch-{role}", settings, inputs, role=f"{role} from scratch")

    def instructions(self, teacher: Address, seeds: Address, target: int, *, purpose: str, who: Who) -> Address:
        """Request `target` instructions of a teacher or endpoint. `purpose` gives them a seed of their own."""
        settings = {
            "instructions": self.settings.instructions,
            "target": target,
            "prompt": prompts.wording(),
            **self._generation(teacher),
        }
        inputs = {"teacher": [teacher], "seeds": [seeds]}
        means = self._means(teacher)
        return self._step("instructions", settings, inputs, who=who, role="instructions", purpose=purpose, means=means)

    def responses(self, teacher: Address, instructions: Address, who: Who) -> Shards:
        """Request the teacher's responses to its instructions."""
        responses = self.settings.responses
        settings = {"sampling": responses.sampling, **self._generation(teacher)}
        inputs = {"teacher": [teacher], "instructions": [instructions]}
        means = self._means(teacher)
        return self._shards(responses.shards, "responses", settings, inputs, who=who, role="responses", means=means)

    def samples(self, teacher: Address, instructions: Address, who: Who, *, limit: int, file: str) -> Shards:
        """Request several responses to each of the first `limit` instructions in the `file` of an artifact."""
        responses = self.settings.responses
        own = responses.samples_temperature
        sampling = responses.sampling.model_copy(update={"temperature": own}) if own else responses.sampling
        settings = {"sampling": sampling, "samples": responses.samples, "limit": limit, "file": file}
        inputs = {"teacher": [teacher], "instructions": [instructions]}
        shards = min(responses.shards, limit)
        settings |= self._generation(teacher)
        return self._shards(shards, "responses", settings, inputs, who=who, role="samples", means=self._means(teacher))

    def split(self, pairs: Shards, who: Who) -> Address:
        """Request the warm-up set and the probing set."""
        sizes = {"warm_up": self.settings.probing.warm_up, "probing": self.settings.probing.probing}
        return self._step("split", sizes, {"pairs": pairs}, who=who, role="split")

    def warm_up(self, student: Address, split: Address, who: Who) -> Address:
        """Request the student after the warm-up set, with its optimiser state."""
        settings = {"training": self.settings.warm_up, **self._student_settings(), "lora": self.settings.student.lora}
        inputs = {"student": [student], "split": [split]}
        return self._step("warm-up", settings, inputs, who=who, role="warm-up", means=self._training_means())

    def reference_inputs(self, warm: Address, reference: Address, who: Who) -> ReferenceInputs:
        """Return the inputs with the reference of an influence: the gradient of the student, the rows, or both."""
        estimator = self.settings.influence.estimator
        reference_inputs: ReferenceInputs = {} if estimator == "taylor" else {"reference": [reference]}
        if estimator != "exact":
            inputs = {"student": [warm], "reference": [reference]}
            settings = self._student_settings()
            gradient = self._step("reference-gradient", settings, inputs, who=who, role="reference gradient")
            reference_inputs["gradient"] = [gradient]
        return reference_inputs

    def influence(self, warm: Address, reference: ReferenceInputs, points: Shards, *, file: str, who: Who) -> Shards:
        """Request the influence of each point on the reference loss of the warmed-up student."""
        block = self.settings.influence
        student = self._student_settings()
        cut = {
            "file": file,
            "limit": self.settings.probing.probing,
            "token_budget": block.token_budget,
            **{name: student[name] for name in ("max_length", "trust_remote_code", "chat")},
        }
        tokens = self._step("tokens", cut, {"student": [warm], "points": points}, who=who, role="tokens")
        settings = {
            **block.model_dump(mode="json", include={"estimator", "exact_dtype", "state_dtype", "token_budget"}),
            **student,
        }
        inputs = {"student": [warm], "tokens": [tokens], **reference}
        return self._shards(block.shards, "influence", settings, inputs, who=who, role="influence")

    def ratings(self, writer: Address, points: Shards, file: str, who: Who) -> Shards:
        """Request a rating of each point by the judge, which may be `writer` itself."""
        rating = self.settings.rating
        if rating.engine == "rule":
            return [self._step("rule", {"file": file}, {"points": points}, who=who, role="ratings")]
        settings: dict[str, Any] = {"file": file, "wording": judging.wording("ratings")}
        settings |= rating.model_dump(mode="json", include={"max_tokens", "tries", "max_unreadable"})
        if rating.engine == "teacher":
            judge, means = writer, self._means(writer)
            settings |= {**self._generation(writer), "remove_thinking": True}
        else:
            judge = self.sources["rating"]
            means = {name: getattr(rating, name).model_dump(mode="json") for name in ("openai", "vllm")}
            means |= {"max_failed": rating.max_failed, "block": "rating."}
            settings |= {"engine": rating.engine, "context": rating.context}
            if rating.engine == "openai":
                settings["endpoint"] = rating.openai.request_identity()
            if rating.engine == "transformers":
                settings["batch_size"] = rating.batch_size
            if rating.engine != "openai":
                settings |= {"dtype": rating.dtype, "trust_remote_code": rating.trust_remote_code, "chat": rating.chat}
        inputs = {"judge": [judge], "points": points}
        shards = self.settings.responses.shards
        return self._shards(shards, "ratings", settings, inputs, who=who, role="ratings", means=means)

    def preferences(self, instructions: Address, scores: Shards, who: Who) -> Address:
        """Request preference pairs of instructions."""
        settings = {"preferences": self.settings.preferences}
        inputs = {"instructions": [instructions], "scores": scores}
        return self._step("preferences", settings, inputs, who=who, role="preferences")

    def preferred_responses(self, responses: Shards, scores: Shards, who: Who, **changes: str) -> Address:
        """Request preference pairs of responses. `changes` are changes of the preference settings."""
        settings = {"preferences": self.settings.preferences.model_copy(update=changes), "outputs": "responses"}
        inputs = {"responses": responses, "scores": scores}
        return self._step("preferences", settings, inputs, who=who, role="preferences")

    def update_teacher(self, teacher: Address, preferences: Address, who: Who) -> Address:
        """Request the teacher after DPO."""
        model = self.settings.teacher
        assert model, "the settings have a teacher wherever one is tuned"
        settings = {"dpo": self.settings.dpo, "max_length": model.max_length, "lora": model.lora}
        settings |= self._loading_settings(model)
        inputs = {"teacher": [teacher], "preferences": [preferences]}
        return self._step("teacher", settings, inputs, who=who, role="DPO of the teacher", means=self._training_means())

    def bootstrap(self, teacher: Address, instructions: Address, scores: Shards, who: Who) -> Address:
        """Request the teacher after fine-tuning on its own best outputs."""
        model = self.settings.teacher
        assert model, "the settings have a teacher wherever one is tuned"
        settings: dict[str, Any] = {"training": self.settings.bootstrap, "preferences": self.settings.preferences}
        settings |= {"max_length": model.max_length, "lora": model.lora, **self._loading_settings(model)}
        inputs = {"teacher": [teacher], "instructions": [instructions], "scores": scores}
        return self._step("bootstrap", settings, inputs, who=who, role="bootstrap", means=self._training_means())

    def mistakes(self, student: Address, pairs: Shards, who: Who) -> Address:
        """Request the points of its training set that the student gets wrong, as few-shot examples for a teacher."""
        block = self.settings.instructions
        settings = {"evaluation": self.settings.evaluation, "least": block.seed_shots + block.generated_shots}
        inputs = {"student": [student], "pairs": pairs}
        return self._step("mistakes", settings | self._student_settings(), inputs, who=who, role="mistakes")

    def union(self, old: Shards, mistakes: Address, new: Shards, who: Who) -> Address:
        """Request a training set with all `new` points, filled up with `old` ones."""
        inputs = {"old": old, "mistakes": [mistakes], "new": new}
        return self._step("union", {"size": self.settings.training_size}, inputs, who=who, role="training set")

    def train_student(self, student: Address, pairs: Shards, who: Who, purpose: str = "") -> Address:
        """Request the base student fine-tuned on a training set. `purpose` gives it a seed of its own."""
        settings = {"training": self.settings.sft, **self._student_settings(), "lora": self.settings.student.lora}
        inputs, means = {"student": [student], "pairs": pairs}, self._training_means()
        return self._step("student", settings, inputs, who=who, role="student", purpose=purpose, means=means)

    def checkpoint(self, student: Address, pairs: Shards, share: float, who: Who) -> Address:
        """Request the student of `train_student` after `share` of its steps, with its optimiser state."""
        settings = {"training": self.settings.sft.model_copy(update={"stop": share}), "file": "pairs.parquet"}
        settings |= {**self._student_settings(), "lora": self.settings.student.lora}
        inputs = {"student": [student], "pairs": pairs}
        return self._step("warm-up", settings, inputs, who=who, role="checkpoint", means=self._training_means())

    def evaluate(self, student: Address, reference: Address, test: Address | None, who: Who) -> Address:
        """Request the student's metrics."""
        settings = {"evaluation": self.settings.evaluation, **self._student_settings()}
        inputs = {"student": [student], "reference": [reference], "test": [test] if test else []}
        return self._step("evaluation", settings, inputs, who=who, role="evaluation")

    def report(self, systems: Sequence[Who], inputs: dict[str, list[Address]]) -> Address:
        """Request the run's own artifact, kept as `runs/<name>-<digits>`."""
        inputs = {**inputs, "stages": list(self.requests)}
        kept_as = f"runs/{self.settings.name}"
        settings = {"run": self._run_settings(), "systems": [_reported(who) for who in systems]}
        return self._step("report", settings, inputs, role="report", kept_as=kept_as)

    def refresh(self, night: str, systems: Sequence[Who], inputs: dict[str, list[Address]]) -> Address:
        """Request the comparison of a night, kept as `refreshes/<name>-<night>-<digits>`."""
        inputs = {**inputs, "stages": list(self.requests)}
        kept_as = f"refreshes/{self.settings.name}-{night}"
        settings = {**self._night_settings(night), "systems": [_reported(who) for who in systems]}
        return self._step("refresh", settings, inputs, role=f"night {night}", kept_as=kept_as)

    def night_digits(self, night: str) -> str:
        """Return eight digits that identify a night by its settings and sources, without the champion."""
        inputs = {role: [address] for role, address in self.sources.items()}
        builder = Requests()
        address = builder.add("refresh", self._night_settings(night), inputs, seed=self.settings.seed)
        return builder.by_address[address].fingerprint[:8]

    def _night_settings(self, night: str) -> dict[str, Any]:
        refresh = self.settings.refresh.model_dump(mode="json")
        return {"run": {**self._run_settings(), "refresh": refresh}, "night": night}

    def _run_settings(self) -> dict[str, Any]:
        """Return the settings without those that change no artifact of a run."""
        run = identity(self.settings)
        run["compute"] = {"threads": self.settings.compute.threads}
        for role, address in self.sources.items():
            if address.startswith("file:"):  # absolute, since a replay may start in another folder
                block, _, name = role.partition(".")
                (run[block][name] if name else run[block])["source"] = location(address)
        return run

    def _generation(self, teacher: Address) -> dict[str, Any]:
        """Return the settings of a task in which `teacher` generates."""
        generation, model = self.settings.generation, self.settings.teacher
        thinking = {"remove_thinking": generation.remove_thinking}
        if teacher == self.endpoint() or model is None:
            return {"engine": "openai", "endpoint": generation.openai.request_identity(), **thinking}
        engine = generation.tuned_engine if generation.engine == "openai" else generation.engine
        batch = {"batch_size": generation.batch_size} if engine == "transformers" else {}
        return {"engine": engine, "context": generation.context, **batch, **self._loading_settings(model), **thinking}

    def _means(self, teacher: Address) -> dict[str, Any]:
        """Return the means of a task in which `teacher` generates. They do not change its result."""
        generation = self.settings.generation
        if teacher == self.endpoint():
            return {"openai": generation.openai.model_dump(mode="json"), "max_failed": generation.max_failed}
        return {"vllm": generation.vllm.model_dump(mode="json")}

    def _training_means(self) -> dict[str, Any]:
        """Return the number of processes of a training, if there are several."""
        count = self.settings.compute.training_processes
        return {"training_processes": count} if count > 1 else {}

    def _loading_settings(self, model: Model) -> dict[str, Any]:
        return {"dtype": model.dtype, "trust_remote_code": model.trust_remote_code, "chat": model.chat}

    def _student_settings(self) -> dict[str, Any]:
        student = self.settings.student
        return {"max_length": student.max_length, **self._loading_settings(student)}

    def _shards(self, count: int, *arguments: Any, **named: Any) -> Shards:
        return [self._step(*arguments, **named, shard=(index, count)) for index in range(count)]

    def _step(
        self,
        task: str,
        settings: dict[str, Any],
        inputs: dict[str, list[Address]],
        *,
        role: str,
        who: Who = NOBODY,
        purpose: str = "",
        **more: Any,
    ) -> Address:
        seed = _seed(self.settings.seed, purpose)
        return self._builder.add(task, settings, inputs, seed=seed, who=who, role=role, **more)


def _reported(who: Who) -> dict[str, Any]:
    """Return a system as a report's settings have it."""
    return ReportedSystem(name=who.name, **asdict(who)).model_dump(mode="json")


def _seed(seed: int, purpose: str) -> int:
    """Return the run's seed, or a seed derived from it for a purpose with its own randomness."""
    if not purpose:
        return seed
    return int.from_bytes(hashlib.sha256(f"{seed} {purpose}".encode()).digest()[:4], "big") % 2**31
