"""Generation by an OpenAI-compatible endpoint: a paid API, or a server of one's own.

Requests run side by side, more of them while it goes well, half as many when the endpoint refuses too many of them.
What may pass (429, 5xx, time-outs, resets, bodies that are torn or make no sense) is tried again; what will not
(a wrong key, an unknown model) ends it at once. An answer that has come whole is never asked for again.
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
from montessori.settings.schema import OpenAI, Sampling
from montessori.synthesis.engines import Answer, Generation, MayAsk, always, by_text
from montessori.synthesis.engines.window import Window

log = logging.getLogger(__name__)
TRIES = 10  # of one request
FIRST_DELAY_S, LONGEST_DELAY_S = 0.5, 60.0  # whatever the endpoint asks for: then it is tried again, not given up
TOO_MUCH = (429, 503, 529)
FILTERED = ("content_filter", "content management policy", "content_policy", "usage policy")
TOO_LONG = (
    *("context_length", "context length", "context size", "context window", "maximum context", "max_model_len"),
    *("maximum model length", "prompt is too long", "input is too long", "request too large", "reduce the length"),
)
TOO_LONG_AT_FIRST = 32  # prompts, and none answered: then it is not the prompts


class Unavailable(Exception):
    """The endpoint did not answer for many tries. Not wrong input: the same request may succeed later."""


class OpenAIEngine:
    """A model behind an endpoint."""

    def __init__(self, endpoint: OpenAI, field: str = "generation.openai"):
        """`field` is where the settings have `endpoint`, for the errors."""
        self.endpoint, self.field = endpoint, field
        self._takes_repetition_penalty = check(endpoint, field)
        self._gives_logprobs = True  # until it says that it does not
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
                timeout=None,  # the client's is between two bytes; below there is one for the whole request
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
        """What each request says besides the prompt. Raises InputError for what the endpoint cannot do."""
        asked: dict[str, Any] = {
            "model": self.endpoint.model,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "presence_penalty": sampling.presence_penalty,
            "frequency_penalty": sampling.frequency_penalty,
            "max_completion_tokens": sampling.max_tokens,
        }
        if sampling.stop:
            asked["stop"] = list(sampling.stop)
        if sampling.repetition_penalty != 1:
            if not self._takes_repetition_penalty:
                raise InputError(
                    f"sampling.repetition_penalty = {sampling.repetition_penalty:g}: the OpenAI API has none "
                    "(only vLLM's server takes it); set it to 1, and presence_penalty or frequency_penalty instead"
                )
            asked["extra_body"] = {"repetition_penalty": sampling.repetition_penalty}
        if sampling.top_logprobs:
            asked |= {"logprobs": True, "top_logprobs": sampling.top_logprobs}
        return asked

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
            texts += _generations(reply, asked.get("top_logprobs", 0))
            read += reply.usage.prompt_tokens if reply.usage else 0
        return Answer(texts[:samples], read)

    async def _request(self, client: openai.AsyncOpenAI, body: dict[str, Any]) -> "_Reply | Generation":
        """One request until it is answered; a Generation without text says why it never will be."""
        error: Exception
        tries, answered = 0, self._window.answered
        while True:
            if not self._gives_logprobs:
                body = {name: value for name, value in body.items() if name not in ("logprobs", "top_logprobs")}
            begun = await self._window.enter()
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
                self._window.went_well()
                return reply
            except TimeoutError:
                error = Unavailable(f"no whole answer within {self.field}.timeout_s = {self.endpoint.timeout_s:g}")
            except (openai.APIError, ValueError) as caught:  # ValueError: not JSON, or not what was asked for
                error = caught
            finally:
                self._window.leave()
            tries += 1
            others_answered, answered = self._window.answered > answered, self._window.answered
            given_s, refused = None, False
            if isinstance(error, openai.APIStatusError):
                if "logprobs" in body and _refuses_logprobs(error):
                    if self._gives_logprobs:
                        log.warning("%s: asked without them: %s", self.endpoint.model, _said(self.endpoint, error))
                    self._gives_logprobs = False
                    continue
                if refusal := _refusal(error):
                    return Generation("", refusal, 0)
                if not _may_pass(error):
                    raise InputError(_wrong(self.endpoint, error, self.field))
                given_s, refused = _retry_after(error), error.status_code in TOO_MUCH
                if refused:
                    self._window.too_much(begun, min(given_s or 0, LONGEST_DELAY_S))
            if tries >= 3:
                log.warning("%s: try %d: %s", self.endpoint.base_url, tries, _said(self.endpoint, error))
            if tries >= TRIES and not (refused and others_answered):  # both: it is busy, not down
                said = _said(self.endpoint, error)
                raise Unavailable(f"{self.endpoint.base_url} did not answer in {tries} tries, the last time: {said}")
            await asyncio.sleep(_delay(tries, given_s))


class _Message(BaseModel):
    content: str | None = None
    refusal: str | None = None


class _Choice(BaseModel):
    index: int = 0
    message: _Message
    finish_reason: str
    logprobs: Any = None  # read only where they were asked for


class _Token(BaseModel):
    token: str
    logprob: float


class _First(BaseModel):
    top_logprobs: list[_Token]


class _Logprobs(BaseModel):
    content: list[_First]  # one a token


class _Usage(BaseModel):
    prompt_tokens: int
    completion_tokens: int


class _Reply(BaseModel):
    """What is used of a chat completion. The client's own class takes any JSON for one."""

    choices: list[_Choice] = Field(min_length=1)
    usage: _Usage | None = None


def check(endpoint: OpenAI, field: str) -> bool:
    """Whether the endpoint takes a repetition penalty: whether vLLM is behind it.

    Raises InputError when it cannot be reached, refuses the key, or does not know the model.
    """
    client = openai.OpenAI(api_key=_key(endpoint), base_url=endpoint.base_url, timeout=30, max_retries=2)
    try:
        with client:
            known = _listed(json.loads(client.models.with_raw_response.list().content))
    except openai.APIStatusError as error:
        # Some list no models, and some keys may not list them.
        if error.status_code == 404:
            _check_chats(endpoint, field)
        elif not (error.status_code == 405 or "scope" in error.message or _may_pass(error)):
            raise InputError(_wrong(endpoint, error, field)) from None
        return False
    except openai.APIConnectionError as error:
        raise InputError(
            f"{field}.base_url = {endpoint.base_url}: cannot be reached "
            f"({_said(endpoint, error.__cause__ or error)}); start the server, or correct the address"
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
    """Raise InputError where there are no chats at the address either: an empty request is refused, not missed."""
    client = openai.OpenAI(api_key=_key(endpoint), base_url=endpoint.base_url, timeout=30, max_retries=2)
    try:
        with client:
            client.post("/chat/completions", body={}, cast_to=object)
    except openai.APIStatusError as error:
        if error.status_code in (401, 403, 404):
            raise InputError(_wrong(endpoint, error, field)) from None
    except (openai.APIError, ValueError):
        return  # the requests themselves will tell


def _listed(tree: Any) -> dict[str, str | None]:
    """Who owns which model, as far as `tree` says so."""
    models = tree.get("data") if isinstance(tree, dict) else tree
    return {m["id"]: m.get("owned_by") for m in models or () if isinstance(m, dict) and isinstance(m.get("id"), str)}


def _key(endpoint: OpenAI) -> str:
    key = os.environ.get(endpoint.key_variable, "").strip()
    if not key and urlsplit(endpoint.base_url).hostname == "api.openai.com":
        raise InputError(f"{endpoint.key_variable} is not set: export the key of {endpoint.base_url} in it")
    if not (key.isascii() and key.isprintable()):
        raise InputError(f"{endpoint.key_variable} is no key: it has letters that a key cannot have")
    return key or "none"  # servers of one's own want none


async def _any(tasks: Collection["asyncio.Task[Answer]"]) -> tuple[set["asyncio.Task[Answer]"], Any]:
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
    """What is told of the first token, if anything is. Some servers have a form of their own, or an empty one."""
    try:
        content = _Logprobs.model_validate(logprobs).content
    except ValidationError:
        return None
    return by_text((token.token, token.logprob) for token in content[0].top_logprobs) or None if content else None


def _shares(total: int, weights: list[int]) -> list[int]:
    """`total` divided like `weights`: an endpoint tells the tokens of all texts of an answer together."""
    weights = [weight + 1 for weight in weights]
    whole = sum(weights)
    ends = [round(total * sum(weights[: i + 1]) / whole) for i in range(len(weights))]
    return [end - start for start, end in zip([0, *ends], ends, strict=False)]


def _refusal(error: openai.APIStatusError) -> str | None:
    """Why this prompt will never be answered, in the words of a finish_reason."""
    if error.status_code not in (400, 413, 422, 429):
        return None
    said = f"{error.code} {error.message}".lower()
    if error.status_code != 429 and any(words in said for words in FILTERED):
        return "content_filter"
    return "too_long" if any(words in said for words in TOO_LONG) else None


def _refuses_logprobs(error: openai.APIStatusError) -> bool:
    return error.status_code in (400, 403, 422) and "logprob" in error.message.lower()


def _is_too_long(answer: Answer) -> bool:
    return all(generation.finish_reason == "too_long" for generation in answer.generations)


def _may_pass(error: openai.APIStatusError) -> bool:
    if error.status_code == 429:
        return "insufficient_quota" not in (error.code, error.type)
    return error.status_code in (408, 409) or error.status_code >= 500


def _retry_after(error: openai.APIStatusError) -> float | None:
    """Seconds from now, where the endpoint gives them or a date."""
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
    """Seconds before the next try. What the endpoint gave is enough twice; after that it may not know itself."""
    own = random.uniform(0.5, 1) * min(LONGEST_DELAY_S, FIRST_DELAY_S * 2 ** min(tries - 1, TRIES))
    return own if given_s is None else min(LONGEST_DELAY_S, given_s if tries <= 2 else max(given_s, own))


def _wrong(endpoint: OpenAI, error: openai.APIStatusError, field: str) -> str:
    hint = {
        401: f"; correct the key in {endpoint.key_variable}",
        403: f"; the key in {endpoint.key_variable} may not use it",
        404: f"; are {field}.model = {endpoint.model} and base_url right? It usually ends in /v1",
        429: "; the account's quota is used up: raise it, and the same command goes on",
    }.get(error.status_code, "")
    return f"{endpoint.base_url} refuses ({error.status_code}): {_said(endpoint, error)}{hint}"


def _said(endpoint: OpenAI, error: BaseException) -> str:
    """The error's message on one line, without the key."""
    text = " ".join(str(getattr(error, "message", None) or error).split())
    key = os.environ.get(endpoint.key_variable, "").strip()
    return (text.replace(key, "…") if key else text)[:300]
