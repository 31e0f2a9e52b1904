"""A study as one HTML page that needs nothing else, with its tables, numbers and figures beside it.

In: a `Study` and its pictures.  Out: `report.html`, `result.md`, `tables.tex`, a CSV file a table and `figures/` in a
folder; the same bytes for the same study.
"""

from collections.abc import Sequence
from pathlib import Path

from montessori.reporting import html
from montessori.reporting.figures import Picture
from montessori.reporting.html import figure, model_text, raw_table, section
from montessori.reporting.scorecard import latex, markdown
from montessori.reporting.scorecard.html import MORE, escape, folded, table
from montessori.reporting.scorecard.layout import Table
from montessori.reporting.study import numbers
from montessori.reporting.study.data import Example, Study
from montessori.reporting.study.findings import findings
from montessori.reporting.study.rows import ablations, missing, systems, transferred
from montessori.reporting.study.tables import everything
from montessori.reporting.stylesheet import document
from montessori.reporting.text import count, duration, scientific

ON_THE_PAGE = {"table3", "hyperparameters"}  # and in tables.md, but not in result.md, which a terminal shows
PLACED = {"transfer", "cost"}  # figures that have a chapter of their own; all others stand behind table 1
# The first column stays where it is while the others scroll.
STYLE = f"""{MORE}
main, header {{ max-width: 80rem; }}
nav {{ padding: .6rem max(1.5rem, calc(50% - 38.5rem)); }}
figure, .findings, .warning, main > section > p {{ max-width: 62rem; }}
.wide tbody th[scope=row], .wide thead th:first-child {{ position: sticky; left: 0; background: var(--paper); }}
"""


def write(study: Study, pictures: Sequence[Picture], folder: Path) -> Path:
    """Write the page and all that stands beside it into `folder`; the page's path."""
    tables = everything(study)
    sentences = findings(study)
    (folder / "figures").mkdir(parents=True, exist_ok=True)
    for picture in pictures:
        (folder / "figures" / f"{picture.name}.svg").write_text(picture.svg, encoding="utf-8")
        (folder / "figures" / f"{picture.name}.png").write_bytes(picture.png)
    files = {
        "report.html": page(study, tables, sentences, pictures),
        "result.md": to_markdown(study, [one for one in tables if one.name not in ON_THE_PAGE], sentences),
        "tables.md": to_markdown(study, tables, sentences),
        "tables.tex": latex.document(tables),
        **numbers.files(study),
    }
    for name, text in files.items():
        # Models' text can hold half of a surrogate pair, which no encoding can write.
        (folder / name).write_bytes(text.encode("utf-8", errors="replace"))
    return folder / "report.html"


def to_markdown(study: Study, tables: Sequence[Table], sentences: Sequence[str]) -> str:
    """The findings as a list, then the tables with their captions."""
    parts = [f"# {markdown.plain(study.name)}", "\n".join(f"- {markdown.plain(sentence)}" for sentence in sentences)]
    for each in tables:
        parts += [f"## {markdown.plain(each.title)}", markdown.rows_of(each), markdown.plain(each.caption)]
    return "\n\n".join(part for part in parts if part) + "\n"


def page(study: Study, tables: Sequence[Table], sentences: Sequence[str], pictures: Sequence[Picture]) -> str:
    """The whole page."""
    tabled = {each.name: each for each in tables}
    drawn: dict[str, list[str]] = {}
    for picture in pictures:
        drawn.setdefault(picture.name if picture.name in PLACED else "", []).append(figure(picture))

    def result(name: str) -> list[str]:
        told = [table(tabled[name], titled=False)] if name in tabled else []
        return told + ([folded(tabled[f"differences-{name}"])] if f"differences-{name}" in tabled else [])

    chapters = [
        ("systems-section", "Systems", result("table1")),
        ("figures-section", "Figures", drawn.get("", [])),
        ("ablations-section", "Ablations", result("table2")),
        ("transfer-section", "Transfer", [*drawn.get("transfer", []), *result("transfer")]),
        ("cost-section", "Cost", drawn.get("cost", [])),
        ("examples-section", "Examples", _examples(study)),
        ("missing-section", "Missing results", result("missing")),
        ("settings-section", "Hyperparameters", result("hyperparameters")),
        ("replay-section", "Replay", _replay(study)),
    ]
    sections = {anchor: section(anchor, title, parts) for anchor, title, parts in chapters}
    links = "".join(f'<a href="#{anchor}">{title}</a>' for anchor, title, _ in chapters if sections[anchor])
    body = "\n".join(text for text in sections.values() if text)
    body = f"""{_header(study, sentences)}
<nav aria-label="Sections">{links}</nav>
<main>
{body}
</main>"""
    return document(f"{escape(study.name)} – Montessori study", body, STYLE)


def _header(study: Study, sentences: Sequence[str]) -> str:
    groups = list(dict.fromkeys(row.group for row in ablations(study)))
    lacking, made = len(missing(study)), len(study.results) + len(study.transfer)
    facts = {
        "systems": f"{len({row.name for row in systems(study)})}",
        "ablations": f"{len(groups)}" if groups else "",
        "students": f"{len(study.students)}" if len(study.students) > 1 else "",
        "seeds": f"{len(study.seeds)}",
        "results": f"{made} of {made + lacking}" if lacking else f"{made}",
        "computing time": duration(study.seconds) if study.seconds else "",
    }
    shown = "".join(f"<div><dt>{name}</dt><dd>{value}</dd></div>" for name, value in facts.items() if value)
    told = "".join(f"<li>{escape(sentence)}</li>" for sentence in sentences)
    return (
        f'<header>\n<p class="eyebrow">Montessori study</p>\n<h1>{escape(study.name)}</h1>\n'
        f'<p class="meta">Study <span class="address">{escape(study.id)}</span> · {escape(_compared(study, groups))}'
        f'</p>\n<ul class="findings">{told}</ul>\n<dl class="facts">{shown}</dl>\n</header>'
    )


def _compared(study: Study, groups: Sequence[str]) -> str:
    """What was compared, in a line."""
    names = list(dict.fromkeys(row.name for row in systems(study)))
    parts = [", ".join(names)]
    parts += [f"ablations: {', '.join(groups)}"] if groups else []
    others = list(dict.fromkeys(row.student for row in transferred(study)))
    parts += [f"{count(len(study.students), 'student')}: {', '.join(study.students)}"] if any(study.students) else []
    parts += [f"transfer to {', '.join(others)}"] if any(others) else []
    parts.append(f"{'seed' if len(study.seeds) == 1 else 'seeds'} {', '.join(map(str, study.seeds))}")
    return " · ".join([*parts, f"tested against {study.baseline}"])


def _examples(study: Study) -> list[str]:
    return [
        _pairs(title, found)
        for title, found in (("Highest influence", study.highest), ("Lowest influence", study.lowest))
        if found
    ]


def _pairs(title: str, examples: Sequence[Example]) -> str:
    rows = [
        f'<tr><td><span class="influence">{scientific(example.influence, 2)}</span></td>'
        f"<td>{model_text(example.instruction)}</td><td>{model_text(example.response)}</td></tr>"
        for example in examples
    ]
    head = (
        '<th scope="col" class="narrow">Influence (nats/token)</th><th scope="col">Instruction</th>'
        '<th scope="col">Response</th>'
    )
    return f"<h3>{title}</h3>" + raw_table(head, rows, kind="examples")


def _replay(study: Study) -> list[str]:
    parts = [f"<p>Made again by:</p><pre>{html.escape(study.command)}</pre>"]
    if study.settings_yaml:
        settings = f"<pre>{html.escape(study.settings_yaml)}</pre>"
        parts.append(f'<details class="fold"><summary>Settings</summary>{settings}</details>')
    if study.versions:
        rows = [f"<tr><td>{escape(name)}</td><td>{escape(v)}</td></tr>" for name, v in study.versions.items()]
        versions = raw_table('<th scope="col">Package</th><th scope="col">Version</th>', rows, kind="artifacts")
        parts.append(f'<details class="fold"><summary>Versions</summary>{versions}</details>')
    return parts
