"""`make serve` as a person at a browser has it: the form, a run, its shards, its result and its report.

Needs Chromium (Debian's package `chromium`; Playwright brings none). With MONTESSORI_SCREENSHOTS=folder it leaves
what it saw there, as docs/ has it.
"""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness import CONFIG

pytest.importorskip("playwright")
from playwright.sync_api import Locator, Page, expect, sync_playwright
from prefect_server import eventually

CHROMIUM = Path("/usr/bin/chromium")
FLAGS = (
    "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--no-first-run",
)  # fmt: skip
LIGHT = "localStorage.setItem('color-scheme', JSON.stringify('light'))"
PAGE_MS = 60_000
RUN_MS = 240_000
SUBMISSIONS = 5
ROOT = Path(__file__).parents[2]

pytestmark = [
    pytest.mark.long,
    pytest.mark.xdist_group("browser"),
    pytest.mark.skipif(not CHROMIUM.exists(), reason=f"{CHROMIUM} is missing: apt-get install chromium"),
]


@pytest.fixture(scope="module")
def store(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store that lacks enough of the micro run for there to be something to see."""
    copied = Path(shutil.copytree(finished, tmp_path_factory.mktemp("browser") / "store"))
    for stage in ("responses", "warm-up", "influence", "evaluation", "runs"):
        shutil.rmtree(copied / stage)
    return copied


@pytest.fixture(scope="module")
def ui(store: Path, environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of the UI, with all that `make serve` starts."""
    ports = [str(port) for port in free_ports(2)]
    command = [
        sys.executable,
        "-m",
        "flows.deployment.serve",
        "--port",
        ports[0],
        "--reports-port",
        ports[1],
        "--store",
        store,
    ]
    folder = tmp_path_factory.mktemp("serve")
    paths = {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
    screen = folder / "screen"
    with screen.open("w") as output:
        serving = subprocess.Popen(command, cwd=folder, env=environment | paths, stdout=output)
    try:
        eventually(lambda: "Ctrl-C" in screen.read_text() or None, 180)
        yield f"http://127.0.0.1:{ports[0]}"
    finally:
        serving.send_signal(signal.SIGINT)
        code = serving.wait(120)
    assert code == 0
    assert not any(answers(port) for port in ports)


def free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def answers(port: str) -> bool:
    with socket.socket() as attempt:
        return attempt.connect_ex(("127.0.0.1", int(port))) == 0


@pytest.fixture
def page() -> Iterator[Page]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        context = browser.new_context(viewport={"width": 1280, "height": 900})
        context.add_init_script(LIGHT)
        context.set_default_timeout(PAGE_MS)
        expect.set_options(timeout=PAGE_MS)
        yield context.new_page()
        browser.close()


def seen(page: Page, name: str) -> None:
    """Keep what the page looks like now, if somebody wants it."""
    if folder := os.environ.get("MONTESSORI_SCREENSHOTS"):
        page.screenshot(path=Path(folder) / f"ui-{name}.png", animations="disabled")


def open_form(page: Page, ui: str) -> None:
    """From the UI's first page to the form of the deployment `montessori`."""
    page.goto(ui)
    page.get_by_role("button", name="Deployments").click()
    page.locator(".deployment-list__name", has_text="montessori").click()
    page.get_by_role("button", name="Run", exact=True).click()
    page.get_by_text("Custom run").click()
    field(page, "Settings").wait_for()


def field(page: Page, title: str) -> Locator:
    """The field of the form that has this title."""
    label = page.locator(".schema-form-property__label", has_text=re.compile(f"^{title}"))
    return page.locator(".schema-form-property").filter(has=label)


def choose(page: Page, title: str, option: str) -> None:
    """By the keyboard: of a list in Prefect 3.8's form, a click opens nothing but at its arrows."""
    field(page, title).locator(".p-select-button__control").press("Space")
    page.locator(".p-select-option", has_text=option).click()


def submit(page: Page, ui: str) -> None:
    """Start the run, and go to its page; the link that pops up goes away too soon on a slow machine.

    The form stays where the server refuses, as it does with a 503 while its SQLite is busy: then once more.
    """
    for _ in range(SUBMISSIONS):
        with page.expect_response(lambda answer: answer.url.endswith("/create_flow_run")) as answered:
            page.get_by_role("button", name="Submit").click()
        if answered.value.status != 503:
            break
    assert answered.value.ok, answered.value.text()
    page.goto(f"{ui}/runs/flow-run/{answered.value.json()['id']}")


def state(page: Page) -> Locator:
    return page.locator(".page-heading-flow-run .state-badge")


def tab(page: Page, name: str) -> None:
    page.locator(".p-tab", has_text=re.compile(f"^{name}$")).click()


def test_a_run_from_the_form_to_its_report(page: Page, ui: str, store: Path) -> None:
    open_form(page, ui)
    for title, help in {
        "Settings": "A settings file of Montessori",
        "Iterations": "0 is Self-Instruct alone",
        "Teacher": "A model folder or hub name",
        "Student": "A model folder or hub name",
        "Influence estimator": "The estimator of a point's influence",
        "Further settings": "for example dpo.beta=0.2",
        "Where tasks run": "beside the run",
        "Store": "A folder of the worker",
    }.items():
        expect(field(page, title)).to_contain_text(help)
    expect(field(page, "Settings").locator("textarea")).to_have_value("tiny")
    expect(field(page, "Store").locator("textarea")).to_have_value(str(store))

    page.locator(".p-label", has_text="Run Name").locator("input").fill("a first look")
    field(page, "Settings").locator("textarea").fill(str(CONFIG))
    field(page, "Iterations").locator("input").fill("1")
    choose(page, "Influence estimator", "taylor")
    field(page, "Further settings").get_by_role("button", name="Add item").click()
    field(page, "Further settings").locator("textarea").fill("compute.at_once=2")
    field(page, "Settings").scroll_into_view_if_needed()
    seen(page, "form")
    submit(page, ui)

    expect(page.locator(".page-heading-flow-run")).to_contain_text("micro: a first look")
    expect(page.get_by_text("responses 1/2").first).to_be_visible(timeout=RUN_MS)  # one that has ended, in the logs
    seen(page, "run")
    expect(state(page)).to_have_text("Completed", timeout=RUN_MS)

    tab(page, "Artifacts")
    expect(page.locator("body")).to_contain_text("31 tasks and shards")
    run = page.url
    page.get_by_text("shards", exact=True).last.click()
    expect(page.locator("body")).to_contain_text("31 tasks and shards: ")
    row = page.get_by_role("row").filter(has_text="Montessori iteration 1: influence 2/2")
    expect(row).to_contain_text("done")
    expect(page.get_by_role("row").filter(has_text="teacher from scratch")).to_contain_text("cached")
    seen(page, "shards")

    page.goto(run)
    tab(page, "Artifacts")
    page.get_by_text("result", exact=True).last.click()
    expect(page.get_by_role("row").filter(has_text="Self-Instruct")).to_contain_text("±")
    seen(page, "result")
    with page.context.expect_page() as opened:
        page.get_by_role("link", name="The whole report").click()
    report = opened.value
    expect(report.get_by_role("heading", name="micro").first).to_be_visible()


def test_settings_that_are_not_there_are_told_in_a_sentence(page: Page, ui: str) -> None:
    open_form(page, ui)
    field(page, "Settings").locator("textarea").fill("tinny")
    submit(page, ui)
    expect(state(page)).to_have_text("Failed")
    sentence = "config = tinny: no settings of that name; known: alpaca-mini, llama3-8b, tiny, tinyllama-1.1b"
    expect(page.get_by_text(re.compile(f"^{re.escape(sentence)}"))).to_be_visible()  # the log, which opens first
    tab(page, "Details")
    expect(page.get_by_text(sentence.partition(" known")[0])).to_be_visible()  # the state's message


def test_a_number_that_cannot_be_is_refused_by_the_form(page: Page, ui: str) -> None:
    open_form(page, ui)
    field(page, "Iterations").locator("input").fill("-1")
    page.get_by_role("button", name="Submit").click()
    told = "field 'iterations'. Failure reason: -1 is less than the minimum of 0"
    expect(page.get_by_text(told).first).to_be_visible()
