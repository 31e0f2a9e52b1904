import re
import shutil
import subprocess
from pathlib import Path

import pytest
from scorecard_card import HOSTILE, hostile, realistic

from montessori.evaluation.bootstrap import against_baseline
from montessori.evaluation.card import Card
from montessori.reporting.latex import document, escape
from montessori.reporting.scorecard.tables import everything, marked

CARDS = {"realistic": realistic, "hostile": hostile}


@pytest.fixture(scope="module", params=CARDS)
def text(request: pytest.FixtureRequest) -> str:
    card: Card = CARDS[request.param]()
    return document(everything(card, marked(card), against_baseline(card)))


def test_every_group_and_environment_that_begins_ends(text: str) -> None:
    bare = re.sub(r"\\[{}%$&#_\\]", "", text)  # what is only shown, and ends of rows
    depth = 0
    for c in bare:
        depth += (c == "{") - (c == "}")
        assert depth >= 0
    assert depth == 0
    assert bare.count("$") % 2 == 0
    for name in ("table*", "tabular"):
        assert text.count(rf"\begin{{{name}}}") == text.count(rf"\end{{{name}}}") > 2


def test_every_row_has_as_many_cells_as_its_table(text: str) -> None:
    for align, body in re.findall(r"\\begin\{tabular\}\{@\{\}([lr]+)@\{\}\}(.*?)\\end\{tabular\}", text, re.S):
        rows = [line for line in body.splitlines() if line.endswith(r"\\")]
        assert rows
        for row in rows:
            cells = len(re.findall(r"(?<!\\)&", row)) + 1
            assert cells == len(align) or rf"\multicolumn{{{len(align)}}}" in row


def test_only_ascii_is_left_so_that_any_engine_reads_it(text: str) -> None:
    assert text.isascii()


def test_what_a_name_holds_is_shown_and_not_obeyed() -> None:
    shown = escape(HOSTILE)
    assert shown.startswith(r"50\%\_of \$x \& \{y\} \textbackslash{}input\textasciitilde{}\textasciicircum{}\#$<$b$>$")
    assert r"\'{e}[U+4E2D][U+1F600]" in shown
    assert escape("a -- b''c ?`") == r"a -{}- b'{}'c ?{`}"
    assert escape("Łódź, naïve, Çelik, ĵ, β±1, 5–6") == (
        r"\L{}\'{o}d\'{z}, na\"{\i}ve, \c{C}elik, \^{\j}, $\beta$$\pm$1, 5\textendash{}6"
    )
    assert escape("two\nlines\ud800\u202e") == "two lines"


def test_the_best_is_bold_the_second_underlined_and_the_published_below_a_line() -> None:
    card = realistic()
    text = document(everything(card, marked(card), against_baseline(card)))
    assert re.search(r"\\textbf\{[\d.]+\}\{\\tiny\\,\$\\pm\$\\,[\d.]+\}", text)
    assert re.search(r"\\underline\{[\d.]+\}\{\\tiny", text)
    assert re.search(r"\\midrule\n\\multicolumn\{11\}\{@\{\}l@\{\}\}\{\\emph\{Published, 8B students", text)
    assert text.count(r"\label{tab:") == len(set(re.findall(r"\\label\{(.*?)\}", text)))


@pytest.mark.skipif(not shutil.which("pdflatex"), reason="no pdflatex here")
@pytest.mark.parametrize("packages", ["booktabs", "booktabs,graphicx"])
def test_pdflatex_compiles_it(text: str, packages: str, tmp_path: Path) -> None:
    (tmp_path / "table.tex").write_text(text)
    (tmp_path / "paper.tex").write_text(
        rf"\documentclass{{article}}\usepackage{{{packages}}}\begin{{document}}\input{{table.tex}}\end{{document}}"
    )
    command = ["pdflatex", "-draftmode", "-interaction=nonstopmode", "-halt-on-error", "paper.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, errors="replace", check=False)
    assert done.returncode == 0, done.stdout[-2000:]
    assert "Missing character" not in (tmp_path / "paper.log").read_text(errors="replace")
