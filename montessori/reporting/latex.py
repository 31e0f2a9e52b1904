r"""Tables as LaTeX with booktabs, to be \input into a paper.

Letters with accents become commands, symbols mathematics. What neither can show, such as a name in Chinese, is told by
its code point: [U+4E2D].
"""

import re
import unicodedata
from collections.abc import Iterable, Sequence
from itertools import zip_longest

from montessori.reporting.tables import Cell, Table
from montessori.reporting.text import label

SPECIAL = {c: rf"\{c}" for c in "&%$#_{}"} | {
    "\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "`": "{`}",
    "<": "$<$", ">": "$>$", "|": "$|$", '"': r"\textquotedblright{}",
}  # fmt: skip
SYMBOLS = {
    "±": r"$\pm$", "×": r"$\times$", "−": "$-$", "·": r"$\cdot$", "≤": r"$\leq$", "≥": r"$\geq$", "√": r"$\surd$",
    "↑": r"$\uparrow$", "↓": r"$\downarrow$", "→": r"$\rightarrow$", "←": r"$\leftarrow$", "°": r"$^\circ$",
    **{digit: f"$^{place}$" for place, digit in enumerate("⁰¹²³⁴⁵⁶⁷⁸⁹")},
    "⁻": "$^-$", "†": r"\dag{}", "–": r"\textendash{}", "—": r"\textemdash{}", "…": r"\ldots{}",
    "‘": "{`}", "’": "'", "“": r"\textquotedblleft{}", "”": r"\textquotedblright{}",
    "ß": r"\ss{}", "æ": r"\ae{}", "Æ": r"\AE{}", "œ": r"\oe{}", "Œ": r"\OE{}", "ø": r"\o{}", "Ø": r"\O{}",
    "ł": r"\l{}", "Ł": r"\L{}", "ı": r"\i{}",
}  # fmt: skip
GREEK = (
    "alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta", "theta", "iota", "kappa", "lambda", "mu", "nu", "xi",
    "pi", "rho", "sigma", "tau", "upsilon", "phi", "chi", "psi", "omega",
)  # fmt: skip
SYMBOLS |= {letter: rf"$\{name}$" for letter, name in zip("αβγδεζηθικλμνξπρστυφχψω", GREEK, strict=True)}
ACCENTS = {
    "\u0300": "`", "\u0301": "'", "\u0302": "^", "\u0303": "~", "\u0304": "=", "\u0306": "u", "\u0307": ".",
    "\u0308": '"', "\u030a": "r", "\u030b": "H", "\u030c": "v", "\u0327": "c",
}  # fmt: skip
MARKS = {"best": r"\textbf{{{}}}", "second": r"\underline{{{}}}", None: "{}"}
HEAD = r"""% Needs \usepackage{booktabs}. With graphicx too, a table that is wider than the page is made smaller.
\providecommand{\resizebox}[3]{#3}
"""
SHRUNK = r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%"


def document(tables: Iterable[Table]) -> str:
    """Write all tables, each a float of its own, as wide as the page."""
    return HEAD + "\n".join(_float(table) for table in tables)


def escape(text: str) -> str:
    """Return `text` on one line as LaTeX shows it, whatever it holds."""
    line = unicodedata.normalize("NFC", label(text, None))
    return re.sub(r"([-'])(?=\1)", r"\1{}", "".join(map(_character, line)))  # two of them would become one sign


def _float(table: Table) -> str:
    width = len(table.header)
    align = "".join("l" if words else "r" for words in table.words)
    lines = [_row(escape(head.title) for head in table.header)]
    for line in zip_longest(*(head.about for head in table.header), fillvalue=""):
        lines.append(_row(map(escape, line)))
    for group in table.groups:
        lines.append(r"\midrule")
        if group.title:
            lines.append(rf"\multicolumn{{{width}}}{{@{{}}l@{{}}}}{{\emph{{{escape(group.title)}}}}} \\")
        lines += [_row(map(_cell, row)) for row in group.rows]
    return "\n".join(
        [
            r"\begin{table*}",
            r"\centering\scriptsize\setlength{\tabcolsep}{3pt}",
            rf"\caption{{{escape(table.title)}. {escape(table.caption)}}}",
            rf"\label{{tab:{re.sub('[^a-z0-9]+', '-', table.name.lower())}}}",
            SHRUNK,
            rf"\begin{{tabular}}{{@{{}}{align}@{{}}}}",
            r"\toprule",
            *lines,
            r"\bottomrule",
            r"\end{tabular}}",
            r"\end{table*}",
            "",
        ]
    )


def _row(cells: Iterable[str]) -> str:
    # A row that begins with a bracket would be read as the last one's distance.
    return rf"{{}}{' & '.join(cells)} \\"


def _cell(cell: Cell) -> str:
    error = rf"\,$\pm$\,{escape(cell.error)}" if cell.error else ""
    note = f" {escape(cell.note)}" if cell.note else ""
    return MARKS[cell.mark].format(escape(cell.value)) + (rf"{{\tiny{error}{note}}}" if error or note else "")


def _character(c: str) -> str:
    if c in SPECIAL or c in SYMBOLS:
        return SPECIAL.get(c) or SYMBOLS[c]
    if c.isascii():
        return c
    parts = unicodedata.normalize("NFD", c)
    base, accents = parts[0], parts[1:]
    if base.isascii() and base.isalpha() and accents and all(accent in ACCENTS for accent in accents):
        return _accented(base, accents)
    return f"[U+{ord(c):04X}]"


def _accented(base: str, accents: Sequence[str]) -> str:
    for accent in accents:
        dotless = f"\\{base}" if base in "ij" and ACCENTS[accent] != "c" else base
        base = f"\\{ACCENTS[accent]}{{{dotless}}}"
    return base
