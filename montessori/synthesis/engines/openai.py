"""Generate with an OpenAI-compatible endpoint: a paid API, or a server of your own.

Requests run in parallel. Their number grows while requests succeed, and halves when the endpoint refuses too many.
Temporary errors are retried: statuses 429 and 5xx, time-outs, resets, and bodies that make no sense. A complete answer
is never requested again. An error ends the generation where the endpoint is at fault (a wrong key, an unknown model).
Where one prompt is at fault, its answer has the reason as its `error`, and the other prompts go on.
"""

import asyncio
import json
import logging
import random
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import httpx2
import openai

from montessori.data.chat import Message, user
from montessori.errors import InputError
from montessori.settings.engines import OpenAI
from montessori.settings.generation import Sampling
from montessori.synthesis.engines import Answer, Generation, MayStart, no_limit
from montessori.synthesis.engines import connection as link
from montessori.synthesis.engines.parameters import Parameters
from montessori.synthesis.engines.reply import NoReply, Reply, parse
from montessori.synthesis.engines.window import Window

log = logging.getLogger(__name__)
TRIES = 10  # for one request
TRIES_OF_REPLIES = 3  # for one prompt, of replies without a usable text: they are billed
FIRST_DELAY_S, LONGEST_DELAY_S = 0.5, 60.0  # the longest wait, even when the endpoint asks for more
OVERLOADED = (429, 503, 529)  # statuses of an endpoint with too many requests
PROMPT_STATUSES = (400, 413, 422)  # statuses for which one prompt may be at fault
TOO_LONG_AT_FIRST = 32  # after so many too long prompts and no answer, no prompt will fit
PROBE_TOKENS = 16  # most tokens of the answer that tells a wrong prompt from an endpoint that is down


class Unavailable(Exception):
    """Report an endpoint that did not answer in many tries.

    The input is not wrong, so the same request may succeed later.
    """


class PromptFailed(Exception):
    """Report a prompt without an answer. `blame` is the error of the endpoint, unless `lives`: it answers others."""

    def __init__(self, blame: Exception, lives: bool):
        super().__init__(str(blame))
        self.blame, self.lives = blame, lives


@dataclass(frozen=True)
class Outcome:
    """The end of one prompt. `blame` is the error to raise if the endpoint is at fault, which may be `certain`."""

    answer: Answer
    blame: Exception | None = None
    certain: bool = False
    probe: bool = True  # a short prompt may tell if the endpoint is at fault


class OpenAIEngine:
    """Generate with a model behind an endpoint."""

    def __init__(self, endpoint: OpenAI, field: str = "generation.openai"):
        """Check the endpoint. `field` is the settings field of `endpoint`, for error messages."""
        self.endpoint, self.field = endpoint, field
        self._parameters = Parameters(endpoint, field, server=link.check(endpoint, field))
        self._window = Window(endpoint.max_concurrency)

    def generate(
        self,
        prompts: Sequence[Sequence[Message]],
        sampling: Sampling,
        samples: int,
        seeds: Sequence[int],
        *,
        done: Collection[int] = (),
        may_start: MayStart = no_limit,
    ) -> Iterator[tuple[int, Answer]]:
        """Yield each answer when it arrives, see `Engine`. Raises Unavailable when the endpoint does not recover.

        An answer without generations has the billed tokens of a prompt that is not answered yet.
        """
        parameters = self.parameters(sampling)
        waiting = [i for i in reversed(range(len(prompts))) if i not in done]
        failure: Exception | None = None
        held: list[tuple[int, Outcome]] = []  # failed prompts, until it is known if the endpoint is at fault
        too_long = answered = held_since = 0
        with asyncio.Runner() as runner:
            client = link.connect(self.endpoint, self.field)
            tasks: dict[asyncio.Task[Outcome], int] = {}
            try:
                while True:
                    room = self._window.size if failure is None and not held else 0
                    while waiting and len(tasks) < room and may_start(len(tasks)):
                        i = waiting.pop()
                        coroutine = self._answer(
                            client, list(prompts[i]), samples=samples, seed=seeds[i], parameters=parameters
                        )
                        tasks[runner.get_loop().create_task(coroutine)] = i
                    if not tasks:
                        break
                    finished, _ = runner.run(_first_done(tasks))
                    for task in finished:
                        i, outcome = tasks.pop(task), task.result()
                        if outcome.certain:
                            failure = failure or outcome.blame
                            yield from _bill(i, outcome.answer)
                        elif outcome.blame:
                            held_since = held_since if held else self._window.answered
                            held.append((i, outcome))
                        else:
                            too_long += _is_too_long(outcome.answer)
                            answered += not _is_too_long(outcome.answer)
                            if too_long >= TOO_LONG_AT_FIRST and not answered:
                                failure = InputError(
                                    f"{self.endpoint.model}: no prompt fits its context; lower "
                                    "instructions.seed_shots or sampling.max_tokens, or take a model with a longer one"
                                )
                            yield i, outcome.answer
                    if held and not tasks:
                        probing = all(outcome.probe for _, outcome in held)
                        lives = self._window.answered > (held_since if probing else 0)
                        if failure is None and probing and not lives:
                            lives, bill = runner.run(self._probe(client, parameters))
                            yield from _bill(held[0][0], bill)
                        for i, outcome in held:
                            failure = failure if lives else failure or outcome.blame
                            yield from [(i, outcome.answer)] if lives else _bill(i, outcome.answer)
                        held = []
            finally:
                for task in tasks:
                    task.cancel()
                runner.run(client.close())
        if failure:
            raise failure

    def parameters(self, sampling: Sampling) -> dict[str, Any]:
        """Return the parameters of each request besides the prompt. Raises InputError for unsupported ones."""
        return self._parameters.of(sampling)

    async def _answer(
        self,
        client: openai.AsyncOpenAI,
        messages: list[Message],
        *,
        samples: int,
        seed: int,
        parameters: dict[str, Any],
    ) -> Outcome:
        """Send as many requests as `samples` texts take: some servers return one text, whatever n is."""
        answer, before, unusable = Answer([], 0), self._window.answered, 0
        while (missing := samples - len(answer.generations)) > 0:
            asked = {**parameters, "messages": messages, "n": missing, "seed": seed + len(answer.generations)}
            try:
                reply = await self._request(client, asked)
            except PromptFailed as failed:
                return self._without(answer, missing, failed.blame, failed.lives)
            except InputError as error:
                return Outcome(answer, error, certain=True)
            if isinstance(reply, Generation):  # this prompt is never answered, so another request is useless
                return Outcome(replace(answer, generations=[*answer.generations, *[reply] * missing]))
            answer = _with_reply(answer, reply, missing)
            if reply.texts:
                continue
            unusable += 1
            if reply.over_limit:
                ignored = InputError(self._parameters.ignored_limit(reply.error))
                outcome = self._without(answer, missing, ignored, bool(self._window.answered))
                return replace(outcome, probe=False)
            if unusable == TRIES_OF_REPLIES:
                said = link.error_text(self.endpoint, reply.error)
                blame = Unavailable(f"{self.endpoint.base_url}: {unusable} replies are unusable, the last one: {said}")
                return self._without(answer, missing, blame, self._window.answered > before, empty=reply.empty)
            await asyncio.sleep(_delay(unusable, None))
        return Outcome(answer)

    def _without(self, answer: Answer, missing: int, blame: Exception, lives: bool, *, empty: bool = False) -> Outcome:
        """Return the outcome of a prompt with `missing` texts: empty ones if the replies were, else failed ones."""
        blank = Generation("", "empty" if empty else "failed", 0)
        error = "" if empty else link.error_text(self.endpoint, blame)
        answer = replace(answer, generations=[*answer.generations, *[blank] * missing], error=error)
        return Outcome(answer, None if lives else blame)

    async def _probe(self, client: openai.AsyncOpenAI, parameters: dict[str, Any]) -> tuple[bool, Answer]:
        """Tell whether the endpoint answers a short prompt, and what that has cost."""
        limit = min(PROBE_TOKENS, parameters["max_tokens"])
        body = {**parameters, "messages": user("Hi."), "max_tokens": limit, "n": 1, "seed": 0}
        try:
            reply = await self._request(client, body, tries=1)
        except (PromptFailed, InputError):
            return False, Answer([], 0)
        if isinstance(reply, Generation):
            return reply.finish_reason == "length", Answer([], 0)
        return bool(reply.texts), _with_reply(Answer([], 0), reply, 1)

    async def _request(
        self, client: openai.AsyncOpenAI, parameters: dict[str, Any], tries: int | None = None
    ) -> Reply | Generation:
        """Retry one request until it succeeds.

        Returns a Generation without text, with its reason, for a prompt that will never be answered. Raises
        PromptFailed after too many tries or when the prompt is refused, and InputError for a permanent error.
        """
        error: Exception
        most, tried, answered = tries or TRIES, 0, self._window.answered
        prompt_bytes = len(json.dumps(parameters["messages"]))
        while True:
            body = self._parameters.body(parameters)
            started = await self._window.enter()
            try:
                async with asyncio.timeout(self.endpoint.timeout_s):
                    response = await client.post("/chat/completions", body=body, cast_to=httpx2.Response)
                reply = parse(
                    response.content,
                    limit=parameters["max_tokens"],
                    prompt_bytes=prompt_bytes,
                    top_logprobs=parameters.get("top_logprobs", 0),
                )
                if reply.texts and not reply.has_usage:
                    if not self._window.answered:
                        raise InputError(
                            f"{self.endpoint.base_url} does not say how many tokens an answer used (its `usage`); "
                            "without that no budget can be kept"
                        )
                    raise NoReply("the body has no usage")
                if reply.texts:
                    self._window.record_success()
                return reply
            except TimeoutError:
                error = Unavailable(f"no whole answer within {self.field}.timeout_s = {self.endpoint.timeout_s:g}")
            except link.TooLarge as caught:
                raise PromptFailed(InputError(f"{self.endpoint.base_url} sent {caught}"), lives=False) from None
            except UnicodeEncodeError:
                broken = InputError("the prompt holds half of a character (a lone surrogate), so it cannot be sent")
                raise PromptFailed(broken, lives=True) from None
            except (openai.APIError, ValueError) as caught:  # ValueError: not JSON, or not a chat completion
                error = caught
            finally:
                self._window.leave()
            tried += 1
            others_answered, answered = self._window.answered > answered, self._window.answered
            given_s, refused = None, False
            if isinstance(error, openai.APIStatusError):
                if reason := link.unanswerable(error):
                    return Generation("", reason, 0)
                name = link.refused_parameter(error, body)
                if name and self._parameters.adapt(name, parameters, error, worked=bool(self._window.answered)):
                    continue
                if not link.is_temporary(error):
                    blame = InputError(self._parameters.refusal(name, error))
                    if error.status_code in PROMPT_STATUSES and (not name or self._window.answered):
                        raise PromptFailed(blame, bool(self._window.answered))
                    raise blame
                given_s, refused = link.retry_after(error), error.status_code in OVERLOADED
                if refused:
                    self._window.record_refusal(started, min(given_s or 0, LONGEST_DELAY_S))
            text = link.error_text(self.endpoint, error)
            if tried >= 3:
                log.warning("%s: try %d: %s", self.endpoint.base_url, tried, text)
            if tried >= most and not (refused and others_answered):  # with both, the endpoint is busy and not down
                down = Unavailable(f"{self.endpoint.base_url} did not answer in {tried} tries, the last time: {text}")
                raise PromptFailed(down, others_answered)
            await asyncio.sleep(_delay(tried, given_s))


async def _first_done(tasks: Collection["asyncio.Task[Outcome]"]) -> tuple[set["asyncio.Task[Outcome]"], Any]:
    return await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)


def _with_reply(answer: Answer, reply: Reply, wanted: int) -> Answer:
    """Add a reply to an answer. Tokens of texts that are not used count as discarded."""
    read = reply.prompt_tokens
    return replace(
        answer,
        generations=[*answer.generations, *reply.texts[:wanted]],
        prompt_tokens=answer.prompt_tokens + (read if reply.texts else 0),
        discarded_prompt_tokens=answer.discarded_prompt_tokens + (0 if reply.texts else read),
        discarded_tokens=answer.discarded_tokens + reply.discarded + sum(text.tokens for text in reply.texts[wanted:]),
    )


def _bill(i: int, answer: Answer) -> list[tuple[int, Answer]]:
    """Return the billed tokens of a prompt that is not answered yet, if there are some."""
    bill = Answer([], 0, discarded_prompt_tokens=answer.billed_prompt_tokens, discarded_tokens=answer.billed_tokens)
    return [(i, bill)] if bill.billed_prompt_tokens + bill.billed_tokens else []


def _is_too_long(answer: Answer) -> bool:
    return all(generation.finish_reason == "too_long" for generation in answer.generations)


def _delay(tries: int, given_s: float | None) -> float:
    """Return the seconds before the next try: the endpoint's own number twice, from then on at least ours."""
    own = random.uniform(0.5, 1) * min(LONGEST_DELAY_S, FIRST_DELAY_S * 2 ** min(tries - 1, TRIES))
    return own if given_s is None else min(LONGEST_DELAY_S, given_s if tries <= 2 else max(given_s, own))
