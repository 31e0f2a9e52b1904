"""Prompts to an engine, so that no answer is lost or asked for twice, and no more is spent than allowed.

In: prompts.  Out: their answers, in order. An answer is in the journal as soon as it has come; one that is there is
not asked for again, and where all are there the engine is not even loaded.
"""

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from functools import partial

from montessori import progress
from montessori.artifacts import Journal
from montessori.artifacts.journal import Entry
from montessori.budget import Usage, dollars, reached, usage
from montessori.data.chat import Message
from montessori.errors import BudgetReached
from montessori.settings.schema import Price, Sampling
from montessori.synthesis.engines import Answer, Engine, Generation


class Asker:
    """An engine with its journal, and what was used through it."""

    def __init__(
        self,
        open_engine: Callable[[], Engine],
        journal: Journal,
        price: Price | None = None,
        limits: dict[str, float | None] | None = None,
        others: Callable[[], Usage] = Usage,
    ):
        """`limits` (`usd`, `tokens`, `hours`) are for this and for what the `others` of the run have used."""
        self._open = open_engine
        self._engine: Engine | None = None
        self._journal, self._price, self._limits, self._others = journal, price, limits or {}, others
        self._refused = ""  # why no more could be asked
        self._kept: dict[str, Answer] = {}
        # seconds: until an answer came, the loading of the engine too
        self.usage = {"prompts": 0, "prompt_tokens": 0, "completion_tokens": 0, "seconds": 0.0}
        if price:
            self.usage["usd"] = 0.0
        for entry in journal.entries():
            self._kept[entry["key"]] = _answer(entry)
            self._count(self._kept[entry["key"]], entry["seconds"])

    def ask(
        self,
        prompts: Sequence[Sequence[Message]],
        sampling: Sampling,
        samples: int,
        seeds: Sequence[int],
        before: int = 0,
        total: int | None = None,
    ) -> list[Answer]:
        """The answer to each prompt. Raises BudgetReached, with all answers that came kept, and what engines raise.

        Where they are but a part of `total`, `before` of which have been answered, progress is told of the whole.
        """
        keys = [_key(prompt, seed) for prompt, seed in zip(prompts, seeds, strict=True)]
        done = {i for i, key in enumerate(keys) if key in self._kept}
        if len(done) < len(keys):

            def tell(finished: int, note: str) -> None:
                progress.report(before + finished, len(keys) if total is None else total, "prompts", note)

            self._ask(prompts, sampling, samples, seeds, keys, done, tell)
        if any(key not in self._kept for key in keys):
            raise BudgetReached(self._refused)
        return [self._kept[key] for key in keys]

    def _ask(
        self,
        prompts: Sequence[Sequence[Message]],
        sampling: Sampling,
        samples: int,
        seeds: Sequence[int],
        keys: list[str],
        done: set[int],
        tell: Callable[[int, str], None],
    ) -> None:
        before = time.monotonic()
        if self._engine is None:
            self._engine = self._open()
        at_most = Answer([Generation("", "length", sampling.max_tokens)] * samples, 0)
        finished, written, started = len(done), 0, time.monotonic()
        tell(finished, "")
        try:
            for i, answer in self._engine.generate(
                prompts, sampling, samples, seeds, done, partial(self._may_ask, at_most)
            ):
                now = time.monotonic()
                self._kept[keys[i]] = answer
                self._count(answer, now - before)
                self._journal.add(_entry(keys[i], now - before, answer), self.usage)
                finished, written, before = finished + 1, written + answer.tokens, time.monotonic()
                rate = written / max(1e-9, before - started)
                tell(finished, f"{rate:,.0f} tokens/s")
            self.usage["seconds"] = round(self.usage["seconds"] + time.monotonic() - before, 6)  # to clear up
        finally:
            self._journal.sync(self.usage)

    def _may_ask(self, at_most: Answer, under_way: int) -> bool:
        """Whether the budget reaches for one more prompt beside those that are `under_way`.

        One is taken to cost what they have cost so far; before the first answer, what it costs `at_most`.
        """
        if not self._limits:
            return True
        if asked := self.usage["prompts"]:
            each = usage({name: used for name, used in self.usage.items() if name != "seconds"}).scaled(1 / asked)
        else:
            each = Usage(at_most.tokens, self._paid(at_most))
        self._refused = reached(self._limits, self._spent(), each.scaled(under_way)) or ""
        return not self._refused

    def _spent(self) -> Usage:
        return self._others() + usage(self.usage)

    def _count(self, answer: Answer, seconds: float) -> None:
        self.usage["prompts"] += 1
        self.usage["prompt_tokens"] += answer.prompt_tokens
        self.usage["completion_tokens"] += answer.tokens
        self.usage["seconds"] = round(self.usage["seconds"] + seconds, 6)
        if self._price:
            self.usage["usd"] = round(self.usage["usd"] + self._paid(answer), 9)

    def _paid(self, answer: Answer) -> float:
        return dollars(self._price, answer.prompt_tokens, answer.tokens) if self._price else 0.0


def _key(prompt: Sequence[Message], seed: int) -> str:
    return hashlib.sha256(json.dumps([list(prompt), seed], sort_keys=True).encode()).hexdigest()[:20]


def _entry(key: str, seconds: float, answer: Answer) -> Entry:
    # asdict would copy them, ten times as slowly
    texts = [{name: it for name, it in vars(one).items() if it is not None} for one in answer.generations]
    return {"key": key, "seconds": round(seconds, 6), **vars(answer), "generations": texts}


def _answer(entry: Entry) -> Answer:
    return Answer([Generation(**text) for text in entry["generations"]], entry["prompt_tokens"], entry["cut"])
