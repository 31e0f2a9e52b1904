"""The reports' server: what runs have made, and no other byte of the machine."""

import http.client
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from shelf import put

from flows.commands import cli, reports
from montessori.artifacts import Folder
from montessori.reporting.link import report_link

RUN = "runs/tiny-11111111"
FILES = {"report.html": "<p>Grüße</p>", "run.yaml": "name: tiny\n", "summary.json": "{}", "result.md": "# result"}
FIGURE = "figures/results.svg"


@pytest.fixture
def store(tmp_path: Path) -> Folder:
    (tmp_path / "secret").write_text("secret")
    store = Folder(tmp_path / "store")
    put(store, RUN, age_h=2, files={**FILES, FIGURE: "<svg/>"})
    put(store, "refreshes/tiny-2026-11-23-22222222", age_h=1, files=FILES)
    put(store, "student/a", files={"report.html": "secret"})
    store.write(".champions/tiny/000001.json", b"secret")
    (store.root / RUN / "not-in-the-manifest").write_text("secret")
    return store


@pytest.fixture
def port(store: Folder) -> Iterator[int]:
    server = reports.serve(store, "127.0.0.1", 0)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server.server_port
    server.shutdown()
    thread.join()
    server.server_close()


def ask(port: int, path: str, method: str = "GET", **headers: str) -> tuple[http.client.HTTPResponse, bytes]:
    """The path goes out as it is given, as no browser would send it."""
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=20)) as connection:
        connection.putrequest(method, path, skip_host="Host" in headers)
        for name, value in headers.items():
            connection.putheader(name, value)
        connection.endheaders()
        answer = connection.getresponse()
        return answer, answer.read()


def test_the_list_has_runs_and_refreshes_the_newest_first_and_links_to_their_reports(port):
    answer, body = ask(port, "/")
    assert (answer.status, answer.getheader("Content-Type")) == (200, "text/html; charset=utf-8")
    page = body.decode()
    links = ['href="/refreshes/tiny-2026-11-23-22222222/report.html"', f'href="/{RUN}/report.html"']
    assert 0 < page.index(links[0]) < page.index(links[1])
    assert "2 reports" in page and "student/a" not in page
    assert f'href="/{RUN}/run.yaml"' in page


def test_a_new_run_is_listed_at_once(store, port):
    put(store, "runs/new-33333333", files=FILES)
    assert "new-33333333" in ask(port, "/")[1].decode()


@pytest.mark.parametrize(
    ("file", "kind"),
    [
        ("report.html", "text/html; charset=utf-8"),
        (FIGURE, "image/svg+xml"),
        ("run.yaml", "text/plain; charset=utf-8"),
        ("summary.json", "application/json"),
        ("result.md", "text/plain; charset=utf-8"),
    ],
)
def test_the_files_of_a_run_come_as_what_they_are_and_may_be_kept(store, port, file, kind):
    answer, body = ask(port, f"/{RUN}/{file}")
    assert (answer.status, body) == (200, (store.root / RUN / file).read_bytes())
    assert answer.getheader("Content-Type") == kind
    assert "immutable" in answer.getheader("Cache-Control")
    assert answer.getheader("X-Content-Type-Options") == "nosniff"
    policy = answer.getheader("Content-Security-Policy")
    assert "default-src 'none'" in policy and "script-src" not in policy and "frame-ancestors 'none'" in policy
    again, nothing = ask(port, f"/{RUN}/{file}", **{"If-None-Match": answer.getheader("ETag")})
    assert (again.status, nothing) == (304, b"")


def test_head_tells_the_same_without_the_bytes(port):
    answer, body = ask(port, f"/{RUN}/report.html", "HEAD")
    assert (answer.status, body, answer.getheader("Content-Length")) == (200, b"", str(len("<p>Grüße</p>".encode())))


@pytest.mark.parametrize("path", [f"/{RUN}", f"/{RUN}/"])
def test_a_run_itself_leads_to_its_report(port, path):
    answer, _ = ask(port, path)
    assert (answer.status, answer.getheader("Location")) == (302, f"/{RUN}/report.html")


@pytest.mark.parametrize(
    "path",
    [
        "/../secret",
        f"/{RUN}/../../../secret",
        f"/{RUN}/..%2f..%2f..%2fsecret",
        f"/{RUN}/%2e%2e/%2e%2e/%2e%2e/secret",
        f"/{RUN}/%252e%252e%252fsecret",
        f"/{RUN}/..\\..\\secret",
        f"/{RUN}//etc/passwd",
        f"/{RUN}/%2fetc%2fpasswd",
        f"/{RUN}/report.html%00",
        f"/{RUN}/report.html/",
        f"/{RUN}/figures",
        f"/{RUN}/figures/../report.html",
        f"/{RUN}/manifest.json",
        f"/{RUN}/not-in-the-manifest",
        "/runs/../student/a/report.html",
        "/runs/..%2fstudent%2fa/report.html",
        "/runs/.. /report.html".replace(" ", "%20"),
        "/runs/unknown/report.html",
        "/runs/unknown",
        "/runs/",
        "/runs",
        "/student/a/report.html",
        "/.champions/tiny/000001.json",
        "//etc/passwd",
        "http://127.0.0.1/etc/passwd",
        "/runs/x%0d%0aSet-Cookie:a=b/",
    ],
)
def test_no_path_leads_to_anything_else(port, path):
    answer, body = ask(port, path)
    assert answer.status == 404
    assert b"secret" not in body and b"root:" not in body
    assert answer.getheader("Set-Cookie") is None


@pytest.mark.parametrize("host", ["evil.example", "evil.example:4201", "127.0.0.1.evil.example", "", "[", "a@b:c"])
def test_under_a_strange_name_it_says_nothing(port, host):
    for path in ("/", f"/{RUN}/report.html"):
        answer, body = ask(port, path, Host=host)
        assert answer.status == 421 and b"tiny" not in body and "Grüße".encode() not in body


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:4201", "127.0.0.1:1", "[::1]:4201"])
def test_it_answers_to_the_names_of_this_machine(port, host):
    assert ask(port, "/", Host=host)[0].status == 200


def test_it_answers_to_the_name_to_which_flows_link(store, monkeypatch):
    monkeypatch.setenv("MONTESSORI_REPORTS_URL", "https://reports.example/")
    assert reports.names("0.0.0.0") == {"localhost", "127.0.0.1", "::1", "0.0.0.0", "reports.example"}


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS"])
def test_nothing_can_be_changed(store, port, method):
    answer, _ = ask(port, f"/{RUN}/report.html", method)
    assert (answer.status, answer.getheader("Allow")) == (405, "GET, HEAD")
    assert store.exists(RUN)


def test_a_damaged_report_is_not_shown(store, port):
    (store.root / RUN / "report.html").write_text("forged")
    answer, body = ask(port, f"/{RUN}/report.html")
    assert answer.status == 404 and b"forged" not in body


def test_a_report_of_another_store_is_said_to_be_missing_in_this_one(store, port):
    assert f"no such report in {store.root}" in ask(port, "/runs/elsewhere-44444444/report.html")[1].decode()


def test_whoever_watches_it_hears_that_it_answers(port):
    answer, body = ask(port, "/health")
    assert (answer.status, body) == (200, b"it answers\n")


def test_a_browser_that_goes_away_does_not_hurt(port):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    connection.request("GET", f"/{RUN}/report.html")
    connection.close()
    assert ask(port, "/")[0].status == 200


def test_the_command_says_where_it_is_and_ends_when_told_to(store):
    words = [sys.executable, "-m", "flows.commands.cli", "reports", "--store", str(store.root), "--port", "0"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as command:
        line = command.stdout.readline()
        assert f"reports of {store.root} on http://127.0.0.1:" in line
        assert ask(int(line.rpartition(":")[2]), "/")[0].status == 200
        command.send_signal(signal.SIGTERM)
        _, errors = command.communicate(timeout=60)
    assert command.returncode == 0
    assert "Traceback" not in errors


@pytest.mark.parametrize("more", [[], ["--host", "no.such.host.invalid"]])
def test_an_address_on_which_nobody_can_listen_is_wrong_input(store, port, capsys, more):
    assert cli.main(["reports", "--store", str(store.root), "--port", str(port), *more]) == 2
    assert "cannot listen there" in capsys.readouterr().err


def test_links_lead_to_the_server_where_there_is_one_and_else_to_the_file(store, monkeypatch):
    monkeypatch.delenv("MONTESSORI_REPORTS_URL", raising=False)
    assert report_link(store, RUN) == f"file://{store.root}/{RUN}/report.html"
    monkeypatch.setenv("MONTESSORI_REPORTS_URL", "http://127.0.0.1:4201/")
    assert report_link(store, RUN) == f"http://127.0.0.1:4201/{RUN}/report.html"


class Distant(Folder):
    """A store whose address is not a folder."""

    def locate(self, address: str) -> str:
        return f"s3://bucket/prefix/{address}"


def test_a_link_into_a_bucket_is_its_location(store, monkeypatch):
    monkeypatch.delenv("MONTESSORI_REPORTS_URL", raising=False)
    assert report_link(Distant(store.root), RUN) == f"s3://bucket/prefix/{RUN}/report.html"
