"""A study as one HTML page that needs nothing else, with its tables, numbers and figures beside it.

In: a `Study` and its pictures.  Out: `report.html`, `result.md`, `tables.tex`, a CSV file a table and `figures/` in a
folder; the same bytes for the same study.
"""

from collections.abc import Sequence
from pathlib import Path

from montessori.reporting import html, latex, markdown
from montessori.reporting.figures import Picture
from montessori.reporting.study.data import Study
from montessori.reporting.study.findings import findings
from montessori.reporting.study.rows import ablations, missing, systems, transferred
from montessori.reporting.study.tables import csv_files, everything
from montessori.reporting.tables import Table
from montessori.reporting.text import count, duration

ON_THE_PAGE = {"table3", "hyperparameters"}  # and in tables.md, but not in result.md, which a terminal shows


def write(study: Study, pictures: Sequence[Picture], folder: Path) -> Path:
    """Write the page and all that stands beside it into `folder`; return the page's path."""
    tables = everything(study)
    sentences = findings(study)
    short = [table for table in tables if table.name not in ON_THE_PAGE]
    files = {
        "report.html": page(study, tables, sentences, pictures),
        "result.md": markdown.document(study.name, short, findings=sentences),
        "tables.md": markdown.document(study.name, tables, findings=sentences),
        "tables.tex": latex.document(tables),
        **csv_files(study),
    }
    return html.write(folder, files, pictures)


def page(study: Study, tables: Sequence[Table], sentences: Sequence[str], pictures: Sequence[Picture]) -> str:
    """Return the whole page."""
    groups = list(dict.fromkeys(row.group for row in ablations(study)))
    lacking, made = len(missing(study)), len(study.results) + len(study.transfer)
    return html.render(
        "study.html",
        name=study.name,
        study=study,
        compared=_compared(study, groups),
        facts={
            "systems": f"{len({row.name for row in systems(study)})}",
            "ablations": f"{len(groups)}" if groups else "",
            "students": f"{len(study.students)}" if len(study.students) > 1 else "",
            "seeds": f"{len(study.seeds)}",
            "results": f"{made} of {made + lacking}" if lacking else f"{made}",
            "computing time": duration(study.seconds) if study.seconds else "",
        },
        findings=sentences,
        warnings=[],
        pictures=pictures,
        tables={table.name: table for table in tables},
    )


def _compared(study: Study, groups: Sequence[str]) -> str:
    """Say in a line what was compared."""
    names = list(dict.fromkeys(row.name for row in systems(study)))
    parts = [", ".join(names)]
    parts += [f"ablations: {', '.join(groups)}"] if groups else []
    others = list(dict.fromkeys(row.student for row in transferred(study)))
    parts += [f"{count(len(study.students), 'student')}: {', '.join(study.students)}"] if any(study.students) else []
    parts += [f"transfer to {', '.join(others)}"] if any(others) else []
    parts.append(f"{'seed' if len(study.seeds) == 1 else 'seeds'} {', '.join(map(str, study.seeds))}")
    return " · ".join([*parts, f"tested against {study.baseline}"])
