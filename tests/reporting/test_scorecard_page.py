import html
import json
import re
import struct
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import matplotlib
import pytest
from scorecard_card import MODELS, hostile, measure, realistic, score

from montessori.evaluation.card import Card, Column, Duel, Measure, Score
from montessori.reporting.scorecard.figures import draw
from montessori.reporting.scorecard.page import write

SECTIONS = ["results", "comparisons", "categories", "duels", "examples", "contamination", "judge", "protocol", "replay"]


class Tags(HTMLParser):
    """What a browser would see: tags, whether they nest, ids, everything that could load or run something."""

    def __init__(self, text: str):
        super().__init__()
        self.tags: list[str] = []
        self.ids: list[str] = []
        self.targets: list[str] = []
        self.handlers: list[str] = []
        self.open: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag not in ("meta", "br"):
            self.open.append(tag)
        for name, value in attrs:
            if name == "id":
                self.ids.append(value or "")
            elif name in ("src", "href", "xlink:href", "srcset", "data", "action", "poster"):
                self.targets.append(value or "")
            elif name.startswith("on"):
                self.handlers.append(name)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@pytest.fixture(scope="module")
def card() -> Card:
    return realistic()


@pytest.fixture(scope="module")
def folder(card: Card, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(card, tmp_path_factory.mktemp("page")).parent


@pytest.fixture(scope="module")
def text(folder: Path) -> str:
    return (folder / "report.html").read_text(encoding="utf-8")


def words(svg: str) -> str:
    """The text in an SVG, as one would search for it."""
    return " ".join(ElementTree.fromstring(svg).itertext())


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_folder_holds_the_page_its_figures_and_its_numbers(folder: Path) -> None:
    figures = {f"figures/{name}.{kind}" for name in ("values", "duels", "mt-bench") for kind in ("svg", "png")}
    assert set(files(folder)) == figures | {"report.html", "metrics.json", "result.md", "table.csv", "table.tex"}
    assert json.loads((folder / "metrics.json").read_text())["models"][MODELS[1]]["mt_bench"]["n"] == 160


def test_the_page_has_every_section_and_nests_well(text: str) -> None:
    seen = Tags(text)
    assert not seen.open
    assert [id.removesuffix("-section") for id in seen.ids if id.endswith("-section")] == SECTIONS
    assert all(f'<a href="#{name}-section">' in text for name in SECTIONS)


def test_the_page_loads_nothing_and_its_links_lead_somewhere(text: str) -> None:
    seen = Tags(text)
    assert "script" not in seen.tags and not seen.handlers
    assert seen.targets and {target[1:] for target in seen.targets} <= set(seen.ids)
    assert len(seen.ids) == len(set(seen.ids))
    assert not re.search(r"https?://|url\((?!#)|@import", text)


def test_the_page_shows_results_with_marks_and_published_rows(text: str) -> None:
    table = text[text.index("results-section") : text.index("<figure")]
    assert re.search(r"<strong>64\.0</strong> <span class=\"error\">± 2\.0</span>", table)
    assert "<u>" in table and '<tr class="published"><th scope="row">Self-Reward*, iteration 2</th>' in table
    assert "leads all others by more than the noise in AlpacaEval LC" in text
    assert "No model leads all others by more than the noise in GPQA, GSM8K and HellaSwag." in text


def test_warnings_stand_before_the_results(text: str) -> None:
    assert text.index("256 of AlpacaEval") < text.index('id="results-section"')


def test_the_page_tells_how_it_was_measured_and_what_replays_it(text: str) -> None:
    protocol = text[text.index('id="protocol-section"') :]
    assert "mmlu, acc" in protocol and "805 instructions; against Self-Instruct" in protocol
    assert "No fine-tuning: no length control: too few models" in protocol
    assert "Montessori iteration 1 and Montessori iteration 2: selected on the first 256" in protocol
    assert "montessori evaluate paper.yaml" in protocol and "seed: 0" in protocol and "0.4.13" in protocol


def test_examples_are_shown_with_what_the_judge_said(text: str) -> None:
    shown = html.unescape(text[text.index('id="examples-section"') : text.index('id="contamination-section"')])
    assert "Light scatters." in shown and "Rating: [[2]]" in shown and "0.97" in shown
    assert shown.count("The answer it is compared with") == 1  # a grade has none
    assert "Judge's preference for the answer, 0 to 1" in shown and "Judge's grade, 1 to 10" in shown
    assert f"A is {MODELS[3]}" in shown and f"A is {MODELS[1]}" in shown


def test_the_time_is_that_of_all_stages_by_who_worked(text: str) -> None:
    header = html.unescape(text[: text.index("</header>")])
    assert "<dt>time of the models</dt><dd>25 h 0 min</dd>" in header
    assert "<dt>time of the judge</dt><dd>1 h 10 min</dd>" in header
    assert "<dt>judge's tokens</dt><dd>5.1 M</dd>" in header


def test_long_tables_of_categories_are_folded(text: str) -> None:
    assert "<summary>MMLU by category: 57 rows</summary>" in text
    assert "<summary>MT-Bench by category" not in text


def test_a_model_with_a_long_name_does_not_make_a_table_of_categories_wider_than_the_page(tmp_path: Path) -> None:
    name = "organisation/Llama-3.2-1B-Instruct-montessori-iteration-"
    names = [f"{name}{number}" for number in range(6)]
    column = Column("MT-Bench", "mt_bench", "1–10")
    grades = {"math": measure([3, 4]), "stem": measure([5])}
    card = Card("c", "c", names, [column], {(n, "mt_bench"): Score(measure([3, 4, 5]), {}, grades) for n in names})
    text = write(card, tmp_path).read_text(encoding="utf-8")
    assert text.count('<th scope="col" class="long">organisation/') == len(names)
    assert "5.00</td>" in text  # one question has no error


def test_whatever_models_and_names_hold_is_shown_and_never_interpreted(tmp_path: Path) -> None:
    text = write(hostile(), tmp_path).read_text(encoding="utf-8")
    seen = Tags(text)
    assert not seen.open and "script" not in seen.tags and not seen.handlers and "b" not in seen.tags
    assert text.count("</html>") == 1 and "&lt;script&gt;alert(1)&lt;/script&gt;" in text
    outside = re.sub(r'<(div|details) class="text".*?</\1>|<pre>.*?</pre>', "", text, flags=re.S)
    assert "\u202e" not in outside  # it would turn our own words around


def test_writing_again_gives_the_same_bytes_whatever_the_users_settings(tmp_path: Path) -> None:
    first = write(hostile(), tmp_path / "first").parent
    with matplotlib.rc_context({"font.size": 31, "axes.grid": True}):
        second = write(hostile(), tmp_path / "second").parent
    assert files(first) == files(second)


@pytest.mark.parametrize(
    "bare",
    [
        Card("c", "c", [], [], {}),
        Card("c", "c", ["only"], [Column("A", "a", "%")], {("only", "a"): score({"1": 1.0})}),
        Card("c", "c", ["x", "y"], [Column("A", "a", "%")], {("x", "a"): Score(Measure(float("nan"), 0, 0), {})}),
        Card("c", "c", ["x", "y"], [], {}, duels=[Duel("x", "y", 0, 0, 0, 5)]),
    ],
    ids=["nothing", "one model", "no readable verdict", "a duel without verdicts"],
)
def test_a_card_with_hardly_anything_has_a_page(bare: Card, tmp_path: Path) -> None:
    text = write(bare, tmp_path).read_text(encoding="utf-8")
    assert not Tags(text).open and "nan" not in re.sub(r"<style>.*?</style>", "", text, flags=re.S).lower()


def test_figures_name_every_model_and_say_what_they_show(card: Card, folder: Path, text: str) -> None:
    drawn = {path.stem: words(path.read_text(encoding="utf-8")) for path in (folder / "figures").glob("*.svg")}
    for path in (folder / "figures").glob("*.png"):
        width, height = struct.unpack(">II", path.read_bytes()[16:24])
        assert width > 1500 and height > 300
    assert all(model in drawn["values"] for model in MODELS)
    assert drawn["values"].count("±") == len(card.scores)
    assert "51%" in drawn["duels"] and "412 wins, 203 ties, 190 losses" in text
    assert all(name in drawn["mt-bench"] for name in ("writing", "humanities", *MODELS))


def test_two_categories_are_drawn_as_bars_and_more_as_a_ring() -> None:
    grades = {"a": measure([3, 4]), "b": measure([5, 6])}
    column = Column("MT-Bench", "mt_bench", "1–10")
    few = Card("c", "c", ["x"], [column], {("x", "mt_bench"): Score(measure([3, 4, 5, 6]), {}, grades)})
    more = replace(few, scores={("x", "mt_bench"): Score(measure([3.0]), {}, {**grades, "c": measure([9])})})
    bars, ring = (words({p.name: p.svg for p in draw(card)}["mt-bench"]) for card in (few, more))
    assert "1–10" in bars  # below its axes; the ring has its grades on a spoke, up to the highest
    assert "1–10" not in ring and "9" in ring.split() and "10" not in ring.split()


def test_names_that_differ_only_at_their_end_stay_apart_in_a_figure() -> None:
    names = [f"organisation/a-student-of-many-words-iteration-{i}" for i in (1, 2)]
    column = Column("A", "a", "%")
    card = Card("c", "c", names, [column], {(name, "a"): score({"1": 1.0, "2": 0.0}) for name in names})
    (picture,) = draw(card)
    assert "iteration-1" in words(picture.svg) and "iteration-2" in words(picture.svg)


def test_a_name_with_a_backslash_reaches_the_page(tmp_path: Path) -> None:
    card = Card("c", "c", [r"models\iteration\1"], [Column("A", "a", "%")], {})
    scored = replace(card, scores={(r"models\iteration\1", "a"): score({"1": 1.0})})
    assert r"models\iteration\1" in write(scored, tmp_path).read_text(encoding="utf-8")
