"""The page of a study and the files beside it."""

import re
from html.parser import HTMLParser

import pytest
from study_example import HOSTILE, MONTESSORI, hostile, realistic, single

from montessori.reporting.figures import Picture
from montessori.reporting.study.data import Study
from montessori.reporting.study.page import write

SECTIONS = ["systems", "figures", "ablations", "transfer", "cost", "examples", "missing", "settings", "replay"]


class Tags(HTMLParser):
    """What a browser would see: tags, whether they nest, ids, links, handlers."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.ids, self.targets, self.handlers, self.open = [], [], [], [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        if tag not in ("meta", "br"):
            self.open.append(tag)
        for name, value in attrs:
            if name == "id":
                self.ids.append(value)
            elif name in ("src", "href", "srcset", "data", "action"):
                self.targets.append(value)
            elif name.startswith("on"):
                self.handlers.append(name)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def picture(name):
    svg = '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 9 9"><g id="g"><rect id="r"/></g></svg>'
    return Picture(name, f"Figure {name}", f"what {name} shows", f"the caption of {name}", svg, b"\x89PNG")


PICTURES = [picture(name) for name in ("duels", "transfer", "cost", "root-verbs")]


def files(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write(realistic(), PICTURES, tmp_path_factory.mktemp("study")).parent


@pytest.fixture(scope="module")
def text(folder):
    return (folder / "report.html").read_text(encoding="utf-8")


def test_the_folder_holds_the_page_its_tables_and_its_figures(folder):
    figures = {f"figures/{p.name}.{kind}" for p in PICTURES for kind in ("svg", "png")}
    tables = {"table1.csv", "table2.csv", "table3.csv", "transfer.csv", "tables.tex", "tables.md", "result.md"}
    tables |= {"hyperparameters.csv"}
    assert set(files(folder)) == figures | tables | {"report.html"}


def test_the_page_nests_well_loads_nothing_and_its_links_lead_somewhere(text):
    seen = Tags(text)
    assert not seen.open and "script" not in seen.tags and not seen.handlers
    assert [id.removesuffix("-section") for id in seen.ids if id.endswith("-section")] == SECTIONS
    assert seen.targets and {target[1:] for target in seen.targets} <= set(seen.ids)
    assert len(seen.ids) == len(set(seen.ids))
    assert not re.search(r"https?://|url\((?!#)|@import", text)


def test_the_header_says_what_was_compared_and_what_it_took(text):
    head = text[: text.index("<nav")]
    assert "ablations: Signal, Teacher update" in head and "2 students: 8B, 1.1B" in head
    assert "seeds 0, 1, 2, 3, 4" in head and "tested against Self-Instruct" in head
    assert "69 of 70" in head and "25 h 20 min" in head
    assert f"{MONTESSORI} has the lowest mean reference loss" in head


def test_figures_stand_in_their_chapters_with_their_captions(text):
    place = {p.name: text.index(f'<figure id="{p.name}">') for p in PICTURES}
    section = {name: text.index(f'id="{name}-section"') for name in SECTIONS}
    assert section["figures"] < place["duels"] < place["root-verbs"] < section["ablations"]
    assert section["transfer"] < place["transfer"] < section["cost"] < place["cost"] < section["examples"]
    assert "the caption of duels" in text


def test_marks_published_rows_and_what_is_missing_are_shown(text):
    assert '<strong>2.292*</strong> <span class="error">± 0.022</span>' in text
    assert f'<tr class="published"><th scope="row">{MONTESSORI}</th>' in text
    assert "4 of 5" in text and "the teacher wrote 12 of 10,000 points" in text


def test_the_page_says_how_to_make_it_again(text):
    replay = text[text.index('id="replay-section"') :]
    assert "montessori study study.yaml" in replay and "seeds: 5" in replay and "2.13.0" in replay


def test_every_table_scrolls_in_a_box_of_its_own(text):
    assert text.count("<table") == text.count('<div class="scroll"><table')


def test_markdown_tells_the_findings_and_then_the_tables(folder):
    text = (folder / "result.md").read_text(encoding="utf-8")
    lines = text.splitlines()
    assert lines[0] == "# table-1-and-2" and lines[2].startswith("- Student 8B: Montessori")
    assert text.index("## Table 1. Systems") < text.index("## Table 2. Ablations")
    assert "## Table 3" not in text and "Hyperparameters" not in text  # these are on the page
    assert r"| **2.292\* ± 0.022** |" in text
    everything = (folder / "tables.md").read_text(encoding="utf-8")
    assert "## Table 3" in everything and "## Hyperparameters" in everything


def test_whatever_models_and_names_hold_is_shown_and_never_interpreted(tmp_path):
    text = write(hostile(), [], tmp_path).read_text(encoding="utf-8")
    seen = Tags(text)
    assert not seen.open and "script" not in seen.tags and not seen.handlers and "b" not in seen.tags
    assert text.count("</html>") == 1 and "&lt;script&gt;alert(1)&lt;/script&gt;" in text
    outside = re.sub(r'<(div|details) class="text".*?</\1>|<pre>.*?</pre>', "", text, flags=re.S)
    assert "\u202e" not in outside  # it would turn our own words around
    assert "<script>" not in (tmp_path / "result.md").read_text(encoding="utf-8")
    assert HOSTILE not in (tmp_path / "tables.tex").read_text(encoding="utf-8")


def test_the_page_of_one_seed_says_that_there_is_no_error(tmp_path):
    text = write(single(), [], tmp_path).read_text(encoding="utf-8")
    assert "One seed: there is no standard error" in text and "± 0" not in text
    assert "nan" not in re.sub(r"<style>.*?</style>", "", text, flags=re.S).lower()


def test_a_study_of_which_everything_failed_has_a_page(tmp_path):
    empty = Study("s", "s", "montessori study", "", [], "Self-Instruct", [], [0], [""])
    text = write(empty, [], tmp_path).read_text(encoding="utf-8")
    assert not Tags(text).open and "There are no results yet." in text


def test_writing_again_gives_the_same_bytes(tmp_path):
    for made in (realistic, hostile):
        first, second = (write(made(), PICTURES, tmp_path / made.__name__ / name).parent for name in "ab")
        assert files(first) == files(second)
