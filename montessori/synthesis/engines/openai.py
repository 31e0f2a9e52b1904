"""Generation by an OpenAI-compatible endpoint: a paid API, or a server of one's own.

Requests run side by side, more of them while it goes well, half as many after the endpoint has said that it is too
much. What may pass (429, 5xx, time-outs, resets, bodies that are torn or make no sense) is tried again; what will not
(a wrong key, an unknown model) ends it at once. An answer that has come whole is never asked for again.
"""

import asyncio
import os
import random
import time
from collections.abc import Collection, Iterator, Sequence
from typing import Any
from urllib.parse import urlsplit

import openai
from openai.types.chat import ChatCompletion

from montessori.chat import Message
from montessori.config import OpenAI, Sampling
from montessori.errors import InputError
from montessori.synthesis.engines import Answer, Generation, MayAsk, always

TRIES = 10  # of one request
FIRST_DELAY_S, LONGEST_DELAY_S = 0.5, 60.0
FIRST_WINDOW = 8  # requests side by side
TOO_LONG = ("context_length", "context length", "maximum context", "too long", "max_model_len")
TOO_LONG_AT_FIRST = 32  # prompts, and none answered: then it is not the prompts


class Unavailable(Exception):
    """The endpoint did not answer for many tries. Not wrong input: the same request may succeed later."""


class OpenAIEngine:
    """A model behind an endpoint."""

    def __init__(self, endpoint: OpenAI):
        self.endpoint = endpoint
        self._takes_repetition_penalty = check(endpoint)
        self._window = Window(endpoint.max_concurrency)

    def generate(
        self,
        prompts: Sequence[Sequence[Message]],
        sampling: Sampling,
        samples: int,
        seeds: Sequence[int],
        done: Collection[int] = (),
        may_ask: MayAsk = always,
    ) -> Iterator[tuple[int, Answer]]:
        """Each answer when it has come; see `Engine`. Raises Unavailable when the endpoint does not recover."""
        asked = self.parameters(sampling)
        waiting = [i for i in reversed(range(len(prompts))) if i not in done]
        failure: BaseException | None = None
        too_long = answered = 0  # prompts
        with asyncio.Runner() as runner:
            client = openai.AsyncOpenAI(
                api_key=_key(self.endpoint),
                base_url=self.endpoint.base_url,
                timeout=self.endpoint.timeout_s,
                max_retries=0,  # tried again below, where the window learns of it
            )
            tasks: dict[asyncio.Task[Answer], int] = {}
            try:
                while True:
                    room = self._window.size if failure is None else 0
                    while waiting and len(tasks) < room and may_ask(len(tasks)):
                        i = waiting.pop()
                        coroutine = self._answer(client, list(prompts[i]), samples, seeds[i], asked)
                        tasks[runner.get_loop().create_task(coroutine)] = i
                    if not tasks:
                        break
                    finished, _ = runner.run(_any(tasks))
                    for task in finished:
                        i = tasks.pop(task)
                        if error := task.exception():
                            failure = failure or error
                            continue
                        answer = task.result()
                        too_long += _is_too_long(answer)
                        answered += not _is_too_long(answer)
                        if too_long >= TOO_LONG_AT_FIRST and not answered:
                            failure = InputError(
                                f"{self.endpoint.model}: no prompt fits its context; lower "
                                "instructions.seed_shots or sampling.max_tokens"
                            )
                        yield i, answer
            finally:
                runner.run(client.close())
        if failure:
            raise failure

    def parameters(self, sampling: Sampling) -> dict[str, Any]:
        """What each request says besides the prompt. Raises InputError for what the endpoint cannot do."""
        extra = {}
        if sampling.repetition_penalty != 1:
            if not self._takes_repetition_penalty:
                raise InputError(
                    f"sampling.repetition_penalty = {sampling.repetition_penalty:g}: the OpenAI API has none "
                    "(only vLLM's server takes it); set it to 1, and presence_penalty or frequency_penalty instead"
                )
            extra["repetition_penalty"] = sampling.repetition_penalty
        return {
            "model": self.endpoint.model,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "presence_penalty": sampling.presence_penalty,
            "frequency_penalty": sampling.frequency_penalty,
            "max_completion_tokens": sampling.max_tokens,
            "stop": list(sampling.stop) or None,
            "extra_body": extra or None,
        }

    async def _answer(
        self, client: openai.AsyncOpenAI, messages: list[Message], samples: int, seed: int, asked: dict[str, Any]
    ) -> Answer:
        """As many requests as it takes for `samples` texts: some servers give one at a time, whatever n says."""
        texts: list[Generation] = []
        read = 0
        while len(texts) < samples:
            wanted = samples - len(texts)
            reply = await self._request(client, {**asked, "messages": messages, "n": wanted, "seed": seed + len(texts)})
            if isinstance(reply, Generation):  # of no use to ask for another
                return Answer([*texts, *[reply] * wanted], read)
            texts += _generations(reply)
            read += reply.usage.prompt_tokens if reply.usage else 0
        return Answer(texts[:samples], read)

    async def _request(self, client: openai.AsyncOpenAI, body: dict[str, Any]) -> ChatCompletion | Generation:
        """One request until it is answered; a Generation without text says why it never will be."""
        error: Exception = Unavailable()
        for attempt in range(TRIES):
            await self._window.pause()
            begun = time.monotonic()
            try:
                reply: ChatCompletion = await client.chat.completions.create(**body)
                if problem := _problem(reply):
                    raise ValueError(problem)
                self._window.went_well()
                return reply
            except (openai.APIStatusError, openai.APIConnectionError, openai.APIResponseValidationError) as caught:
                error = caught
                if isinstance(error, openai.APIStatusError):
                    if refusal := _refusal(error):
                        return Generation("", refusal, 0)
                    if not _may_pass(error):
                        raise InputError(_wrong(self.endpoint, error)) from None
            except ValueError as caught:  # a body that is no JSON, or not what was asked for
                error = caught
            delay = random.uniform(0.5, 1) * min(LONGEST_DELAY_S, FIRST_DELAY_S * 2**attempt)
            if isinstance(error, openai.APIStatusError) and error.status_code in (429, 503):
                given = _retry_after(error)
                delay = delay if given is None else given
                self._window.too_much(begun, given or 0)
            await asyncio.sleep(delay)
        raise Unavailable(f"{self.endpoint.base_url} did not answer in {TRIES} tries: {_said(self.endpoint, error)}")


class Window:
    """How many requests may be under way: one more for each that went well, half after one was too much.

    After the first time it was too much it grows by one for a whole window that went well, as TCP does.
    """

    def __init__(self, most: int):
        self._size, self._most = float(min(FIRST_WINDOW, most)), most
        self._halved: float | None = None  # when
        self._resume = 0.0

    @property
    def size(self) -> int:
        """Of the window now."""
        return int(self._size)

    def went_well(self) -> None:
        """A request was answered."""
        self._size = min(self._most, self._size + (1 if self._halved is None else 1 / self._size))

    def too_much(self, begun: float, wait_s: float) -> None:
        """A request that began at `begun` was refused; nothing more for `wait_s`. One burst halves only once."""
        if self._halved is None or begun > self._halved:
            self._size, self._halved = max(1.0, self._size / 2), time.monotonic()
        self._resume = max(self._resume, time.monotonic() + min(wait_s, LONGEST_DELAY_S))

    async def pause(self) -> None:
        """Wait as long as the endpoint has asked for."""
        while (left := self._resume - time.monotonic()) > 0:
            await asyncio.sleep(left)


def check(endpoint: OpenAI) -> bool:
    """Whether the endpoint takes a repetition penalty: whether vLLM is behind it.

    Raises InputError when it cannot be reached, refuses the key, or does not know the model.
    """
    client = openai.OpenAI(api_key=_key(endpoint), base_url=endpoint.base_url, timeout=30, max_retries=2)
    try:
        with client:
            known = {model.id: model.owned_by for model in client.models.list()}
    except openai.NotFoundError:
        return False  # it lists no models, which is allowed
    except openai.APIConnectionError as error:
        raise InputError(
            f"generation.openai.base_url = {endpoint.base_url}: cannot be reached ({error.__cause__ or error}); "
            "start the server, or correct the address"
        ) from None
    except openai.APIStatusError as error:
        if _may_pass(error):
            return False
        raise InputError(_wrong(endpoint, error)) from None
    except (openai.APIError, ValueError):
        raise InputError(
            f"generation.openai.base_url = {endpoint.base_url}: answers, but not as the OpenAI API does; "
            "its address usually ends in /v1"
        ) from None
    if known and endpoint.model not in known:
        names = ", ".join(sorted(known)[:8])
        raise InputError(f"generation.openai.model = {endpoint.model}: not known there; known are {names}")
    return known.get(endpoint.model or "") == "vllm"


def _key(endpoint: OpenAI) -> str:
    key = os.environ.get(endpoint.key_variable)
    if not key and urlsplit(endpoint.base_url).hostname == "api.openai.com":
        raise InputError(f"{endpoint.key_variable} is not set: export the key of {endpoint.base_url} in it")
    return key or "none"  # servers of one's own want none


async def _any(tasks: Collection["asyncio.Task[Answer]"]) -> tuple[set["asyncio.Task[Answer]"], Any]:
    return await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)


def _generations(reply: ChatCompletion) -> list[Generation]:
    choices = sorted(reply.choices, key=lambda choice: choice.index)
    texts = [choice.message.content or choice.message.refusal or "" for choice in choices]
    tokens = _shares(reply.usage.completion_tokens if reply.usage else 0, [len(text) for text in texts])
    return [
        Generation(text, "content_filter" if choice.message.refusal else choice.finish_reason, count)
        for text, choice, count in zip(texts, choices, tokens, strict=True)
    ]


def _shares(total: int, weights: list[int]) -> list[int]:
    """`total` divided like `weights`: an endpoint tells the tokens of all texts of an answer together."""
    weights = [weight + 1 for weight in weights]
    whole = sum(weights)
    ends = [round(total * sum(weights[: i + 1]) / whole) for i in range(len(weights))]
    return [end - start for start, end in zip([0, *ends], ends, strict=False)]


def _problem(reply: object) -> str | None:
    """Why a body that came is not an answer."""
    if not isinstance(reply, ChatCompletion) or not reply.choices:
        return "the body has no choices"
    if reply.usage is None or reply.usage.completion_tokens is None or reply.usage.prompt_tokens is None:
        return "the body does not say how many tokens were used"
    if any(choice.message is None or not choice.finish_reason for choice in reply.choices):
        return "a choice has no message or no finish_reason"
    return None


def _refusal(error: openai.APIStatusError) -> str | None:
    """Why this prompt will never be answered, in the words of a finish_reason."""
    if error.status_code not in (400, 413, 422):
        return None
    said = f"{error.code} {error.message}".lower()
    if "content_filter" in said or "content management policy" in said:
        return "content_filter"
    return "too_long" if any(words in said for words in TOO_LONG) else None


def _is_too_long(answer: Answer) -> bool:
    return all(generation.finish_reason == "too_long" for generation in answer.generations)


def _may_pass(error: openai.APIStatusError) -> bool:
    if error.status_code == 429:
        return error.code != "insufficient_quota"
    return error.status_code in (408, 409) or error.status_code >= 500


def _retry_after(error: openai.APIStatusError) -> float | None:
    """Seconds, where the endpoint gives a number of them."""
    try:
        return max(0.0, float(error.response.headers["retry-after"]))
    except (KeyError, ValueError):
        return None


def _wrong(endpoint: OpenAI, error: openai.APIStatusError) -> str:
    hint = {
        401: f"; correct the key in {endpoint.key_variable}",
        403: f"; the key in {endpoint.key_variable} may not use it",
        404: f"; is generation.openai.model = {endpoint.model} right?",
        429: "; the account's quota is used up: raise it, and the same command goes on",
    }.get(error.status_code, "")
    return f"{endpoint.base_url} refuses ({error.status_code}): {_said(endpoint, error)}{hint}"


def _said(endpoint: OpenAI, error: Exception) -> str:
    """The error's message on one line, without the key."""
    text = " ".join(str(getattr(error, "message", None) or error).split())[:300]
    key = os.environ.get(endpoint.key_variable)
    return text.replace(key, "…") if key else text
