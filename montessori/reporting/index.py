"""The page that lists a store's reports: of runs, refreshes, evaluations and studies, the newest first."""

from collections.abc import Iterable
from html import escape

from montessori.artifacts.catalogue import Entry
from montessori.reporting.stylesheet import document
from montessori.reporting.text import count, size

KINDS = {"runs": "run", "refreshes": "refresh", "evaluations": "evaluation", "studies": "study"}
BESIDE = (
    "result.md",
    "summary.json",
    "run.yaml",
    "metrics.json",
    "table.csv",
    "table.tex",
    "suite.yaml",
    "table1.csv",
    "table2.csv",
    "table3.csv",
    "transfer.csv",
    "hyperparameters.csv",
    "tables.md",
    "tables.tex",
    "study.yaml",
)  # linked to, where a run has them


def page(found: Iterable[Entry], store: str) -> str:
    """The page of the entries that have a report; `store` says whose they are."""
    rows = [_row(entry) for entry in found if entry.manifest and "report.html" in entry.manifest["files"]]
    titles = ("Report", "Kind", "Made", "By", "Size", "Files")
    head = "".join(f'<th scope="col">{title}</th>' for title in titles)
    table = f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table></div>'
    body = f"""<header>
<p class="eyebrow">Montessori</p>
<h1>Reports</h1>
<p class="meta">{count(len(rows), "report")} in <span class="address">{escape(store)}</span></p>
</header>
<main><section>
{table if rows else "<p>No run has ended yet.</p>"}
</section></main>"""
    return document("Reports – Montessori", body)


def _row(entry: Entry) -> str:
    assert entry.manifest
    name = entry.address.partition("/")[2]
    who = entry.manifest["made_by"]
    cells = (KINDS[entry.stage], who["time"].replace("T", " ").replace("Z", " UTC"), entry.made_by, size(entry.bytes))
    link = f'<th scope="row"><a href="/{escape(entry.address)}/report.html">{escape(name)}</a></th>'
    beside = [
        f'<a href="/{escape(entry.address)}/{file}">{file}</a>' for file in BESIDE if file in entry.manifest["files"]
    ]
    return f"<tr>{link}{''.join(f'<td>{escape(cell)}</td>' for cell in cells)}<td>{' '.join(beside)}</td></tr>"
