"""A proxy in front of an S3 server that answers badly, as a network and a busy server do, and tells what it saw.

Requests pass through as they came, since their headers are signed; all but those that `without` takes away, which are
signed again.
"""

import http.client
import random
import socketserver
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from socket import SO_LINGER, SOL_SOCKET

from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from s3 import KEYS, Server

SLOW_DOWN = b"<Error><Code>SlowDown</Code><Message>Reduce your request rate.</Message></Error>"


@dataclass
class Faults:
    """The shares of requests that go wrong, and how."""

    busy: float = 0  # 503 SlowDown, and not passed on
    reset_before: float = 0  # the connection ends before the request is passed on
    reset_after: float = 0  # the request is passed on, its answer lost
    truncated: float = 0  # an answer of which half comes
    without: tuple[str, ...] = ()  # headers that are not passed on
    refuse_conditions: int = 0  # the status of each answer to a conditional put, which is not passed on
    lose_answers_to: str = ""  # a method: the first answer to each key is lost


@dataclass
class Proxy(Server):
    """Where the proxy answers, and what it has seen: method, path, headers; and how often what went wrong."""

    port: int
    seen: list[tuple[str, str, dict[str, str]]] = field(default_factory=list)
    went_wrong: dict[str, int] = field(default_factory=dict)
    lost: set[str] = field(default_factory=set)


@contextmanager
def proxy(upstream: Server, faults: Faults, seed: int = 0) -> Iterator[Proxy]:
    """Serve inside the block."""
    dice, lock = random.Random(seed), threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def setup(self) -> None:
            super().setup()
            self.upstream = http.client.HTTPConnection("127.0.0.1", upstream.port, timeout=60)

        def finish(self) -> None:
            self.upstream.close()
            super().finish()

        def log_message(self, *_: object) -> None:
            pass

        def handle(self) -> None:
            with suppress(ConnectionError):
                super().handle()

        def answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            with lock:
                here.seen.append((self.command, self.path, {k.lower(): v for k, v in self.headers.items()}))
                fault = self.fault()
                if fault:
                    here.went_wrong[fault] = here.went_wrong.get(fault, 0) + 1
            if faults.refuse_conditions and self.headers.get("If-None-Match"):
                self.say(faults.refuse_conditions, [("Content-Type", "application/xml")], b"")
                return
            if fault == "busy":
                self.say(503, [("Content-Type", "application/xml")], SLOW_DOWN)
                return
            if fault == "reset_before":
                self.reset()
                return
            response, content = self.asked(body)
            if fault == "reset_after":
                self.reset()
            elif fault == "truncated" and len(content) > 1:
                self.say(response.status, response.getheaders(), content, len(content) // 2)
                self.close_connection = True
            else:
                self.say(response.status, response.getheaders(), content)

        do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = answer  # noqa: N815

        def fault(self) -> str:
            if self.command == faults.lose_answers_to and self.path not in here.lost:
                here.lost.add(self.path)
                return "reset_after"
            throw = dice.random()
            for name in ("busy", "reset_before", "reset_after", "truncated"):
                throw -= getattr(faults, name)
                if throw < 0:
                    return name
            return ""

        def asked(self, body: bytes) -> tuple[http.client.HTTPResponse, bytes]:
            headers = {k: v for k, v in self.headers.items() if k.lower() not in ("expect", *faults.without)}
            if len(headers) < len([k for k in self.headers if k.lower() != "expect"]):
                headers = signed(self.command, f"http://{self.headers['Host']}{self.path}", headers, body)
            for attempt in (0, 1):
                try:
                    self.upstream.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
                    for name, value in headers.items():
                        self.upstream.putheader(name, value)
                    self.upstream.endheaders(body or None)
                    response = self.upstream.getresponse()
                    return response, response.read()
                except (http.client.RemoteDisconnected, ConnectionError):  # the server closes what was idle for long
                    self.upstream.close()
                    if attempt:
                        raise
            raise AssertionError

        def say(self, status: int, headers: list[tuple[str, str]], content: bytes, only: int | None = None) -> None:
            self.send_response_only(status)
            for name, value in headers:
                if name.lower() not in ("content-length", "transfer-encoding", "connection"):
                    self.send_header(name, value)
            length = {k.lower(): v for k, v in headers}.get("content-length", "0")
            self.send_header("Content-Length", length if self.command == "HEAD" else str(len(content)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content[:only])

        def reset(self) -> None:
            self.connection.setsockopt(SOL_SOCKET, SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()
            self.close_connection = True
            raise ConnectionResetError

    class Threads(socketserver.ThreadingTCPServer):
        daemon_threads, request_queue_size, block_on_close = True, 128, False

    with Threads(("127.0.0.1", 0), Handler) as server:
        here = Proxy(server.server_address[1])
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        try:
            yield here
        finally:
            server.shutdown()


def signed(method: str, url: str, headers: dict[str, str], body: bytes) -> dict[str, str]:
    """The headers with a new signature by the server's own key."""
    kept = {
        k: v for k, v in headers.items() if k.lower() not in ("authorization", "x-amz-date", "x-amz-content-sha256")
    }
    request = AWSRequest(method=method, url=url, data=body, headers=kept)
    keys = Credentials(KEYS["AWS_ACCESS_KEY_ID"], KEYS["AWS_SECRET_ACCESS_KEY"])
    S3SigV4Auth(keys, "s3", "us-east-1").add_auth(request)
    return dict(request.headers.items())
