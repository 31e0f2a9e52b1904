"""Plan `montessori evaluate`: the requests that measure each model on a suite, and their scorecard.

Each request comes after the requests of its inputs. Two evaluations share their common artifacts, so no model is
measured twice on the same benchmark.
"""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from flows.requests.builder import NOBODY, Address, Requests, Who
from montessori.artifacts import Request
from montessori.evaluation import judging
from montessori.evaluation.subjects import Subject
from montessori.settings.base import identity
from montessori.settings.data import DataSource, Part
from montessori.settings.generation import Sampling
from montessori.settings.judge import Judge
from montessori.settings.run import Evaluation
from montessori.settings.suite import Benchmark, Suite

JUDGED = ("verdicts", "grades")  # the tasks of the judge
# MT-Bench's own temperatures, by category (FastChat, llm_judge/common.py).
TEMPERATURES = {
    **dict.fromkeys(("writing", "roleplay"), 0.7),
    **dict.fromkeys(("extraction", "math", "coding", "reasoning"), 0.0),
    **dict.fromkeys(("stem", "humanities"), 0.1),
}


def plan(
    suite: Suite,
    subjects: Sequence[Subject],
    baseline: str | None,
    addresses: dict[str, Address],
    *,
    command: str = "",
    cell: str = "",
) -> dict[Address, Request]:
    """Return the requests that measure these models on `suite`, the scorecard last.

    `baseline` is the label of a model, `reference` for AlpacaEval's reference answers, or None. `addresses` are those
    of the suite's files, hub names and judge. `command` is shown on the page. `cell` is the cell of a study.
    """
    return _Planner(suite, subjects, baseline, addresses=addresses, cell=cell).plan(command)


class _Planner:
    """Collects the requests of an evaluation."""

    def __init__(
        self,
        suite: Suite,
        subjects: Sequence[Subject],
        baseline: str | None,
        *,
        addresses: dict[str, Address],
        cell: str,
    ):
        self._suite, self._subjects, self._baseline, self._addresses = suite, subjects, baseline, addresses
        self._builder = Requests(cell)
        self._inputs: dict[str, list[Address]] = {}  # of the scorecard
        self._loading = {"dtype": suite.dtype, "trust_remote_code": suite.trust_remote_code}
        self._chat = {**self._loading, "chat": suite.chat}
        self._question_sets: dict[str, Address] = {}  # of AlpacaEval and MT-Bench

    def plan(self, command: str) -> dict[Address, Request]:
        """Return all requests, the scorecard last."""
        for number, subject in enumerate(self._subjects):
            self._losses(number, subject)
            for name, benchmark in self._suite.benchmarks.items():
                self._benchmark(number, subject, name, benchmark)
        self._alpaca_eval()
        self._mt_bench()
        self._people()
        self._scorecard(command, self._overlaps())
        self._builder.set_budget(self._suite.budget, JUDGED)
        return self._builder.by_address

    def _losses(self, number: int, subject: Subject) -> None:
        """Add the reference loss: the run's own, or a new one if the suite has a reference set."""
        if "reference" not in self._addresses and subject.metrics:
            self._inputs[f"{number}:losses"] = [subject.metrics]
            return
        if "reference" not in self._addresses:
            return
        source = self._suite.reference
        assert source, "it has an address"
        inputs = {"source": [self._addresses["reference"]]}
        rows = self._add("reference", source.part(), inputs, role="reference set")
        settings = {"evaluation": Evaluation(), "max_length": self._suite.max_length, **self._chat}
        inputs = {"student": [subject.address], "reference": [rows], "test": []}
        losses = self._add("evaluation", settings, inputs, role="losses", who=Who(subject.label))
        self._inputs[f"{number}:losses"] = [losses]

    def _benchmark(self, number: int, subject: Subject, name: str, benchmark: Benchmark) -> None:
        settings = {
            **benchmark.model_dump(mode="json", include={"task", "metric", "shots", "limit"}),
            "engine": self._suite.engine,
            "batch_size": self._suite.batch_size,
            **self._loading,
        }
        inputs = {"model": [subject.address]}
        for role in ("data", "shots"):
            if f"{name}:{role}" in self._addresses:
                inputs[role] = [self._addresses[f"{name}:{role}"]]
        means = {"vllm": self._suite.vllm.model_dump(mode="json"), "field": f"benchmarks.{name}"}  # for errors
        self._inputs[f"{number}:{name}"] = self._shards(
            benchmark.shards, "benchmark", settings, inputs, role=name, who=Who(subject.label), means=means
        )

    def _alpaca_eval(self) -> None:
        benchmark = self._suite.alpaca_eval
        if not benchmark or not self._suite.judge:
            return
        shards = benchmark.shards
        questions = self._questions("alpaca_eval", benchmark.questions, "AlpacaEval's instructions")
        answers = {
            subject.label: self._answers(
                subject, questions, "AlpacaEval", sampling=benchmark.sampling, temperatures=None, shards=shards
            )
            for subject in self._subjects
        }
        for number, subject in enumerate(self._subjects):
            self._inputs[f"{number}:alpaca_eval"] = []
            if subject.label != self._baseline:
                left = {"left": answers[self._baseline]} if self._baseline in answers else {"baseline": [questions]}
                inputs = {**left, "right": answers[subject.label]}
                if "baseline" in self._addresses and self._baseline not in answers:
                    inputs["baseline"] = [self._outputs()]
                role = f"{subject.label} against {self._baseline}"
                self._inputs[f"{number}:alpaca_eval"] = self._verdicts(role, inputs, shards, both_orders=False)
        if self._suite.head_to_head:
            for (i, left_), (j, right) in itertools.combinations(enumerate(self._subjects), 2):
                inputs = {"left": answers[left_.label], "right": answers[right.label]}
                role = f"{left_.label} or {right.label}"
                self._inputs[f"{i}:{j}:duel"] = self._verdicts(role, inputs, shards, both_orders=True)

    def _outputs(self) -> Address:
        settings = {"kind": "alpaca_eval", **Part().model_dump()}
        inputs = {"source": [self._addresses["baseline"]]}
        return self._add("questions", settings, inputs, role="the baseline's answers")

    def _mt_bench(self) -> None:
        benchmark = self._suite.mt_bench
        if not benchmark or not self._suite.judge:
            return
        references = {"references": [self._addresses["mt_references"]]} if "mt_references" in self._addresses else {}
        shards = benchmark.shards
        questions = self._questions("mt_bench", benchmark.questions, "MT-Bench's questions", references)
        sampling = Sampling(temperature=0.7, top_p=1, presence_penalty=0, max_tokens=benchmark.max_tokens)
        for number, subject in enumerate(self._subjects):
            answers = self._answers(
                subject, questions, "MT-Bench", sampling=sampling, temperatures=TEMPERATURES, shards=shards
            )
            inputs = {"answers": answers, "questions": [questions]}
            self._inputs[f"{number}:mt_bench"] = self._judged(
                shards, "grades", {}, inputs, role="grades", who=Who(subject.label)
            )

    def _people(self) -> None:
        if "people" not in self._addresses or not self._suite.judge:
            return
        sides = {
            side: [
                self._add(
                    "people",
                    {"side": side},
                    {"source": [self._addresses["people"]]},
                    role=f"pairs that people judged, {side}",
                )
            ]
            for side in ("left", "right")
        }
        self._inputs["people"] = [self._addresses["people"]]
        self._inputs["people:verdicts"] = self._verdicts("what people judged", sides, 1, both_orders=True)

    def _overlaps(self) -> list[str]:
        """Add the overlap of each training set with all questions; return the names of the training sets."""
        sets = {subject.label: list(subject.data) for subject in self._subjects if subject.data}
        if "trained_on" in self._addresses:
            source = self._suite.trained_on
            assert source, "it has an address"
            inputs = {"source": [self._addresses["trained_on"]]}
            rows = self._add("points", source.part(), inputs, role="training data")
            sets = {source.source: [rows]}
        names = [name for name in self._suite.benchmarks for _ in self._inputs[f"0:{name}"]]
        items = [address for name in self._suite.benchmarks for address in self._inputs[f"0:{name}"]]
        if not items and not self._question_sets:
            return []
        for number, (label, pairs) in enumerate(sets.items()):
            settings = {"items": names, "questions": list(self._question_sets)}
            inputs = {"pairs": pairs, "items": items, "questions": list(self._question_sets.values())}
            self._inputs[f"{number}:overlap"] = [self._add("overlap", settings, inputs, role=f"overlap of {label}")]
        return list(sets)

    def _scorecard(self, command: str, training_sets: list[str]) -> None:
        settings = {
            "suite": identity(self._suite),
            "models": [subject.label for subject in self._subjects],
            "baseline": self._baseline,
        }
        if "difficulties" in self._addresses:
            self._inputs["difficulties"] = [self._addresses["difficulties"]]
        tasks = list(self._builder.by_address)
        inputs = {**self._inputs, "stages": tasks, "models": [s.address for s in self._subjects]}
        self._builder.add(
            "scorecard",
            settings,
            inputs,
            seed=self._suite.seed,
            means={"command": command, "training_sets": training_sets},
            kept_as=f"evaluations/{self._suite.name}",
        )

    def _questions(
        self, kind: str, source: DataSource, role: str, more: dict[str, list[Address]] | None = None
    ) -> Address:
        inputs = {"source": [self._addresses[kind]], **(more or {})}
        self._question_sets[kind] = self._add("questions", {"kind": kind, **source.part()}, inputs, role=role)
        return self._question_sets[kind]

    def _answers(
        self,
        subject: Subject,
        questions: Address,
        name: str,
        *,
        sampling: Sampling,
        temperatures: dict[str, float] | None,
        shards: int,
    ) -> list[Address]:
        batch = {"batch_size": self._suite.batch_size} if self._suite.engine == "transformers" else {}
        settings = {
            "engine": self._suite.engine,
            "context": None,
            **batch,
            **self._chat,
            "sampling": sampling,
            "temperatures": temperatures,
        }
        inputs = {"teacher": [subject.address], "questions": [questions]}
        means = {"vllm": self._suite.vllm.model_dump(mode="json")}
        who, role = Who(subject.label), f"answers to {name}"
        return self._shards(shards, "answers", settings, inputs, role=role, who=who, means=means)

    def _verdicts(self, role: str, inputs: dict[str, list[Address]], shards: int, both_orders: bool) -> list[Address]:
        return self._judged(shards, "verdicts", {"both_orders": both_orders}, inputs, role=role)

    def _judged(
        self,
        count: int,
        task: str,
        settings: dict[str, Any],
        inputs: dict[str, list[Address]],
        *,
        role: str,
        who: Who = NOBODY,
    ) -> list[Address]:
        judge = self._suite.judge
        assert judge, "nothing is judged without one"
        whole = {**settings, **_judge_settings(judge, task)}
        inputs = {"judge": [self._addresses["judge"]], **inputs}
        if task == "grades" and "prompts" in self._addresses:
            inputs["prompts"] = [self._addresses["prompts"]]
        means = {name: getattr(judge, name).model_dump(mode="json") for name in ("openai", "vllm")}
        means["max_failed"] = judge.max_failed
        return self._shards(count, task, whole, inputs, role=role, who=who, means=means)

    def _shards(
        self,
        count: int,
        task: str,
        settings: dict[str, Any],
        inputs: dict[str, list[Address]],
        *,
        role: str,
        who: Who,
        means: dict[str, Any],
    ) -> list[Address]:
        return [
            self._add(task, settings, inputs, role=role, who=who, means=means, shard=(index, count))
            for index in range(count)
        ]

    def _add(
        self,
        task: str,
        settings: dict[str, Any],
        inputs: Mapping[str, list[Address]],
        *,
        role: str,
        who: Who = NOBODY,
        means: dict[str, Any] | None = None,
        shard: tuple[int, int] = (0, 1),
    ) -> Address:
        return self._builder.add(
            task, settings, inputs, seed=self._suite.seed, who=who, role=role, shard=shard, means=means
        )


def _judge_settings(judge: Judge, task: str) -> dict[str, Any]:
    batch = {"batch_size": judge.batch_size} if judge.engine == "transformers" else {}
    loading: dict[str, Any] = {"endpoint": judge.openai.request_identity()}
    if judge.engine != "openai":
        loading = {"dtype": judge.dtype, "trust_remote_code": judge.trust_remote_code, "chat": judge.chat}
    return {
        "engine": judge.engine,
        "context": judge.context,
        **batch,
        **loading,
        "max_tokens": judge.max_tokens,
        "tries": judge.tries,
        "max_unreadable": judge.max_unreadable,
        "wording": judging.wording(task),
    }
