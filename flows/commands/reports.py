"""Serve the reports of a store's runs, evaluations and studies to a browser, read-only: `montessori reports`.

Only files in the manifest of a run are served, so no path leads outside. The Host header must name this server, so that
a foreign page cannot read the reports through a name of its own (DNS rebinding).
"""

import argparse
import logging
import os
import shutil
import signal
import sys
from functools import partial
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

from montessori.artifacts import Store, open_store
from montessori.artifacts.catalogue import RUNS, entries, newest_first
from montessori.errors import ArtifactError, InputError, MontessoriError

EXAMPLES = """examples:
  montessori reports                                     on http://127.0.0.1:4201, for this machine only
  montessori reports --store s3://bucket/montessori
  MONTESSORI_REPORTS_URL=http://127.0.0.1:4201 montessori run tiny --prefect          Prefect's UI links there
"""
TYPES = {
    "html": "text/html; charset=utf-8",
    "svg": "image/svg+xml",
    "png": "image/png",
    "json": "application/json",
    "yaml": "text/plain; charset=utf-8",
    "md": "text/plain; charset=utf-8",
    "csv": "text/plain; charset=utf-8",
    "tex": "text/plain; charset=utf-8",
}
PATIENCE_S = 30  # for a browser that has opened a connection and sends nothing
log = logging.getLogger(__name__)


def add_parser(add: Any) -> None:
    """Add the command. `add` creates a subparser."""
    parser = add(
        "reports",
        help="serve the reports of a store's runs to a browser",
        description="Serve the reports of the runs, refreshes, evaluations and studies in a store, read-only. "
        "Prefect's UI can link to them: set MONTESSORI_REPORTS_URL where the flows run.",
        epilog=EXAMPLES,
    )
    parser.add_argument("--store", metavar="STORE", default="store", help="(default: store)")
    parser.add_argument("--port", type=int, default=4201, help="(default: 4201; 0 takes a free one)")
    parser.add_argument("--host", default="127.0.0.1", help="the address to listen on (default: 127.0.0.1)")


def reports(options: argparse.Namespace) -> int:
    """Serve until Ctrl-C or SIGTERM, and return the exit code."""
    store = open_store(options.store)
    store.check_readable()
    try:
        server = serve(store, options.host, options.port)
    except (OSError, OverflowError) as error:
        raise InputError(f"--host {options.host} --port {options.port}: cannot listen there ({error})") from None
    with server:
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        sys.stdout.write(f"reports of {store.uri} on http://{options.host}:{server.server_port}\n")
        sys.stdout.flush()
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            return 0
    return 0


def serve(store: Store, host: str, port: int) -> ThreadingHTTPServer:
    """Return a listening server of the reports in `store`. Call `serve_forever` to answer requests."""
    return ThreadingHTTPServer((host, port), partial(Handler, store, names(host)))


def names(host: str) -> set[str]:
    """Return the allowed host names: of this machine, of `host`, and of MONTESSORI_REPORTS_URL."""
    linked = urlsplit(os.environ.get("MONTESSORI_REPORTS_URL", "")).hostname
    return {"localhost", "127.0.0.1", "::1", host.lower(), *([linked] if linked else [])}


class Handler(BaseHTTPRequestHandler):
    """Answers the requests of one connection."""

    protocol_version = "HTTP/1.1"
    server_version, sys_version = "montessori", ""
    timeout = PATIENCE_S

    def __init__(self, store: Store, hosts: set[str], *connection: Any):
        self._store, self._hosts = store, hosts
        super().__init__(*connection)

    def do_GET(self) -> None:
        """Send the list of reports, or a file of a report."""
        try:
            self._answer()
        except (ArtifactError, FileNotFoundError):
            self._send_text(HTTPStatus.NOT_FOUND, f"no such report in {self._store.uri}")
        except ConnectionError:  # the browser has gone
            self.close_connection = True
        except ValueError:
            self._send_text(HTTPStatus.BAD_REQUEST, "no address")
        except MontessoriError as error:
            self._send_text(HTTPStatus.SERVICE_UNAVAILABLE, str(error))

    do_HEAD = do_GET  # noqa: N815

    def do_POST(self) -> None:
        """Refuse the request, since nothing can be changed here."""
        self.close_connection = True  # the body was not read
        self._send_text(HTTPStatus.METHOD_NOT_ALLOWED, "GET and HEAD only", Allow="GET, HEAD", Connection="close")

    do_PUT = do_DELETE = do_PATCH = do_OPTIONS = do_POST  # noqa: N815

    def log_message(self, format: str, *arguments: Any) -> None:
        """Log through the program's logger."""
        log.info("%s %s", self.address_string(), format % arguments)

    def _answer(self) -> None:
        if _hostname(self.headers.get("Host", "")) not in self._hosts:
            self._send_text(HTTPStatus.MISDIRECTED_REQUEST, "this server goes by another name")
            return
        path = unquote(urlsplit(self.path).path)
        if path == "/":
            self._list()
            return
        if path == "/health":  # for monitoring, without the store
            self._send_text(HTTPStatus.OK, "it answers")
            return
        kind, _, rest = path.removeprefix("/").partition("/")
        name, _, file = rest.partition("/")
        if kind not in RUNS:
            self._send_text(HTTPStatus.NOT_FOUND, "no such report")
        elif not file:
            self._store.manifest(f"{kind}/{name}")  # raises for a wrong address
            location = f"/{kind}/{name}/report.html"
            self._send_text(HTTPStatus.FOUND, location, Location=location)
        else:
            self._file(f"{kind}/{name}", file)

    def _list(self) -> None:
        from montessori.reporting.index import page

        listed = newest_first(entry for kind in RUNS for entry in entries(self._store, kind))
        body = page(sorted(listed, key=lambda e: -e.made.timestamp() if e.made else 0), self._store.uri).encode()
        self._begin(HTTPStatus.OK, TYPES["html"], len(body), {"Cache-Control": "no-cache"})
        if self.command == "GET":
            self.wfile.write(body)

    def _file(self, address: str, name: str) -> None:
        file = self._store.manifest(address)["files"].get(name)
        if file is None:
            self._send_text(HTTPStatus.NOT_FOUND, "no such file")
            return
        tag = f'"{file["sha256"]}"'
        caching = {"Cache-Control": "private, max-age=3600, immutable", "ETag": tag}
        if self.headers.get("If-None-Match") == tag:
            self._begin(HTTPStatus.NOT_MODIFIED, None, None, caching)
            return
        kind = TYPES.get(name.rpartition(".")[2], "application/octet-stream")
        path = self._store.open(address) / name
        with path.open("rb") as content:
            self._begin(HTTPStatus.OK, kind, file["bytes"], caching)
            if self.command == "GET":
                shutil.copyfileobj(content, self.wfile)

    def _send_text(self, status: HTTPStatus, sentence: str, **headers: str) -> None:
        body = f"{sentence}\n".encode()
        self._begin(status, "text/plain; charset=utf-8", len(body), {"Cache-Control": "no-store", **headers})
        if self.command != "HEAD":
            self.wfile.write(body)

    def _begin(self, status: HTTPStatus, kind: str | None, length: int | None, headers: dict[str, str]) -> None:
        from montessori.reporting.html import POLICY

        self.send_response(status)
        content = {"Content-Type": kind, "Content-Length": length if length is None else str(length)}
        safe = {
            "Content-Security-Policy": f"{POLICY}; frame-ancestors 'none'",
            "X-Content-Type-Options": "nosniff",
            "Referrer-Policy": "no-referrer",
            "Cross-Origin-Resource-Policy": "same-origin",
        }
        for name, value in (content | headers | safe).items():
            if value is not None:
                self.send_header(name, value)
        self.end_headers()


def _hostname(host: str) -> str | None:
    """Return the name in a Host header without its port, or None."""
    try:
        return urlsplit(f"//{host}").hostname
    except ValueError:
        return None
