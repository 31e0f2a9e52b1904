"""The tasks of a run, one method each: the settings that a task reads and the artifacts that it is given.

Each method returns the address of its artifact.
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

Against = dict[str, list[Address]]  # by the name of the input


class Steps:
    """The tasks of one run with `settings`; `sources` are the addresses from `montessori.data.sources`."""

    def __init__(self, settings: Settings, sources: dict[str, str], cell: str = ""):
        """`cell` names the study's cell that the run is."""
        self.settings, self.sources = settings, sources
        self._asked = Requests(cell)

    @property
    def requests(self) -> dict[Address, Request]:
        """All requests so far, in the order in which they were asked for."""
        return self._asked.by_address

    def hold_to_budget(self) -> None:
        """Let all requests so far be held to the settings' budget together."""
        self._asked.hold_to(self.settings.budget)

    def for_student(self, name: str) -> "Steps":
        """The steps of the same run with the student `transfer.<name>` in place of its own."""
        other = copy(self)
        other.settings = self.settings.model_copy(update={"student": self.settings.transfer[name]})
        other.sources = self.sources | {"student": self.sources.get(f"transfer.{name}", "")}
        return other

    def rows(self, role: str, source: DataSource) -> Address:
        """Seeds, reference set or test points."""
        if source.source == POCKET:
            settings: dict[str, Any] = {"pocket": getattr(self.settings.pocket, role)}
        else:
            settings = {"split": source.split, "skip": source.skip, "limit": source.limit}
        return self._step(role, NOBODY, role, settings, {"source": [self.sources[role]]})

    def endpoint(self) -> Address | None:
        """The model behind an endpoint that writes in place of the base teacher, if there is one."""
        openai = self.settings.generation.openai
        return f"api:{openai.model}@{openai.base_url}" if self.settings.generation.engine == "openai" else None

    def base_model(self, role: str, model: Model, seeds: Address) -> Address:
        """The teacher or student to start from: as it is, or trained from nothing."""
        if model.scratch is None:
            return self.sources[role]
        inputs = {} if self.sources["seeds"] == POCKET else {"seeds": [seeds]}
        settings = {"scratch": model.scratch, "prompt": prompts.wording() if role == "teacher" else ""}
        return self._step(f"scratch-{role}", NOBODY, f"{role} from scratch", settings, inputs)

    def instructions(self, teacher: Address, seeds: Address, target: int, purpose: str, who: Who) -> Address:
        """New instructions by the teacher, or by what an endpoint has; `purpose` makes their randomness their own."""
        settings = {
            "instructions": self.settings.instructions,
            "target": target,
            "prompt": prompts.wording(),
            **self._writing(teacher),
        }
        inputs = {"teacher": [teacher], "seeds": [seeds]}
        means = self._at_hand(teacher)
        return self._step("instructions", who, "instructions", settings, inputs, purpose=purpose, means=means)

    def responses(self, teacher: Address, instructions: Address, who: Who) -> Shards:
        """The teacher's answers to its instructions."""
        asked = self.settings.responses
        settings = {"sampling": asked.sampling, **self._writing(teacher)}
        inputs = {"teacher": [teacher], "instructions": [instructions]}
        means = self._at_hand(teacher)
        return self._shards(asked.shards, "responses", who, "responses", settings, inputs, means=means)

    def samples(self, teacher: Address, written: Address, who: Who, limit: int, file: str) -> Shards:
        """Several answers to each of the first `limit` instructions in the file of `written`."""
        asked = self.settings.responses
        own = asked.samples_temperature
        sampling = asked.sampling.model_copy(update={"temperature": own}) if own else asked.sampling
        settings = {"sampling": sampling, "samples": asked.samples, "limit": limit, "file": file}
        inputs = {"teacher": [teacher], "instructions": [written]}
        shards = min(asked.shards, limit)
        settings |= self._writing(teacher)
        return self._shards(shards, "responses", who, "samples", settings, inputs, means=self._at_hand(teacher))

    def split(self, pairs: Shards, who: Who) -> Address:
        """Warm-up set and probing set."""
        sizes = {"warm_up": self.settings.probing.warm_up, "probing": self.settings.probing.probing}
        return self._step("split", who, "split", sizes, {"pairs": pairs})

    def warm_up(self, student: Address, split: Address, who: Who) -> Address:
        """The student after the warm-up set, with its optimiser state."""
        settings = {"training": self.settings.warm_up, **self._student(), "lora": self.settings.student.lora}
        inputs = {"student": [student], "split": [split]}
        return self._step("warm-up", who, "warm-up", settings, inputs, means=self._processes())

    def measured_against(self, warm: Address, reference: Address, who: Who) -> Against:
        """What influence is measured against: ∇L of the warmed-up student, the reference set itself, or both."""
        estimator = self.settings.influence.estimator
        against: Against = {} if estimator == "taylor" else {"reference": [reference]}
        if estimator != "exact":
            inputs = {"student": [warm], "reference": [reference]}
            gradient = self._step("reference-gradient", who, "reference gradient", self._student(), inputs)
            against["gradient"] = [gradient]
        return against

    def influence(self, warm: Address, against: Against, points: Shards, file: str, who: Who) -> Shards:
        """How much each point lowers the reference loss of the warmed-up student."""
        asked = self.settings.influence
        student = self._student()
        cut = {
            "file": file,
            "limit": self.settings.probing.probing,
            "token_budget": asked.token_budget,
            "max_length": student["max_length"],
            "trust_remote_code": student["trust_remote_code"],
        }
        tokens = self._step("tokens", who, "tokens", cut, {"student": [warm], "points": points})
        settings = {
            **asked.model_dump(mode="json", include={"estimator", "exact_dtype", "state_dtype", "token_budget"}),
            **student,
        }
        inputs = {"student": [warm], "tokens": [tokens], **against}
        return self._shards(asked.shards, "influence", who, "influence", settings, inputs)

    def ratings(self, writer: Address, points: Shards, file: str, who: Who) -> Shards:
        """How a judge, which may be `writer` itself, rates each point."""
        asked = self.settings.rating
        if asked.engine == "rule":
            return [self._step("rule", who, "ratings", {"file": file}, {"points": points})]
        settings: dict[str, Any] = {"file": file, "wording": judging.wording("ratings")}
        settings |= asked.model_dump(mode="json", include={"max_tokens", "tries", "max_unreadable"})
        if asked.engine == "teacher":
            judge, means = writer, self._at_hand(writer)
            settings |= self._writing(writer)
        else:
            judge = self.sources["rating"]
            means = {"openai": asked.openai.model_dump(mode="json"), "vllm": asked.vllm.model_dump(mode="json")}
            settings |= {"engine": asked.engine, "context": asked.context}
            if asked.engine == "transformers":
                settings["batch_size"] = asked.batch_size
            if asked.engine != "openai":
                settings |= {"dtype": asked.dtype, "trust_remote_code": asked.trust_remote_code}
        inputs = {"judge": [judge], "points": points}
        return self._shards(self.settings.responses.shards, "ratings", who, "ratings", settings, inputs, means=means)

    def preferences(self, instructions: Address, scores: Shards, who: Who) -> Address:
        """Pairs of instructions."""
        settings = {"preferences": self.settings.preferences}
        inputs = {"instructions": [instructions], "scores": scores}
        return self._step("preferences", who, "preferences", settings, inputs)

    def preferred_responses(self, responses: Shards, scores: Shards, who: Who, **changes: str) -> Address:
        """Pairs of responses to one instruction; `changes` are to the settings."""
        settings = {"preferences": self.settings.preferences.model_copy(update=changes), "outputs": "responses"}
        inputs = {"responses": responses, "scores": scores}
        return self._step("preferences", who, "preferences", settings, inputs)

    def update_teacher(self, teacher: Address, preferences: Address, who: Who) -> Address:
        """The teacher after DPO."""
        model = self.settings.teacher
        assert model, "the settings have a teacher wherever one is tuned"
        settings = {"dpo": self.settings.dpo, "max_length": model.max_length, "lora": model.lora}
        settings |= self._loading(model)
        inputs = {"teacher": [teacher], "preferences": [preferences]}
        return self._step("teacher", who, "DPO of the teacher", settings, inputs, means=self._processes())

    def bootstrap(self, teacher: Address, instructions: Address, scores: Shards, who: Who) -> Address:
        """The teacher after fine-tuning on its own best outputs."""
        model = self.settings.teacher
        assert model, "the settings have a teacher wherever one is tuned"
        settings: dict[str, Any] = {"training": self.settings.bootstrap, "preferences": self.settings.preferences}
        settings |= {"max_length": model.max_length, "lora": model.lora, **self._loading(model)}
        inputs = {"teacher": [teacher], "instructions": [instructions], "scores": scores}
        return self._step("bootstrap", who, "bootstrap", settings, inputs, means=self._processes())

    def mistakes(self, student: Address, pairs: Shards, who: Who) -> Address:
        """What the student gets wrong of what it has learned from; fit to be shown to a teacher."""
        shown = self.settings.instructions
        settings = {"evaluation": self.settings.evaluation, "least": shown.seed_shots + shown.generated_shots}
        inputs = {"student": [student], "pairs": pairs}
        return self._step("mistakes", who, "mistakes", settings | self._student(), inputs)

    def union(self, old: Shards, mistakes: Address, new: Shards, who: Who) -> Address:
        """A training set with all of `new`, filled up with `old`."""
        inputs = {"old": old, "mistakes": [mistakes], "new": new}
        return self._step("union", who, "training set", {"size": self.settings.training_size}, inputs)

    def train_student(self, student: Address, pairs: Shards, who: Who, purpose: str = "") -> Address:
        """The base student fine-tuned on a training set; `purpose` makes the randomness its own."""
        settings = {"training": self.settings.sft, **self._student(), "lora": self.settings.student.lora}
        inputs = {"student": [student], "pairs": pairs}
        return self._step("student", who, "student", settings, inputs, purpose=purpose, means=self._processes())

    def checkpoint(self, student: Address, pairs: Shards, share: float, who: Who) -> Address:
        """The student as `train_student` has it after `share` of its steps, with its optimiser state."""
        settings = {"training": self.settings.sft.model_copy(update={"stop": share}), "file": "pairs.parquet"}
        settings |= {**self._student(), "lora": self.settings.student.lora}
        inputs = {"student": [student], "pairs": pairs}
        return self._step("warm-up", who, "checkpoint", settings, inputs, means=self._processes())

    def evaluate(self, student: Address, reference: Address, test: Address | None, who: Who) -> Address:
        """The student's numbers."""
        settings = {"evaluation": self.settings.evaluation, **self._student()}
        inputs = {"student": [student], "reference": [reference], "test": [test] if test else []}
        return self._step("evaluation", who, "evaluation", settings, inputs)

    def report(self, systems: Sequence[Who], inputs: dict[str, list[Address]]) -> Address:
        """The run itself: `run.yaml`, `summary.json`, `report.html` and figures, kept as `runs/<name>-<digits>`."""
        made = {**inputs, "stages": list(self.requests)}
        kept_as = f"runs/{self.settings.name}"
        settings = {"run": self._run(), "systems": [_reported(who) for who in systems]}
        return self._step("report", NOBODY, "report", settings, made, kept_as=kept_as)

    def refresh(self, night: str, systems: Sequence[Who], inputs: dict[str, list[Address]]) -> Address:
        """A night's comparison, with a run's files, kept as `refreshes/<name>-<night>-<digits>`."""
        made = {**inputs, "stages": list(self.requests)}
        kept_as = f"refreshes/{self.settings.name}-{night}"
        settings = {**self._night(night), "systems": [_reported(who) for who in systems]}
        return self._step("refresh", NOBODY, f"night {night}", settings, made, kept_as=kept_as)

    def digits_of(self, night: str) -> str:
        """What tells a night with these settings and sources from one with others, whatever champion it begins with."""
        asked = {role: [address] for role, address in self.sources.items()}
        apart = Requests()
        address = apart.add("refresh", self._night(night), asked, seed=self.settings.seed)
        return apart.by_address[address].fingerprint[:8]

    def _night(self, night: str) -> dict[str, Any]:
        return {"run": {**self._run(), "refresh": self.settings.refresh.model_dump(mode="json")}, "night": night}

    def _run(self) -> dict[str, Any]:
        """The settings, but for those that change no artifact of a run."""
        run = identity(self.settings)
        run["compute"] = {"threads": self.settings.compute.threads}
        for role, address in self.sources.items():
            if address.startswith("file:"):  # a replay may start in another folder
                block, _, name = role.partition(".")
                (run[block][name] if name else run[block])["source"] = location(address)
        return run

    def _writing(self, teacher: Address) -> dict[str, Any]:
        """What a stage in which `teacher` writes reads of the settings."""
        asked, model = self.settings.generation, self.settings.teacher
        if teacher == self.endpoint() or model is None:
            return {"engine": "openai"}
        engine = asked.tuned_engine if asked.engine == "openai" else asked.engine
        batch = {"batch_size": asked.batch_size} if engine == "transformers" else {}
        return {"engine": engine, "context": asked.context, **batch, **self._loading(model)}

    def _at_hand(self, teacher: Address) -> dict[str, Any]:
        """What such a stage works with, that changes nothing about its result."""
        asked = self.settings.generation
        if teacher == self.endpoint():
            return {"openai": asked.openai.model_dump(mode="json")}
        return {"vllm": asked.vllm.model_dump(mode="json")}

    def _processes(self) -> dict[str, Any]:
        """How many processes a training is shared out to."""
        count = self.settings.compute.training_processes
        return {"training_processes": count} if count > 1 else {}

    def _loading(self, model: Model) -> dict[str, Any]:
        return {"dtype": model.dtype, "trust_remote_code": model.trust_remote_code}

    def _student(self) -> dict[str, Any]:
        student = self.settings.student
        return {"max_length": student.max_length, **self._loading(student)}

    def _shards(self, count: int, *arguments: Any, **named: Any) -> Shards:
        return [self._step(*arguments, **named, shard=(index, count)) for index in range(count)]

    def _step(
        self,
        task: str,
        who: Who,
        role: str,
        settings: dict[str, Any],
        inputs: dict[str, list[Address]],
        *,
        purpose: str = "",
        **more: Any,
    ) -> Address:
        seed = _seed(self.settings.seed, purpose)
        return self._asked.add(task, settings, inputs, seed=seed, who=who, role=role, **more)


def _reported(who: Who) -> dict[str, Any]:
    """Return a system as a report's settings have it."""
    return ReportedSystem(name=who.name, **asdict(who)).model_dump(mode="json")


def _seed(seed: int, purpose: str) -> int:
    """The run's seed, or one derived from it for a purpose that must not share its randomness."""
    if not purpose:
        return seed
    return int.from_bytes(hashlib.sha256(f"{seed} {purpose}".encode()).digest()[:4], "big") % 2**31
