"""An evaluation as one HTML page that needs nothing else, with its tables, numbers and figures beside it.

In: a `Card`.  Out: `report.html`, `figures/`, `metrics.json`, `result.md`, `table.csv` and `table.tex` in a folder; the
same bytes for the same card.
"""

import json
from collections.abc import Sequence
from pathlib import Path

from montessori.evaluation.bootstrap import against_baseline
from montessori.evaluation.card import SPENT, Card, Example
from montessori.reporting import html, latex, markdown
from montessori.reporting.figures import Picture
from montessori.reporting.scorecard.figures import draw
from montessori.reporting.scorecard.metrics import metrics, numbers
from montessori.reporting.scorecard.tables import Marks, everything, judge_ability, marked, ordered, protocol
from montessori.reporting.tables import Table
from montessori.reporting.text import compact, duration, listed


def write(card: Card, folder: Path) -> Path:
    """Write the page and all that stands beside it into `folder`; return the page's path."""
    leaders, differences = marked(card), against_baseline(card)
    tables = everything(card, leaders, differences)
    short = [each for each in tables if not each.name.startswith("categories-")]  # MMLU alone has 57
    pictures = draw(card)
    files = {
        "metrics.json": json.dumps(metrics(card, differences), indent=1, allow_nan=False) + "\n",
        "result.md": markdown.document(card.name, short, warnings=card.warnings, notes=[judge_ability(card)]),
        "table.csv": numbers(card),
        "table.tex": latex.document(tables),
        "report.html": page(card, tables, leaders, pictures),
    }
    return html.write(folder, files, pictures)


def page(card: Card, tables: Sequence[Table], leaders: Marks, pictures: Sequence[Picture]) -> str:
    """Return the whole page."""
    shown = [*tables, protocol(card)] if card.columns else tables
    return html.render(
        "scorecard.html",
        name=card.name,
        card=card,
        facts=_facts(card),
        findings=findings(card, leaders),
        warnings=card.warnings,
        pictures=pictures,
        tables={table.name: table for table in shown},
        verdicts=_verdicts(card),
        ability=judge_ability(card),
        usage={
            f"{kind}: {name.replace('_', ' ')}": f"{value:,.10g}"
            for kind, used in card.usage.items()
            for name, value in used.items()
        },
    )


def findings(card: Card, leaders: Marks) -> list[str]:
    """Say who is ahead of all others by more than the noise, and where nobody is."""
    if len(card.models) < 2:
        return []
    ahead: dict[str, list[str]] = {}
    level: list[str] = []
    for column in ordered(card):
        best = next((model for model, mark in leaders[column.key].items() if mark == "best"), None)
        (ahead.setdefault(best, []) if best else level).append(column.name)
    sentences = [
        f"{model} leads all others by more than the noise in {listed(names)}." for model, names in ahead.items()
    ]
    if level:
        sentences.append(f"No model leads all others by more than the noise in {listed(level)}.")
    return sentences


def _facts(card: Card) -> dict[str, str]:
    """Return the numbers at the head of the page."""
    judge = card.usage.get("the judge", {})
    tokens = judge.get("prompt_tokens", 0) + judge.get("completion_tokens", 0)
    spent = {kind: card.usage.get(kind, {}).get("seconds") for kind in SPENT[:2]}
    return {
        "models": f"{len(card.models)}",
        "measures": f"{len(card.columns)}",
        "judge's prompts": f"{judge['prompts']:,.0f}" if judge.get("prompts") else "",
        "judge's tokens": compact(tokens) if tokens else "",
        "US dollars": f"{judge['usd']:,.2f}" if judge.get("usd") else "",
        **{f"time of {kind}": duration(seconds) if seconds else "" for kind, seconds in spent.items()},
    }


def _verdicts(card: Card) -> dict[str, list[Example]]:
    """Return the verdicts to look at by the name of their column."""
    names = {name: column.name for column in card.columns for name in (column.key, column.name)}
    return {
        names.get(key, key): [example for example in card.examples if example.column == key]
        for key in dict.fromkeys(example.column for example in card.examples)
    }
