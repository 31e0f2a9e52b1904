import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import matplotlib
import pytest

from montessori.evaluation.card import Measure
from montessori.reporting.figures import Picture
from montessori.reporting.run.data import Iteration, Report, Run, ScoredPoint, System
from montessori.reporting.run.page import page, write

pytestmark = pytest.mark.xdist_group("report figures")  # or each worker draws them anew
NASTY = "</td></svg><script>alert(1)</script>\"'&\ud800\x00\u202e"


class Tags(HTMLParser):
    """What a browser would see: tags, ids, everything that could load or run something."""

    def __init__(self, text: str):
        super().__init__()
        self.tags: list[str] = []
        self.ids: list[str] = []
        self.targets: list[str] = []
        self.handlers: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for name, value in attrs:
            if name == "id":
                self.ids.append(value or "")
            elif name in ("src", "href", "xlink:href", "srcset", "data", "action", "poster"):
                self.targets.append(value or "")
            elif name.startswith("on"):
                self.handlers.append(name)


@pytest.fixture(scope="module")
def text(report: Report, pictures: dict[str, Picture]) -> str:
    return page(report, list(pictures.values()))


def test_the_page_shows_every_system_iteration_example_and_stage(report: Report, text: str) -> None:
    for system in report.systems:
        assert f'<th scope="row">{system.name}</th>' in text
    for iteration in report.iterations:
        assert f'<th scope="row">Iteration {iteration.number}</th>' in text
    assert "Reverse the word" in text
    assert "96% of the points are positive" in text
    assert all(f'id="artifact-{number}"' in text for number in range(1, len(report.stages) + 1))
    assert "iterations: 2" in text and "montessori run run.yaml" in text


def test_the_page_shows_the_estimate_beside_what_it_took(text: str) -> None:
    table = text[text.index("Estimate and actual") :]
    rows = [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row) for row in re.findall(r"<tr>(.*?)</tr>", table)]
    found = {row[0]: row[1:] for row in rows if row}
    assert found["instructions"] == ["231 k", "204 k", "1 min 12 s", "1 min 48 s", "1.25", "1.10"]
    assert found["teacher"] == ["", "", "–", "30 min 0 s", "", ""]
    assert found["In all"][:2] == ["231 k", "204 k"]
    assert "seeds" not in found  # less than a second


def test_the_page_loads_nothing_and_its_links_lead_somewhere(text: str) -> None:
    seen = Tags(text)
    assert seen.targets and all(target.startswith("#") for target in seen.targets)
    assert {target[1:] for target in seen.targets} <= set(seen.ids)
    assert len(seen.ids) == len(set(seen.ids))
    assert not re.search(r"https?://|url\((?!#)|@import", text)


def test_model_text_is_shown_and_never_interpreted(report: Report, tmp_path: Path) -> None:
    family: dict[str | None, float] = {NASTY: 0.7, "$x_{": 0.3}
    iteration = replace(
        report.iterations[0], families_before=family, families_after=family, split=NASTY, warning=NASTY,
        warm_up=[], dpo=[], sft=[],
    )  # fmt: skip
    stage = replace(report.stages[0], stage=NASTY, address=NASTY, label=NASTY, shard=NASTY)
    hostile = replace(
        report,
        run=Run(NASTY, NASTY, NASTY, NASTY, {NASTY: NASTY}, NASTY, NASTY),
        systems=[replace(report.systems[0], name=NASTY), replace(report.systems[1], name=NASTY + "2")],
        accuracy_kind=NASTY,
        iterations=[iteration],
        reference_families={NASTY},
        highest=[ScoredPoint(NASTY, NASTY * 100, 1e-5, 1, NASTY)],
        rejections={NASTY: 1},
        stages=[stage, replace(stage, address="b", parents=[NASTY])],
    )  # fmt: skip
    text = write(hostile, tmp_path).read_text(encoding="utf-8")
    seen = Tags(text)
    assert "script" not in seen.tags and not seen.handlers
    assert text.count("</html>") == 1
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text


def test_a_long_text_is_folded_and_cut_at_a_limit(text: str) -> None:
    assert "<summary>Explain why the sky is blue." in text
    assert "more characters)" in text
    assert len(text) < 600_000


def test_a_run_with_nothing_but_one_system_has_a_page(minimal: Report, tmp_path: Path) -> None:
    text = write(minimal, tmp_path).read_text(encoding="utf-8")
    assert "No fine-tuning" in text
    assert [p.name for p in (tmp_path / "figures").glob("*.svg")] == ["results.svg"]
    assert "influence-section" not in text


def test_a_run_with_nothing_at_all_has_a_page(tmp_path: Path) -> None:
    text = write(Report(Run("empty", "r", ""), []), tmp_path).read_text(encoding="utf-8")
    assert "<h1>empty</h1>" in text


@pytest.mark.parametrize(
    "iteration",
    [
        Iteration(1, [], float("nan"), 0, "zero"),
        Iteration(1, [float("nan"), float("inf")], 0.0, 0, "zero", momentum_influence=float("nan")),
        Iteration(1, [0.0, 0.0], 0.0, 0, "zero", momentum_influence=0.0),
        Iteration(1, [1e-300, 1e300], 1.0, 0, "momentum", families_after={None: 1.0}),
        Iteration(1, [1.0], 1.0, 0, "zero", families_before={"": 0.0}),
    ],
    ids=["no points", "none finite", "all zero", "extreme", "no share"],
)
def test_degenerate_iterations_are_drawn(iteration: Iteration, minimal: Report, tmp_path: Path) -> None:
    text = write(replace(minimal, iterations=[iteration]), tmp_path).read_text(encoding="utf-8")
    assert '<th scope="row">Iteration 1</th>' in text


def test_writing_again_gives_the_same_bytes_whatever_the_users_settings(
    report: Report, pictures: dict[str, Picture], text: str, tmp_path: Path
) -> None:
    with matplotlib.rc_context({"font.size": 31, "axes.grid": True}):
        path = write(report, tmp_path)
    assert path.read_text(encoding="utf-8") == text
    for picture in pictures.values():
        assert (tmp_path / "figures" / f"{picture.name}.svg").read_text(encoding="utf-8") == picture.svg
        assert (tmp_path / "figures" / f"{picture.name}.png").read_bytes() == picture.png
    assert len(list(tmp_path.rglob("*.*"))) == 17  # the page, eight figures in two formats


def test_a_system_without_a_finite_loss_is_listed(tmp_path: Path) -> None:
    broken = System("Diverged", 10, Measure(float("nan"), float("nan"), 5))
    text = write(Report(Run("r", "r", ""), [broken]), tmp_path).read_text(encoding="utf-8")
    assert '<th scope="row">Diverged</th><td>–</td>' in text
