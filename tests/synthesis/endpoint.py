"""An OpenAI-compatible endpoint that makes its answers up, and a proxy that gets in the way of any such endpoint.

Both listen on loopback, each in a thread with an event loop of its own, and remember what they were asked and what they
answered whole:

    with Endpoint() as endpoint, Proxy(endpoint.url, seed=0, overloaded=0.1, resets=0.02) as proxy:
        ...  # ask proxy.url
    assert set(proxy.delivered.values()) == {1}
"""

import asyncio
import hashlib
import json
import math
import random
import socket
import struct
import threading
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from email.utils import formatdate
from typing import Any, Self
from urllib.parse import urlsplit

MODEL = "teacher"
Body = dict[str, Any]


class Torn(Exception):
    """A message ended before its end."""


@dataclass(frozen=True)
class Received:
    """An HTTP request or response as it came."""

    first: str  # "POST /v1/chat/completions HTTP/1.1" or "HTTP/1.1 200 OK"
    headers: Mapping[str, str]  # names in lower case
    body: bytes

    @property
    def path(self) -> str:
        return self.first.split(" ")[1]

    @property
    def status(self) -> int:
        return int(self.first.split(" ")[1])


@dataclass(frozen=True)
class Reply:
    """What to answer: a JSON tree, or a text as it is."""

    status: int = 200
    body: Any = None
    headers: Mapping[str, str] = field(default_factory=dict)
    never_ends: bool = False  # a blank now and then instead of the body, as servers do to keep a connection open

    def bytes(self) -> bytes:
        html = isinstance(self.body, str)
        return _message(self.status, self.body.encode() if html else json.dumps(self.body).encode(), self.headers, html)


class Server(ABC):
    """A server in a thread of its own, for as long as the context lasts."""

    def __enter__(self) -> Self:
        started: Future[int] = Future()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve(started)), daemon=True)
        self._thread.start()
        self.url = f"http://127.0.0.1:{started.result()}/v1"
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._end.set)
        self._thread.join()

    async def _serve(self, started: "Future[int]") -> None:
        self._loop, self._end = asyncio.get_running_loop(), asyncio.Event()
        server = await asyncio.start_server(self._connection, "127.0.0.1", 0, backlog=1024)
        started.set_result(server.sockets[0].getsockname()[1])
        await self._end.wait()  # asyncio.run cancels the connections
        server.close()

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError, asyncio.CancelledError, Torn):
            await self.talk(reader, writer)
        writer.close()

    @abstractmethod
    async def talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer what comes on one connection until it ends."""


class Endpoint(Server):
    """Answers chats with `text_of`, unless `rule(body, this)` has another reply."""

    def __init__(
        self,
        rule: "Callable[[Body, Endpoint], Reply | Awaitable[Reply | None] | None]" = lambda body, endpoint: None,
        models: Sequence[str] | Reply = (MODEL,),
        owned_by: str = "somebody",
    ):
        self.rule, self.models, self.owned_by = rule, models, owned_by
        self.asked: list[Body] = []
        self.whole: list[Body] = []  # of `asked`, those that were answered with status 200, to the last byte
        self.headers: list[Mapping[str, str]] = []  # of all requests
        self.under_way = self.most_under_way = 0

    def times(self) -> Counter[str]:
        """How often each prompt was asked, by the text of its last message."""
        return Counter(body["messages"][-1]["content"] for body in self.asked)

    async def talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while request := await _receive(reader):
            self.headers.append(request.headers)
            if request.path != "/v1/chat/completions":
                writer.write(self._models(request).bytes())
                continue
            body = json.loads(request.body)
            self.asked.append(body)
            self.under_way += 1
            self.most_under_way = max(self.most_under_way, self.under_way)
            try:
                ruled = self.rule(body, self)
                reply = (await ruled if isinstance(ruled, Awaitable) else ruled) or Reply(body=completion(body))
            finally:
                self.under_way -= 1
            if reply.never_ends:
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 999999\r\n\r\n")
            while reply.never_ends:
                writer.write(b" ")
                await writer.drain()
                await asyncio.sleep(0.01)
            writer.write(reply.bytes())
            await writer.drain()
            if reply.status == 200:
                self.whole.append(body)

    def _models(self, request: Received) -> Reply:
        if request.path != "/v1/models":
            return Reply(404, {"detail": "Not Found"})
        if isinstance(self.models, Reply):
            return self.models
        listed = [{"id": model, "object": "model", "created": 0, "owned_by": self.owned_by} for model in self.models]
        return Reply(body={"object": "list", "data": listed})


class Proxy(Server):
    """Stands before the endpoint at `upstream` and disturbs a share of its chats. Which: `seed`, body and try say."""

    def __init__(
        self,
        upstream: str,
        seed: int = 0,
        *,
        overloaded: float = 0.0,  # 429 and 503, most with a Retry-After
        resets: float = 0.0,  # of the connection: half of them before the endpoint is asked, half after it answered
        truncated: float = 0.0,  # bodies, the connection closed after their first half
        malformed: float = 0.0,  # bodies: JSON that is cut, of another form, or HTML
        errors: float = 0.0,  # 500
    ):
        self._upstream, self._seed = urlsplit(upstream), seed
        self._shares = {
            "overloaded": overloaded,
            "reset before": resets / 2,
            "reset after": resets / 2,
            "truncated": truncated,
            "malformed": malformed,
            "error": errors,
        }
        self.asked: Counter[bytes] = Counter()  # by the body of the request
        self.delivered: Counter[bytes] = Counter()  # those answered with status 200, to the last byte
        self.faults: Counter[str] = Counter()

    async def talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        try:
            while request := await _receive(reader):
                chat = request.path.endswith("/chat/completions")
                self.asked[request.body] += chat
                draw = random.Random(f"{self._seed} {self.asked[request.body]} {request.body!r}")
                fault = self._fault(draw) if chat else None
                if fault == "overloaded":
                    writer.write(_overloaded(draw).bytes())
                    continue
                if fault == "error":
                    writer.write(Reply(500, {"error": {"message": "internal error"}}).bytes())
                    continue
                if fault == "reset before":
                    return _reset(writer)
                far = far or await asyncio.open_connection(self._upstream.hostname, self._upstream.port)
                reply = await self._ask(request, *far)
                answer = _message(reply.status, reply.body, {}, "json" not in reply.headers.get("content-type", ""))
                if fault == "reset after":
                    return _reset(writer)
                if fault == "truncated":
                    writer.write(answer[: len(answer) - len(reply.body) // 2])
                    return await writer.drain()
                if fault == "malformed":
                    body = draw.choice([reply.body[: len(reply.body) // 2], b'{"choices": [7]}', b"<html>Oops</html>"])
                    writer.write(_message(200, body, {}, body.startswith(b"<")))
                    continue
                writer.write(answer)
                await writer.drain()
                if chat and reply.status == 200:
                    self.delivered[request.body] += 1
        finally:
            if far:
                far[1].close()

    def _fault(self, draw: random.Random) -> str | None:
        at = draw.random()
        for name, share in self._shares.items():
            if at < share:
                self.faults[name] += 1
                return name
            at -= share
        return None

    async def _ask(self, request: Received, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> Received:
        kept = "".join(f"{name}: {value}\r\n" for name, value in request.headers.items() if name != "host")
        writer.write(f"{request.first}\r\nhost: {self._upstream.netloc}\r\n{kept}\r\n".encode() + request.body)
        reply = await _receive(reader)
        if reply is None:
            raise Torn
        return reply


def text_of(messages: Sequence[Mapping[str, str]], seed: int) -> str:
    """The answer to `messages`; its nth sample is the one with n more for a seed."""
    digest = hashlib.sha256(f"{seed} {json.dumps(messages)}".encode()).hexdigest()
    return " ".join(digest[start : start + 4] for start in range(0, 4 + 4 * int(digest[0], 16) % 56, 4))


def tokens_of(text: str) -> int:
    """One a word."""
    return len(text.split())


def likely_first(text: str) -> dict[str, float]:
    """The log probabilities of the tokens that `text` could have begun with: 1/2, 1/4, 1/8, …"""
    return {f"{text[:1]}{k}": -(k + 1) * math.log(2) for k in range(20)}


def completion(
    body: Body, n: int | None = None, text: str | None = None, first: Mapping[str, float] | None = None
) -> Body:
    """The whole answer to a request, or only its first `n` choices; or one that says `text`.

    `first` are log probabilities of the first token, where they are asked for.
    """
    texts = [
        text_of(body["messages"], body.get("seed", 0) + k) if text is None else text
        for k in range(n or body.get("n", 1))
    ]
    read = sum(tokens_of(message["content"]) for message in body["messages"])
    written = sum(tokens_of(text) for text in texts)
    choices: list[Body] = [
        {"index": k, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
        for k, text in enumerate(texts)
    ]
    if body.get("logprobs"):
        for choice, said in zip(choices, texts, strict=True):
            likely = (first or likely_first(said)).items()
            top = [{"token": token, "logprob": logprob, "bytes": None} for token, logprob in likely]
            choice["logprobs"] = {"content": [{**top[0], "top_logprobs": top[: body["top_logprobs"]]}]}
    return {
        "id": "chatcmpl-0",
        "object": "chat.completion",
        "created": 0,
        "model": body["model"],
        "choices": choices[::-1],  # they come in any order
        "usage": {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written},
    }


def error(status: int, message: str, code: str | None = None, **headers: str) -> Reply:
    """An error as OpenAI words them."""
    tree = {"error": {"message": message, "type": "an_error", "param": None, "code": code}}
    return Reply(status, tree, {name.replace("_", "-"): value for name, value in headers.items()})


def _overloaded(draw: random.Random) -> Reply:
    status = draw.choice([429, 429, 503])
    after = draw.choice([f"{draw.uniform(0.01, 0.05):.3f}"] * 3 + [formatdate(usegmt=True), None])
    return error(status, "slow down", "rate_limit_exceeded", **({"retry_after": after} if after else {}))


def _reset(writer: asyncio.StreamWriter) -> None:
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


def _message(status: int, body: bytes, headers: Mapping[str, str], html: bool = False) -> bytes:
    head = {"Content-Type": "text/html" if html else "application/json", "Content-Length": len(body), **headers}
    lines = [f"HTTP/1.1 {status} -", *(f"{name}: {value}" for name, value in head.items())]
    return "\r\n".join([*lines, "", ""]).encode() + body


async def _receive(reader: asyncio.StreamReader) -> Received | None:
    """The next message; None when the other side has closed the connection."""
    try:
        head = await reader.readuntil(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").rstrip().split("\r\n")
        headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        return Received(first, headers, await reader.readexactly(int(headers.get("content-length", 0))))
    except asyncio.IncompleteReadError as torn:
        if torn.partial:
            raise Torn from None
        return None
