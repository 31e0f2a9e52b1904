"""Generate through a journal, so that no answer is lost or generated twice, and the budget is kept.

In: prompts.  Out: their answers, in order. Each answer is journaled as soon as it arrives. A journaled answer is not
generated again, and when all answers are journaled the engine is not even loaded. The journal has the texts as they
came. Thoughts of a reasoning model are removed afterwards.

A prompt without an answer is set aside: its journaled answer has an `error`, and is kept while `max_failed` allows so
many. Above this share the task fails, and its next attempt sends these prompts again.
"""

import hashlib
import json
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

from montessori import progress
from montessori.artifacts import Journal
from montessori.artifacts.journal import Record
from montessori.budget import Usage, dollars, over_limit, usage
from montessori.data.chat import Message
from montessori.errors import BudgetReached, StageError
from montessori.settings.engines import MAX_FAILED, Price
from montessori.settings.generation import Sampling
from montessori.synthesis.engines import Answer, Engine, Generation
from montessori.synthesis.thinking import remove_thinking

NAMED = 20  # failed prompts in a summary
log = logging.getLogger(__name__)


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
        max_failed: float = MAX_FAILED,
        block: str = "generation.",
        without_thinking: bool = True,
    ):
        """Read the journal. `limits` (`usd`, `tokens`, `hours`) cover this engine's usage and the run's other usage.

        `others` returns the usage of the run's other stages. `max_failed` is the share of prompts that may stay without
        an answer, a setting in `block`.
        """
        self._open = open_engine
        self._engine: Engine | None = None
        self._journal, self._price, self._limits, self._others = journal, price, limits or {}, others
        self._limit_message = ""  # why generation stopped
        self._max_failed, self._block, self._without_thinking = max_failed, block, without_thinking
        self._answers: dict[str, Answer] = {}
        self._errors: dict[str, str] = {}  # of the answers that have one
        self._allowed = 0  # prompts that may fail
        self._asked: dict[str, str] = {}  # the prompts of this task so far, by their key: the start of their last turn
        self._thoughts: dict[str, int] = {}  # texts that had thoughts, by the key of their prompt
        # seconds: the time until each answer, with the time to load the engine
        self.usage = {"prompts": 0, "prompt_tokens": 0, "completion_tokens": 0, "seconds": 0.0}
        if price:
            self.usage["usd"] = 0.0
        for entry in journal.entries():
            self._keep(entry["key"], _from_entry(entry), entry["seconds"])

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
        BudgetReached, after journaling every answer that arrived, StageError when too many prompts fail, and the errors
        of the engine.
        """
        keys = [_key(prompt, seed) for prompt, seed in zip(prompts, seeds, strict=True)]
        self._asked |= {key: _start(prompt) for key, prompt in zip(keys, prompts, strict=True)}
        self._allowed = _allowed(self._max_failed, max(total or 0, len(self._asked)))
        if len(failed := self._failed()) > self._allowed:
            for key in failed.keys() & set(keys):
                del self._answers[key], self._errors[key]
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
        if len(failed := self._failed()) > self._allowed:
            raise StageError(self._failure_message(failed))
        if any(key not in self._answers for key in keys):
            raise BudgetReached(self._limit_message)
        return [self._shown(key) for key in keys]

    def summary(self) -> dict[str, Any]:
        """Return the counts of a task for its summary: failed prompts, some of them named, and removed thoughts."""
        failed = [{"prompt": self._asked[key], "error": error} for key, error in self._failed().items()]
        return {
            "failed": len(failed),
            "failed_prompts": failed[:NAMED],
            "thinking_removed": sum(self._thoughts.values()),
        }

    def _shown(self, key: str) -> Answer:
        """Return a journaled answer as the task uses it."""
        if not self._without_thinking:
            return self._answers[key]
        answer, self._thoughts[key] = remove_thinking(self._answers[key])
        return answer

    def _failed(self) -> dict[str, str]:
        """Return the errors of this task's prompts that are set aside, by their key."""
        return {key: error for key, error in self._errors.items() if key in self._asked}

    def _failure_message(self, failed: dict[str, str]) -> str:
        key, error = next(iter(failed.items()))
        field = f"{self._block}max_failed"
        return (
            f"{len(failed)} of {len(self._asked)} prompts got no answer, and {field} = {self._max_failed:g} allows "
            f"{self._allowed}; the first is {self._asked[key]!r}: {error}; all other answers are kept: run the same "
            f"command to send these prompts again, or raise {field}"
        )

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
                self._keep(keys[i], answer, seconds)
                if answer.error:
                    log.warning("set aside, prompt %r: %s", self._asked[keys[i]], answer.error)
                self._journal.add(_to_entry(keys[i], seconds, answer), self.usage)
                count, tokens, previous = (
                    count + bool(answer.generations),
                    tokens + answer.billed_tokens,
                    time.monotonic(),
                )
                report(count, f"{tokens / max(1e-9, previous - loaded):,.0f} tokens/s")
            # The engine's own end takes time too.
            self.usage["seconds"] = round(self.usage["seconds"] + time.monotonic() - previous, 6)
        finally:
            self._journal.sync(self.usage)

    def _may_start(self, at_most: Answer, running: int) -> bool:
        """Return whether the budget allows one more prompt beside the `running` ones.

        A prompt is expected to cost the mean of the answered ones, and before the first answer the cost of `at_most`.
        """
        if len(self._failed()) > self._allowed:
            return False
        if not self._limits:
            return True
        if answered := self.usage["prompts"]:
            each = usage({name: used for name, used in self.usage.items() if name != "seconds"}).scaled(1 / answered)
        else:
            each = Usage(at_most.tokens, self._cost(at_most))
        self._limit_message = over_limit(self._limits, self._others() + usage(self.usage), each.scaled(running)) or ""
        return not self._limit_message

    def _keep(self, key: str, answer: Answer, seconds: float) -> None:
        """Keep an answer, unless it only bills tokens, and count its usage."""
        if answer.generations:
            self._answers[key] = answer
            self._errors.pop(key, None)
        if answer.error:
            self._errors[key] = answer.error
        self.usage["prompts"] += bool(answer.generations)
        self.usage["prompt_tokens"] += answer.billed_prompt_tokens
        self.usage["completion_tokens"] += answer.billed_tokens
        self.usage["seconds"] = round(self.usage["seconds"] + seconds, 6)
        if self._price:
            self.usage["usd"] = round(self.usage["usd"] + self._cost(answer), 9)

    def _cost(self, answer: Answer) -> float:
        return dollars(self._price, answer.billed_prompt_tokens, answer.billed_tokens) if self._price else 0.0


def _key(prompt: Sequence[Message], seed: int) -> str:
    return hashlib.sha256(json.dumps([list(prompt), seed], sort_keys=True).encode()).hexdigest()[:20]


def _to_entry(key: str, seconds: float, answer: Answer) -> Record:
    # dataclasses.asdict copies every value and takes ten times as long.
    texts = [{name: value for name, value in vars(text).items() if value is not None} for text in answer.generations]
    kept = {name: value for name, value in vars(answer).items() if value or name in ("prompt_tokens", "cut")}
    return {"key": key, "seconds": round(seconds, 6), **kept, "generations": texts}


def _from_entry(entry: Record) -> Answer:
    fields = {name: value for name, value in entry.items() if name not in ("key", "seconds")}
    return Answer(**{**fields, "generations": [Generation(**text) for text in entry["generations"]]})


def _start(prompt: Sequence[Message]) -> str:
    """Return the start of a prompt's last turn, to name the prompt."""
    return " ".join(str(prompt[-1]["content"]).split())[:80] if prompt else ""


def _allowed(max_failed: float, prompts: int) -> int:
    """Return the number of prompts that may fail. One may always fail, unless `max_failed` is 0."""
    return max(1, int(max_failed * prompts)) if max_failed else 0
