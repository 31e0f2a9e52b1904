"""The page that lists a store's reports: of runs, refreshes, evaluations and studies, the newest first."""

from collections.abc import Iterable

from montessori.artifacts.catalogue import Entry
from montessori.reporting import html

KINDS = {"runs": "run", "refreshes": "refresh", "evaluations": "evaluation", "studies": "study"}


def page(entries: Iterable[Entry], store: str) -> str:
    """Return the page of the entries that have a report; `store` names their store."""
    reports = [entry for entry in entries if entry.manifest and "report.html" in entry.manifest["files"]]
    return html.render("index.html", reports=reports, store=store, kinds=KINDS)
