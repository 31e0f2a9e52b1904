"""Every command that needs a Prefect server says in one sentence what is wrong with the one it is given."""

import base64
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_URL, temporary_settings

from flows.commands import cli
from montessori.errors import InputError, StageError
from tasks.runtime import server
from tasks.runtime.server import connected

COMMANDS = {
    "run": ["run", "tiny"],
    "refresh": ["refresh", "tiny"],
    "pool": ["run", "tiny", "--place", "pool"],
    "deploy": ["deploy"],
}


class Guarded(BaseHTTPRequestHandler):
    """A Prefect server with the password user:right as far as it answers here, its UI outside of /api."""

    def do_GET(self) -> None:
        """Only its health is told to everybody."""
        right = f"Basic {base64.b64encode(b'user:right').decode()}"
        if not self.path.startswith("/api/"):
            self._answer(200, b"<html>")
        elif self.path == "/api/health":
            self._answer(200, b"true")
        elif self.headers["Authorization"] != right:
            self._answer(401, b'{"exception_message": "Unauthorized"}')
        elif self.path == "/api/admin/version":
            self._answer(200, b'"3.0.0"')
        else:
            self._answer(404, b"{}")

    def _answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Stay silent."""


@pytest.fixture
def guarded() -> Iterator[str]:
    """The address of such a server."""
    with HTTPServer(("127.0.0.1", 0), Guarded) as server:
        serving = threading.Thread(target=server.serve_forever, daemon=True)
        serving.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        serving.join()


@pytest.mark.parametrize("password", [None, "user:wrong"])
@pytest.mark.parametrize("words", COMMANDS.values(), ids=COMMANDS)
def test_a_refused_password_is_one_sentence(
    guarded: str,
    words: list[str],
    password: str | None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(cli, "_quiet_prefect", lambda: None)  # it would change the environment of later tests
    monkeypatch.setenv("PREFECT_API_URL", f"{guarded}/api")
    store = [] if words == ["deploy"] else ["--store", str(tmp_path)]
    with temporary_settings({PREFECT_API_URL: f"{guarded}/api", PREFECT_API_AUTH_STRING: password}):
        assert cli.main([*words, *store]) == 2
    assert capsys.readouterr().err == (
        f"montessori: PREFECT_API_URL = {guarded}/api: the Prefect server there refuses the password; "
        "set PREFECT_API_AUTH_STRING to its user:password\n"
    )


def test_the_right_password_is_accepted(guarded: str) -> None:
    with temporary_settings({PREFECT_API_URL: f"{guarded}/api", PREFECT_API_AUTH_STRING: "user:right"}), connected():
        pass


def test_an_address_where_nothing_listens_is_one_sentence() -> None:
    address = "http://127.0.0.1:1/api"
    with (
        temporary_settings({PREFECT_API_URL: address}),
        pytest.raises(InputError, match=rf"^PREFECT_API_URL = {address}: no Prefect server answers there \(.+\)$"),
        connected(),
    ):
        pass


@pytest.mark.parametrize("path", ["", "/api/api"])
def test_an_address_of_something_else_is_one_sentence(guarded: str, path: str) -> None:
    settings = {PREFECT_API_URL: f"{guarded}{path}", PREFECT_API_AUTH_STRING: "user:right"}
    with (
        temporary_settings(settings),
        pytest.raises(InputError, match=r"what answers there is no API of Prefect; its address ends in /api$"),
        connected(),
    ):
        pass


def test_a_temporary_server_that_starts_slowly_is_tried_again_and_then_one_sentence(monkeypatch):
    started: list[str] = []

    class Slow:
        def start(self, timeout: int) -> None:
            started.append("start")
            if len(started) < 3:
                raise RuntimeError("Timed out while attempting to connect to ephemeral Prefect API server.")

        def stop(self) -> None:
            started.append("stop")

    monkeypatch.setattr(server, "SubprocessASGIServer", Slow)
    server.start_server()
    assert started == ["start", "stop", "start"]
    monkeypatch.setattr(server, "STARTS", 1)
    started.clear()
    with pytest.raises(StageError, match=r"did not start within 60 s, 1 times in a row; run without --prefect"):
        server.start_server()
    assert started == ["start", "stop"]
