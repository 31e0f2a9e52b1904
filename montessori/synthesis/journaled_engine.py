"""Generate through a journal, so that no answer is lost or generated twice, and the budget is kept.

In: prompts.  Out: their answers, in order. Each answer is journaled as soon as it arrives. A journaled answer is not
generated again, and when all answers are journaled the engine is not even loaded.
"""

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial

from montessori import progress
from montessori.artifacts import Journal
from montessori.artifacts.journal import Record
from montessori.budget import Usage, dollars, over_limit, usage
from montessori.data.chat import Message
from montessori.errors import BudgetReached
from montessori.settings.engines import Price
from montessori.settings.generation import Sampling
from montessori.synthesis.engines import Answer, Engine, Generation


class JournaledEngine:
    """Wrap an engine with its journal, and count its usage."""

    def __init__(
        self,
        open_engine: Callable[[], Engine],
        journal: Journal,
        *,
        price: Price | None = None,
        limits: dict[str, float | None] | None = None,
        others: Callable[[], Usage] = Usage,
    ):
        """Read the journal. `limits` (`usd`, `tokens`, `hours`) cover this engine's usage and the run's other usage.

        `others` returns the usage of the run's other stages.
        """
        self._open = open_engine
        self._engine: Engine | None = None
        self._journal, self._price, self._limits, self._others = journal, price, limits or {}, others
        self._limit_message = ""  # why generation stopped
        self._answers: dict[str, Answer] = {}
        # seconds: the time until each answer, with the time to load the engine
        self.usage = {"prompts": 0, "prompt_tokens": 0, "completion_tokens": 0, "seconds": 0.0}
        if price:
            self.usage["usd"] = 0.0
        for entry in journal.entries():
            self._answers[entry["key"]] = _from_entry(entry)
            self._count(self._answers[entry["key"]], entry["seconds"])

    def generate(
        self,
        prompts: Sequence[Sequence[Message]],
        sampling: Sampling,
        samples: int,
        seeds: Sequence[int],
        *,
        before: int = 0,
        total: int | None = None,
    ) -> list[Answer]:
        """Return the answer to each prompt, in order.

        When the prompts are a part of `total` prompts, `before` of them done, progress is reported on the whole. Raises
        BudgetReached, after journaling every answer that arrived, and the errors of the engine.
        """
        keys = [_key(prompt, seed) for prompt, seed in zip(prompts, seeds, strict=True)]
        done = {i for i, key in enumerate(keys) if key in self._answers}
        if len(done) < len(keys):
            started = time.monotonic()
            if self._engine is None:
                self._engine = self._open()
            at_most = Answer([Generation("", "length", sampling.max_tokens)] * samples, 0)
            answers = self._engine.generate(
                prompts, sampling, samples, seeds, done=done, may_start=partial(self._may_start, at_most)
            )

            def report(count: int, note: str) -> None:
                progress.report(before + len(done) + count, len(keys) if total is None else total, "prompts", note)

            self._collect(answers, keys, started, report)
        if any(key not in self._answers for key in keys):
            raise BudgetReached(self._limit_message)
        return [self._answers[key] for key in keys]

    def _collect(
        self,
        answers: Iterator[tuple[int, Answer]],
        keys: list[str],
        started: float,
        report: Callable[[int, str], None],
    ) -> None:
        """Journal and count each answer as it arrives. `started` is the time before the engine was loaded."""
        count, tokens, loaded, previous = 0, 0, time.monotonic(), started
        report(0, "")
        try:
            for i, answer in answers:
                seconds = time.monotonic() - previous
                self._answers[keys[i]] = answer
                self._count(answer, seconds)
                self._journal.add(_to_entry(keys[i], seconds, answer), self.usage)
                count, tokens, previous = count + 1, tokens + answer.tokens, time.monotonic()
                report(count, f"{tokens / max(1e-9, previous - loaded):,.0f} tokens/s")
            # The engine's own end takes time too.
            self.usage["seconds"] = round(self.usage["seconds"] + time.monotonic() - previous, 6)
        finally:
            self._journal.sync(self.usage)

    def _may_start(self, at_most: Answer, running: int) -> bool:
        """Return whether the budget allows one more prompt beside the `running` ones.

        A prompt is expected to cost the mean of the answered ones, and before the first answer the cost of `at_most`.
        """
        if not self._limits:
            return True
        if answered := self.usage["prompts"]:
            each = usage({name: used for name, used in self.usage.items() if name != "seconds"}).scaled(1 / answered)
        else:
            each = Usage(at_most.tokens, self._cost(at_most))
        self._limit_message = over_limit(self._limits, self._others() + usage(self.usage), each.scaled(running)) or ""
        return not self._limit_message

    def _count(self, answer: Answer, seconds: float) -> None:
        self.usage["prompts"] += 1
        self.usage["prompt_tokens"] += answer.prompt_tokens
        self.usage["completion_tokens"] += answer.tokens
        self.usage["seconds"] = round(self.usage["seconds"] + seconds, 6)
        if self._price:
            self.usage["usd"] = round(self.usage["usd"] + self._cost(answer), 9)

    def _cost(self, answer: Answer) -> float:
        return dollars(self._price, answer.prompt_tokens, answer.tokens) if self._price else 0.0


def _key(prompt: Sequence[Message], seed: int) -> str:
    return hashlib.sha256(json.dumps([list(prompt), seed], sort_keys=True).encode()).hexdigest()[:20]


def _to_entry(key: str, seconds: float, answer: Answer) -> Record:
    # dataclasses.asdict copies every value and takes ten times as long.
    texts = [{name: value for name, value in vars(text).items() if value is not None} for text in answer.generations]
    return {"key": key, "seconds": round(seconds, 6), **vars(answer), "generations": texts}


def _from_entry(entry: Record) -> Answer:
    return Answer([Generation(**text) for text in entry["generations"]], entry["prompt_tokens"], entry["cut"])
