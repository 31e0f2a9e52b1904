"""Connect to an OpenAI-compatible endpoint, and tell what its errors mean.

The key goes to the host in the settings alone: a redirect to another host is refused. A body has at most `MOST_BYTES`.
"""

import json
import os
import re
import time
from collections.abc import AsyncIterator, Collection, Iterator
from email.utils import parsedate_to_datetime
from typing import Any, cast
from urllib.parse import urlsplit

import httpx2
import openai

from montessori.errors import InputError
from montessori.settings.engines import OpenAI
from montessori.synthesis.engines.reply import words

MOST_BYTES = 64 * 2**20  # of a body, many times the longest answer of a model
FILTERED = (
    *("content_filter", "content management policy", "content_policy", "usage policy"),
    *("moderation", "flagged"),
)
TOO_LONG = (
    *("context_length", "context length", "context size", "context window", "maximum context", "max_model_len"),
    *("maximum model length", "prompt is too long", "input is too long", "request too large", "reduce the length"),
)
# The parameter `n` is too short to be found as a word.
_N = re.compile(r"""['"`]n['"`]|\b(?:parameter|value of|body\.)\s*n\b|\bn\s*(?:must|should|is|>|=|:|<)""")


class TooLarge(Exception):
    """Report a body above `MOST_BYTES`."""


def connect(endpoint: OpenAI, field: str) -> openai.AsyncOpenAI:
    """Return a client for many requests. It neither retries nor times out, since the engine does."""

    async def guard(response: httpx2.Response) -> None:
        _guard(response, endpoint, field)

    http = openai.DefaultAsyncHttpxClient(event_hooks={"response": [guard]}, timeout=None)
    return openai.AsyncOpenAI(
        api_key=_key(endpoint),
        base_url=endpoint.base_url,
        timeout=None,
        max_retries=0,
        default_headers={"Accept-Encoding": "identity"},
        http_client=http,
    )


def _connect_once(endpoint: OpenAI, field: str) -> openai.OpenAI:
    http = openai.DefaultHttpxClient(event_hooks={"response": [lambda response: _guard(response, endpoint, field)]})
    return openai.OpenAI(
        api_key=_key(endpoint),
        base_url=endpoint.base_url,
        timeout=30,
        max_retries=2,
        default_headers={"Accept-Encoding": "identity"},
        http_client=http,
    )


def _guard(response: httpx2.Response, endpoint: OpenAI, field: str) -> None:
    """Refuse a redirect to another host, and bound the body. A compressed body has no bound, so it is refused too."""
    if response.has_redirect_location:
        target = response.url.join(response.headers["location"])
        origin = (target.scheme, target.host, target.port)
        if origin != (response.url.scheme, response.url.host, response.url.port):
            host = target.host if target.port is None else f"{target.host}:{target.port}"
            raise InputError(
                f"{field}.base_url = {endpoint.base_url}: redirects to {target.scheme}://{host}, and the key "
                f"must not follow; if you trust that address, set {field}.base_url to it"
            )
    if response.headers.get("content-encoding", "identity").lower() != "identity":
        raise TooLarge("a compressed body, though the request allowed none")
    response.stream = _Bounded(cast(httpx2.ByteStream, response.stream))


class _Bounded(httpx2.SyncByteStream, httpx2.AsyncByteStream):
    """A stream that ends with TooLarge after `MOST_BYTES`."""

    def __init__(self, stream: httpx2.ByteStream):
        self._stream, self._bytes = stream, 0

    def _counted(self, chunk: bytes) -> bytes:
        self._bytes += len(chunk)
        if self._bytes > MOST_BYTES:
            raise TooLarge(f"a body of more than {MOST_BYTES:,} bytes")
        return chunk

    def __iter__(self) -> Iterator[bytes]:
        return map(self._counted, self._stream)

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for chunk in self._stream:
            yield self._counted(chunk)

    def close(self) -> None:
        self._stream.close()

    async def aclose(self) -> None:
        await self._stream.aclose()


def check(endpoint: OpenAI, field: str) -> str | None:
    """Return the owner of the model, where the endpoint names one. Servers of one's own give their name, as vLLM does.

    Raises InputError when it cannot be reached, refuses the key, or does not know the model.
    """
    try:
        with _connect_once(endpoint, field) as client:
            known = _model_owners(json.loads(client.models.with_raw_response.list().content))
    except openai.APIStatusError as error:
        # Some endpoints list no models, and some keys may not list them.
        if error.status_code == 404:
            _check_chats(endpoint, field)
        elif not (error.status_code == 405 or "scope" in error.message or is_temporary(error)):
            raise InputError(refusal_message(endpoint, error, field)) from None
        return None
    except openai.APIConnectionError as error:
        raise InputError(
            f"{field}.base_url = {endpoint.base_url}: cannot be reached "
            f"({error_text(endpoint, error.__cause__ or error)}); start the server, or correct the address"
        ) from None
    except (ValueError, RecursionError, TooLarge):
        raise InputError(
            f"{field}.base_url = {endpoint.base_url}: answers, but not as the OpenAI API does; "
            "its address usually ends in /v1"
        ) from None
    mine = [name for name in known if name == endpoint.model or name.endswith(f"/{endpoint.model}")]
    if known and not mine:
        names = ", ".join(sorted(known)[:8])
        raise InputError(f"{field}.model = {endpoint.model}: not known there; known are {names}")
    return known[mine[0]] if mine else None


def _check_chats(endpoint: OpenAI, field: str) -> None:
    """Raise InputError where the address has no chat completions either.

    A server that has them refuses an empty request.
    """
    try:
        with _connect_once(endpoint, field) as client:
            client.post("/chat/completions", body={}, cast_to=object)
    except openai.APIStatusError as error:
        if error.status_code in (401, 403, 404):
            raise InputError(refusal_message(endpoint, error, field)) from None
    except (openai.APIError, ValueError, TooLarge):
        return  # a later request will report the error


def _model_owners(tree: Any) -> dict[str, str | None]:
    """Return each listed model with its owner, where `tree` names one."""
    models = tree.get("data") if isinstance(tree, dict) else tree
    named = [m for m in models if isinstance(m, dict) and isinstance(m.get("id"), str)] if models else []
    return {m["id"]: owner if isinstance(owner := m.get("owned_by"), str) else None for m in named}


def _key(endpoint: OpenAI) -> str:
    key = os.environ.get(endpoint.key_variable, "").strip()
    if not key and urlsplit(endpoint.base_url).hostname == "api.openai.com":
        raise InputError(f"{endpoint.key_variable} is not set: export the key of {endpoint.base_url} in it")
    if not (key.isascii() and key.isprintable()):
        raise InputError(f"{endpoint.key_variable} is no key: it has letters that a key cannot have")
    return key or "none"  # a local server needs no key, but the client does


def unanswerable(error: openai.APIStatusError) -> str | None:
    """Return the finish_reason of a prompt that will never be answered, else None."""
    if error.status_code not in (400, 403, 413, 422, 429):
        return None
    text = f"{error.code} {error.message}".lower()
    if "could not finish the message" in text:  # a model that reasons was cut before its answer
        return "length"
    if error.status_code != 429 and any(said in text for said in FILTERED):
        return "content_filter"
    return "too_long" if error.status_code != 403 and any(said in text for said in TOO_LONG) else None


def refused_parameter(error: openai.APIStatusError, sent: Collection[str]) -> str | None:
    """Return the parameter among `sent` that an error refuses by its name, else None.

    An error may name others, for example as a replacement. The refused one is named first.
    """
    if error.status_code not in (400, 403, 422):
        return None
    text = error_words(error)
    try:
        named = set(_named(json.loads(error.response.text)))
    except (ValueError, RecursionError):
        named = set()
    names = [name for name in sent if name not in ("model", "messages")]
    if error.status_code == 403:
        names = [name for name in names if "logprob" in name]
    if exact := [name for name in names if name in named]:
        return exact[0]
    patterns = {name: _N if name == "n" else re.compile(rf"(?<![\w.-]){name}(?![\w-])") for name in names}
    places = {name: found.start() for name, pattern in patterns.items() if (found := pattern.search(text))}
    return min(places, key=lambda name: places[name], default=None)


def _named(tree: Any) -> Iterator[str]:
    """Yield the names of fields that an error refers to by `param` or `loc`."""
    if isinstance(tree, list):
        for each in tree:
            yield from _named(each)
    elif isinstance(tree, dict):
        for key, value in tree.items():
            if key in ("param", "parameter", "loc"):
                yield from (part for part in (value if isinstance(value, list) else [value]) if isinstance(part, str))
            else:
                yield from _named(value)


def is_temporary(error: openai.APIStatusError) -> bool:
    """Tell whether the same request may succeed later."""
    if error.status_code == 429:
        return "insufficient_quota" not in (error.code, error.type)
    return error.status_code in (408, 409, 425) or error.status_code >= 500


def retry_after(error: openai.APIStatusError) -> float | None:
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


def refusal_message(endpoint: OpenAI, error: openai.APIStatusError, field: str) -> str:
    """Return a sentence with the provider's words and what to correct."""
    hint = {
        401: f"; correct the key in {endpoint.key_variable}",
        403: f"; the key in {endpoint.key_variable} may not use it",
        404: f"; are {field}.model = {endpoint.model} and base_url right? It usually ends in /v1",
        429: "; the account's quota is used up: raise it, and the same command goes on",
    }.get(error.status_code, "")
    return f"{endpoint.base_url} refuses ({error.status_code}): {error_text(endpoint, error)}{hint}"


def error_words(error: openai.APIStatusError) -> str:
    """Return the provider's own words in an error's body, or the whole body where there are none."""
    text = error.response.text
    try:
        return words(json.loads(text)) or text
    except (ValueError, RecursionError):
        return text or error.message


def error_text(endpoint: OpenAI, error: BaseException | str) -> str:
    """Return the error's message on one line, without the key."""
    said = (
        error_words(error)
        if isinstance(error, openai.APIStatusError)
        else str(getattr(error, "message", None) or error)
    )
    text = " ".join(said.split())
    key = os.environ.get(endpoint.key_variable, "").strip()
    return (text.replace(key, "…") if key else text)[:300]
