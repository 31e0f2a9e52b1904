"""Generate with an OpenAI-compatible endpoint: a paid API, or a server of your own.

Requests run in parallel. Their number grows while requests succeed, and halves when the endpoint refuses too many.
Temporary errors are retried: statuses 429 and 5xx, time-outs, resets, and bodies that are incomplete or make no sense.
Permanent errors (a wrong key, an unknown model) end the generation at once. A complete answer is never requested again.
"""

import asyncio
import json
import logging
import os
import random
import time
from collections.abc import Collection, Iterator, Sequence
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlsplit

import openai
from pydantic import BaseModel, Field, ValidationError

from montessori.data.chat import Message
from montessori.errors import InputError
from montessori.settings.engines import OpenAI
from montessori.settings.generation import Sampling
from montessori.synthesis.engines import Answer, Generation, MayStart, merge_by_text, no_limit
from montessori.synthesis.engines.window import Window

log = logging.getLogger(__name__)
TRIES = 10  # for one request
FIRST_DELAY_S, LONGEST_DELAY_S = 0.5, 60.0  # the longest wait, even when the endpoint asks for more
OVERLOADED = (429, 503, 529)  # statuses of an endpoint with too many requests
FILTERED = ("content_filter", "content management policy", "content_policy", "usage policy")
TOO_LONG = (
    *("context_length", "context length", "context size", "context window", "maximum context", "max_model_len"),
    *("maximum model length", "prompt is too long", "input is too long", "request too large", "reduce the length"),
)
TOO_LONG_AT_FIRST = 32  # after so many too long prompts and no answer, no prompt will fit


class Unavailable(Exception):
    """Report an endpoint that did not answer in many tries.

    The input is not wrong, so the same request may succeed later.
    """


class OpenAIEngine:
    """Generate with a model behind an endpoint."""

    def __init__(self, endpoint: OpenAI, field: str = "generation.openai"):
        """Check the endpoint. `field` is the settings field of `endpoint`, for error messages."""
        self.endpoint, self.field = endpoint, field
        self._takes_repetition_penalty = check(endpoint, field)
        self._gives_logprobs = True  # until the endpoint refuses them
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
        """Yield each answer when it arrives, see `Engine`. Raises Unavailable when the endpoint does not recover."""
        parameters = self.parameters(sampling)
        waiting = [i for i in reversed(range(len(prompts))) if i not in done]
        failure: BaseException | None = None
        too_long = answered = 0  # prompts
        with asyncio.Runner() as runner:
            client = openai.AsyncOpenAI(
                api_key=_key(self.endpoint),
                base_url=self.endpoint.base_url,
                timeout=None,  # the client's timeout is between two bytes; `_request` has one for the whole request
                max_retries=0,  # `_request` retries, so that the window learns of each refusal
            )
            tasks: dict[asyncio.Task[Answer], int] = {}
            try:
                while True:
                    room = self._window.size if failure is None else 0
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
                                "instructions.seed_shots or sampling.max_tokens, or take a model with a longer one"
                            )
                        yield i, answer
            finally:
                for task in tasks:
                    task.cancel()
                runner.run(client.close())
        if failure:
            raise failure

    def parameters(self, sampling: Sampling) -> dict[str, Any]:
        """Return the parameters of each request besides the prompt.

        Raises InputError for those that the endpoint does not support.
        """
        parameters: dict[str, Any] = {
            "model": self.endpoint.model,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "presence_penalty": sampling.presence_penalty,
            "frequency_penalty": sampling.frequency_penalty,
            "max_completion_tokens": sampling.max_tokens,
        }
        if sampling.stop:
            parameters["stop"] = list(sampling.stop)
        if sampling.repetition_penalty != 1:
            if not self._takes_repetition_penalty:
                raise InputError(
                    f"sampling.repetition_penalty = {sampling.repetition_penalty:g}: the OpenAI API has none "
                    "(only vLLM's server takes it); set it to 1, and presence_penalty or frequency_penalty instead"
                )
            parameters["extra_body"] = {"repetition_penalty": sampling.repetition_penalty}
        if sampling.top_logprobs:
            parameters |= {"logprobs": True, "top_logprobs": sampling.top_logprobs}
        return parameters

    async def _answer(
        self,
        client: openai.AsyncOpenAI,
        messages: list[Message],
        *,
        samples: int,
        seed: int,
        parameters: dict[str, Any],
    ) -> Answer:
        """Send as many requests as `samples` texts take: some servers return one text, whatever n is."""
        texts: list[Generation] = []
        read = 0
        while len(texts) < samples:
            wanted = samples - len(texts)
            reply = await self._request(
                client, {**parameters, "messages": messages, "n": wanted, "seed": seed + len(texts)}
            )
            if isinstance(reply, Generation):  # this prompt is never answered, so another request is useless
                return Answer([*texts, *[reply] * wanted], read)
            texts += _generations(reply, parameters.get("top_logprobs", 0))
            read += reply.usage.prompt_tokens if reply.usage else 0
        return Answer(texts[:samples], read)

    async def _request(self, client: openai.AsyncOpenAI, body: dict[str, Any]) -> "_Reply | Generation":
        """Retry one request until it succeeds.

        Returns a Generation without text, with its reason, for a prompt that will never be answered. Raises Unavailable
        after too many tries, and InputError for a permanent error.
        """
        error: Exception
        tries, answered = 0, self._window.answered
        while True:
            if not self._gives_logprobs:
                body = {name: value for name, value in body.items() if name not in ("logprobs", "top_logprobs")}
            started = await self._window.enter()
            try:
                async with asyncio.timeout(self.endpoint.timeout_s):
                    raw = await client.chat.completions.with_raw_response.create(**body)
                reply = _Reply.model_validate_json(raw.content)
                if reply.usage is None and not self._window.answered:
                    raise InputError(
                        f"{self.endpoint.base_url} does not say how many tokens an answer used (its `usage`); "
                        "without that no budget can be kept"
                    )
                if reply.usage is None:
                    raise ValueError("the body has no usage")
                self._window.record_success()
                return reply
            except TimeoutError:
                error = Unavailable(f"no whole answer within {self.field}.timeout_s = {self.endpoint.timeout_s:g}")
            except (openai.APIError, ValueError) as caught:  # ValueError: not JSON, or not a chat completion
                error = caught
            finally:
                self._window.leave()
            tries += 1
            others_answered, answered = self._window.answered > answered, self._window.answered
            given_s, refused = None, False
            if isinstance(error, openai.APIStatusError):
                if "logprobs" in body and _refuses_logprobs(error):
                    if self._gives_logprobs:
                        log.warning(
                            "%s: continuing without log probabilities: %s",
                            self.endpoint.model,
                            _error_text(self.endpoint, error),
                        )
                    self._gives_logprobs = False
                    continue
                if refusal := _refusal(error):
                    return Generation("", refusal, 0)
                if not _is_temporary(error):
                    raise InputError(_refusal_message(self.endpoint, error, self.field))
                given_s, refused = _retry_after(error), error.status_code in OVERLOADED
                if refused:
                    self._window.record_refusal(started, min(given_s or 0, LONGEST_DELAY_S))
            if tries >= 3:
                log.warning("%s: try %d: %s", self.endpoint.base_url, tries, _error_text(self.endpoint, error))
            if tries >= TRIES and not (refused and others_answered):  # with both, the endpoint is busy and not down
                text = _error_text(self.endpoint, error)
                raise Unavailable(f"{self.endpoint.base_url} did not answer in {tries} tries, the last time: {text}")
            await asyncio.sleep(_delay(tries, given_s))


class _Message(BaseModel):
    content: str | None = None
    refusal: str | None = None


class _Choice(BaseModel):
    index: int = 0
    message: _Message
    finish_reason: str
    logprobs: Any = None  # parsed only when they were requested


class _Token(BaseModel):
    token: str
    logprob: float


class _First(BaseModel):
    top_logprobs: list[_Token]


class _Logprobs(BaseModel):
    content: list[_First]  # one for each token


class _Usage(BaseModel):
    prompt_tokens: int
    completion_tokens: int


class _Reply(BaseModel):
    """Hold the used fields of a chat completion. The client's own class accepts any JSON."""

    choices: list[_Choice] = Field(min_length=1)
    usage: _Usage | None = None


def check(endpoint: OpenAI, field: str) -> bool:
    """Return whether the endpoint supports a repetition penalty, as vLLM's server does.

    Raises InputError when it cannot be reached, refuses the key, or does not know the model.
    """
    client = openai.OpenAI(api_key=_key(endpoint), base_url=endpoint.base_url, timeout=30, max_retries=2)
    try:
        with client:
            known = _model_owners(json.loads(client.models.with_raw_response.list().content))
    except openai.APIStatusError as error:
        # Some endpoints list no models, and some keys may not list them.
        if error.status_code == 404:
            _check_chats(endpoint, field)
        elif not (error.status_code == 405 or "scope" in error.message or _is_temporary(error)):
            raise InputError(_refusal_message(endpoint, error, field)) from None
        return False
    except openai.APIConnectionError as error:
        raise InputError(
            f"{field}.base_url = {endpoint.base_url}: cannot be reached "
            f"({_error_text(endpoint, error.__cause__ or error)}); start the server, or correct the address"
        ) from None
    except ValueError:
        raise InputError(
            f"{field}.base_url = {endpoint.base_url}: answers, but not as the OpenAI API does; "
            "its address usually ends in /v1"
        ) from None
    mine = [name for name in known if name == endpoint.model or name.endswith(f"/{endpoint.model}")]
    if known and not mine:
        names = ", ".join(sorted(known)[:8])
        raise InputError(f"{field}.model = {endpoint.model}: not known there; known are {names}")
    return any(known[name] == "vllm" for name in mine)


def _check_chats(endpoint: OpenAI, field: str) -> None:
    """Raise InputError where the address has no chat completions either.

    A server that has them refuses an empty request.
    """
    client = openai.OpenAI(api_key=_key(endpoint), base_url=endpoint.base_url, timeout=30, max_retries=2)
    try:
        with client:
            client.post("/chat/completions", body={}, cast_to=object)
    except openai.APIStatusError as error:
        if error.status_code in (401, 403, 404):
            raise InputError(_refusal_message(endpoint, error, field)) from None
    except (openai.APIError, ValueError):
        return  # a later request will report the error


def _model_owners(tree: Any) -> dict[str, str | None]:
    """Return each listed model with its owner, where `tree` names one."""
    models = tree.get("data") if isinstance(tree, dict) else tree
    return {m["id"]: m.get("owned_by") for m in models or () if isinstance(m, dict) and isinstance(m.get("id"), str)}


def _key(endpoint: OpenAI) -> str:
    key = os.environ.get(endpoint.key_variable, "").strip()
    if not key and urlsplit(endpoint.base_url).hostname == "api.openai.com":
        raise InputError(f"{endpoint.key_variable} is not set: export the key of {endpoint.base_url} in it")
    if not (key.isascii() and key.isprintable()):
        raise InputError(f"{endpoint.key_variable} is no key: it has letters that a key cannot have")
    return key or "none"  # a local server needs no key, but the client does


async def _first_done(tasks: Collection["asyncio.Task[Answer]"]) -> tuple[set["asyncio.Task[Answer]"], Any]:
    return await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)


def _generations(reply: _Reply, top_logprobs: int) -> list[Generation]:
    choices = sorted(reply.choices, key=lambda choice: choice.index)
    texts = [choice.message.content or choice.message.refusal or "" for choice in choices]
    tokens = _shares(reply.usage.completion_tokens if reply.usage else 0, [len(text) for text in texts])
    return [
        Generation(
            text,
            "content_filter" if choice.message.refusal else choice.finish_reason,
            count,
            _likely_first(choice.logprobs) if top_logprobs else None,
        )
        for text, choice, count in zip(texts, choices, tokens, strict=True)
    ]


def _likely_first(logprobs: Any) -> dict[str, float] | None:
    """Return the likeliest first tokens, or None. Some servers have a format of their own, or an empty one."""
    try:
        content = _Logprobs.model_validate(logprobs).content
    except ValidationError:
        return None
    return merge_by_text((token.token, token.logprob) for token in content[0].top_logprobs) or None if content else None


def _shares(total: int, weights: list[int]) -> list[int]:
    """Divide `total` in proportion to `weights`. An endpoint reports the tokens of all texts of an answer together."""
    weights = [weight + 1 for weight in weights]
    whole = sum(weights)
    ends = [round(total * sum(weights[: i + 1]) / whole) for i in range(len(weights))]
    return [end - start for start, end in zip([0, *ends], ends, strict=False)]


def _refusal(error: openai.APIStatusError) -> str | None:
    """Return the finish_reason of a prompt that will never be answered, else None."""
    if error.status_code not in (400, 413, 422, 429):
        return None
    text = f"{error.code} {error.message}".lower()
    if error.status_code != 429 and any(words in text for words in FILTERED):
        return "content_filter"
    return "too_long" if any(words in text for words in TOO_LONG) else None


def _refuses_logprobs(error: openai.APIStatusError) -> bool:
    return error.status_code in (400, 403, 422) and "logprob" in error.message.lower()


def _is_too_long(answer: Answer) -> bool:
    return all(generation.finish_reason == "too_long" for generation in answer.generations)


def _is_temporary(error: openai.APIStatusError) -> bool:
    if error.status_code == 429:
        return "insufficient_quota" not in (error.code, error.type)
    return error.status_code in (408, 409) or error.status_code >= 500


def _retry_after(error: openai.APIStatusError) -> float | None:
    """Return the seconds until the endpoint's requested retry time, given in seconds or as a date."""
    given = error.response.headers.get("retry-after", "")
    try:
        return max(0.0, float(given))
    except ValueError:
        pass
    try:
        return max(0.0, parsedate_to_datetime(given).timestamp() - time.time())
    except ValueError:
        return None


def _delay(tries: int, given_s: float | None) -> float:
    """Return the seconds before the next try: the endpoint's own number twice, from then on at least ours."""
    own = random.uniform(0.5, 1) * min(LONGEST_DELAY_S, FIRST_DELAY_S * 2 ** min(tries - 1, TRIES))
    return own if given_s is None else min(LONGEST_DELAY_S, given_s if tries <= 2 else max(given_s, own))


def _refusal_message(endpoint: OpenAI, error: openai.APIStatusError, field: str) -> str:
    hint = {
        401: f"; correct the key in {endpoint.key_variable}",
        403: f"; the key in {endpoint.key_variable} may not use it",
        404: f"; are {field}.model = {endpoint.model} and base_url right? It usually ends in /v1",
        429: "; the account's quota is used up: raise it, and the same command goes on",
    }.get(error.status_code, "")
    return f"{endpoint.base_url} refuses ({error.status_code}): {_error_text(endpoint, error)}{hint}"


def _error_text(endpoint: OpenAI, error: BaseException) -> str:
    """Return the error's message on one line, without the key."""
    text = " ".join(str(getattr(error, "message", None) or error).split())
    key = os.environ.get(endpoint.key_variable, "").strip()
    return (text.replace(key, "…") if key else text)[:300]
