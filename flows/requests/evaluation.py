"""The stages of `montessori evaluate`: what each model is measured by, and the scorecard of them all.

In: a suite and the models.  Out: requests, each after those that make its inputs. What two evaluations share is one
artifact, so no model is scored twice on the same thing.
"""

import itertools
from collections.abc import Sequence
from typing import Any

from flows.requests.builder import NOBODY, Address, Requests, Who
from montessori.artifacts import Request
from montessori.evaluation import judging
from montessori.evaluation.subjects import Subject
from montessori.settings.base import identity
from montessori.settings.data import DataSource
from montessori.settings.generation import Sampling
from montessori.settings.judge import Judge
from montessori.settings.run import Evaluation
from montessori.settings.suite import Benchmark, Suite

JUDGED = ("verdicts", "grades")  # the stages in which the judge is asked
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
    command: str = "",
    cell: str = "",
) -> dict[Address, Request]:
    """Return the requests that measure these models on `suite`, the scorecard last.

    `baseline` is a model's label, or `reference` for AlpacaEval's reference answers, or None; `addresses` are of what
    the suite names (its files, hub names and judge); `command` is what the page says that it was made by; `cell` is
    the cell of a study.
    """
    return _Planner(suite, subjects, baseline, addresses, cell).plan(command)


class _Planner:
    """The requests so far, and what they share."""

    def __init__(
        self,
        suite: Suite,
        subjects: Sequence[Subject],
        baseline: str | None,
        addresses: dict[str, Address],
        cell: str,
    ):
        self._suite, self._subjects, self._baseline, self._found = suite, subjects, baseline, addresses
        self._asked_for = Requests(cell)
        self._inputs: dict[str, list[Address]] = {}  # of the scorecard
        self._loading = {"dtype": suite.dtype, "trust_remote_code": suite.trust_remote_code}
        self._asked: dict[str, Address] = {}  # the questions of AlpacaEval and MT-Bench

    def plan(self, command: str) -> dict[Address, Request]:
        """Ask for everything."""
        for number, subject in enumerate(self._subjects):
            self._losses(number, subject)
            for name, benchmark in self._suite.benchmarks.items():
                self._benchmark(number, subject, name, benchmark)
        self._alpaca_eval()
        self._mt_bench()
        self._people()
        self._scorecard(command, self._overlaps())
        self._asked_for.hold_to(self._suite.budget, JUDGED)
        return self._asked_for.by_address

    def _losses(self, number: int, subject: Subject) -> None:
        """The reference loss: as its run has measured it, where no other reference set is asked for."""
        if "reference" not in self._found and subject.metrics:
            self._inputs[f"{number}:losses"] = [subject.metrics]
            return
        if "reference" not in self._found:
            return
        source = self._suite.reference
        assert source, "its address was found"
        rows = self._add("reference", NOBODY, "reference set", _cut(source), {"source": [self._found["reference"]]})
        settings = {"evaluation": Evaluation(), "max_length": self._suite.max_length, **self._loading}
        inputs: dict[str, list[Address]] = {"student": [subject.address], "reference": [rows], "test": []}
        self._inputs[f"{number}:losses"] = [self._add("evaluation", Who(subject.label), "losses", settings, inputs)]

    def _benchmark(self, number: int, subject: Subject, name: str, benchmark: Benchmark) -> None:
        settings = {
            **benchmark.model_dump(mode="json", include={"task", "metric", "shots", "limit"}),
            "engine": self._suite.engine,
            "batch_size": self._suite.batch_size,
            **self._loading,
        }
        inputs = {"model": [subject.address]}
        for role in ("data", "shots"):
            if f"{name}:{role}" in self._found:
                inputs[role] = [self._found[f"{name}:{role}"]]
        means = {"vllm": self._suite.vllm.model_dump(mode="json"), "field": f"benchmarks.{name}"}  # for errors
        self._inputs[f"{number}:{name}"] = self._shards(
            benchmark.shards, "benchmark", Who(subject.label), name, settings, inputs, means
        )

    def _alpaca_eval(self) -> None:
        asked = self._suite.alpaca_eval
        if not asked or not self._suite.judge:
            return
        questions = self._questions("alpaca_eval", asked.questions, "AlpacaEval's instructions")
        answers = {
            subject.label: self._answers(subject, questions, "AlpacaEval", asked.sampling, None, asked.shards)
            for subject in self._subjects
        }
        for number, subject in enumerate(self._subjects):
            self._inputs[f"{number}:alpaca_eval"] = []
            if subject.label != self._baseline:
                left = {"left": answers[self._baseline]} if self._baseline in answers else {"baseline": [questions]}
                inputs = {**left, "right": answers[subject.label]}
                if "baseline" in self._found and self._baseline not in answers:
                    inputs["baseline"] = [self._outputs()]
                role = f"{subject.label} against {self._baseline}"
                self._inputs[f"{number}:alpaca_eval"] = self._verdicts(role, inputs, asked.shards, both_orders=False)
        if self._suite.head_to_head:
            for (i, left_), (j, right) in itertools.combinations(enumerate(self._subjects), 2):
                inputs = {"left": answers[left_.label], "right": answers[right.label]}
                role = f"{left_.label} or {right.label}"
                self._inputs[f"{i}:{j}:duel"] = self._verdicts(role, inputs, asked.shards, both_orders=True)

    def _outputs(self) -> Address:
        settings = {"kind": "alpaca_eval", "split": "train", "skip": 0, "limit": None}
        return self._add("questions", NOBODY, "the baseline's answers", settings, {"source": [self._found["baseline"]]})

    def _mt_bench(self) -> None:
        asked = self._suite.mt_bench
        if not asked or not self._suite.judge:
            return
        references = {"references": [self._found["mt_references"]]} if "mt_references" in self._found else {}
        questions = self._questions("mt_bench", asked.questions, "MT-Bench's questions", references)
        sampling = Sampling(temperature=0.7, top_p=1, presence_penalty=0, max_tokens=asked.max_tokens)
        for number, subject in enumerate(self._subjects):
            answers = self._answers(subject, questions, "MT-Bench", sampling, TEMPERATURES, asked.shards)
            inputs = {"answers": answers, "questions": [questions]}
            self._inputs[f"{number}:mt_bench"] = self._judged(
                asked.shards, "grades", Who(subject.label), "grades", {}, inputs
            )

    def _people(self) -> None:
        if "people" not in self._found or not self._suite.judge:
            return
        sides = {
            side: [
                self._add(
                    "people",
                    NOBODY,
                    f"pairs that people judged, {side}",
                    {"side": side},
                    {"source": [self._found["people"]]},
                )
            ]
            for side in ("left", "right")
        }
        self._inputs["people"] = [self._found["people"]]
        self._inputs["people:verdicts"] = self._verdicts("what people judged", sides, 1, both_orders=True)

    def _overlaps(self) -> list[str]:
        """Add the overlap of each training set with all questions; return the names of the training sets."""
        sets = {subject.label: list(subject.data) for subject in self._subjects if subject.data}
        if "trained_on" in self._found:
            source = self._suite.trained_on
            assert source, "its address was found"
            rows = self._add("points", NOBODY, "training data", _cut(source), {"source": [self._found["trained_on"]]})
            sets = {source.source: [rows]}
        names = [name for name in self._suite.benchmarks for _ in self._inputs[f"0:{name}"]]
        items = [address for name in self._suite.benchmarks for address in self._inputs[f"0:{name}"]]
        if not items and not self._asked:
            return []
        for number, (label, pairs) in enumerate(sets.items()):
            settings = {"items": names, "questions": list(self._asked)}
            inputs = {"pairs": pairs, "items": items, "questions": list(self._asked.values())}
            self._inputs[f"{number}:overlap"] = [self._add("overlap", NOBODY, f"overlap of {label}", settings, inputs)]
        return list(sets)

    def _scorecard(self, command: str, training_sets: list[str]) -> None:
        settings = {
            "suite": identity(self._suite),
            "models": [subject.label for subject in self._subjects],
            "baseline": self._baseline,
        }
        if "difficulties" in self._found:
            self._inputs["difficulties"] = [self._found["difficulties"]]
        made = list(self._asked_for.by_address)
        inputs = {**self._inputs, "stages": made, "models": [s.address for s in self._subjects]}
        self._asked_for.add(
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
        inputs = {"source": [self._found[kind]], **(more or {})}
        self._asked[kind] = self._add("questions", NOBODY, role, {"kind": kind, **_cut(source)}, inputs)
        return self._asked[kind]

    def _answers(
        self,
        subject: Subject,
        questions: Address,
        name: str,
        sampling: Sampling,
        temperatures: dict[str, float] | None,
        shards: int,
    ) -> list[Address]:
        batch = {"batch_size": self._suite.batch_size} if self._suite.engine == "transformers" else {}
        settings = {
            "engine": self._suite.engine,
            "context": None,
            **batch,
            **self._loading,
            "sampling": sampling,
            "temperatures": temperatures,
        }
        inputs = {"teacher": [subject.address], "questions": [questions]}
        means = {"vllm": self._suite.vllm.model_dump(mode="json")}
        return self._shards(shards, "answers", Who(subject.label), f"answers to {name}", settings, inputs, means)

    def _verdicts(self, role: str, inputs: dict[str, list[Address]], shards: int, both_orders: bool) -> list[Address]:
        return self._judged(shards, "verdicts", NOBODY, role, {"both_orders": both_orders}, inputs)

    def _judged(
        self, count: int, task: str, who: Who, role: str, settings: dict[str, Any], inputs: dict[str, list[Address]]
    ) -> list[Address]:
        judge = self._suite.judge
        assert judge, "nothing is judged without one"
        whole = {**settings, **_of_judge(judge, task)}
        inputs = {"judge": [self._found["judge"]], **inputs}
        if task == "grades" and "prompts" in self._found:
            inputs["prompts"] = [self._found["prompts"]]
        means = {name: getattr(judge, name).model_dump(mode="json") for name in ("openai", "vllm")}
        return self._shards(count, task, who, role, whole, inputs, means)

    def _shards(
        self,
        count: int,
        task: str,
        who: Who,
        role: str,
        settings: dict[str, Any],
        inputs: dict[str, list[Address]],
        means: dict[str, Any],
    ) -> list[Address]:
        return [self._add(task, who, role, settings, inputs, means, (index, count)) for index in range(count)]

    def _add(
        self,
        task: str,
        who: Who,
        role: str,
        settings: dict[str, Any],
        inputs: dict[str, list[Address]],
        means: dict[str, Any] | None = None,
        shard: tuple[int, int] = (0, 1),
    ) -> Address:
        return self._asked_for.add(
            task, settings, inputs, seed=self._suite.seed, who=who, role=role, shard=shard, means=means
        )


def _of_judge(judge: Judge, stage: str) -> dict[str, Any]:
    batch = {"batch_size": judge.batch_size} if judge.engine == "transformers" else {}
    loading = {} if judge.engine == "openai" else {"dtype": judge.dtype, "trust_remote_code": judge.trust_remote_code}
    return {
        "engine": judge.engine,
        "context": judge.context,
        **batch,
        **loading,
        "max_tokens": judge.max_tokens,
        "tries": judge.tries,
        "max_unreadable": judge.max_unreadable,
        "wording": judging.wording(stage),
    }


def _cut(source: DataSource) -> dict[str, Any]:
    return {"split": source.split, "skip": source.skip, "limit": source.limit}
