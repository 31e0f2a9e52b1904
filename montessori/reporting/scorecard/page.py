"""An evaluation as one HTML page that needs nothing else, with its tables, numbers and figures beside it.

In: a `Card`.  Out: `report.html`, `figures/`, `metrics.json`, `result.md`, `table.csv` and `table.tex` in a folder; the
same bytes for the same card.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from montessori.evaluation.bootstrap import against_baseline
from montessori.evaluation.card import SPENT, Card, Example
from montessori.reporting import html
from montessori.reporting.figures import Picture
from montessori.reporting.html import figure, model_text, raw_table, section
from montessori.reporting.scorecard import latex, markdown
from montessori.reporting.scorecard.figures import draw
from montessori.reporting.scorecard.html import MORE, escape, folded, table
from montessori.reporting.scorecard.layout import Cell, Group, Head, Table, arrow, ordered, span
from montessori.reporting.scorecard.metrics import metrics, numbers
from montessori.reporting.scorecard.tables import Marks, everything, judge_ability, marked
from montessori.reporting.stylesheet import document
from montessori.reporting.text import compact, duration, listed

PREFERENCE = (
    "Each model's clearest wins, then its clearest losses. A preference of 1: the judge is sure that the answer is the "
    "better one; of 0: that the other is."
)
PREFERRED, GRADED = "Judge's preference for the answer, 0 to 1", "Judge's grade, 1 to 10"
GRADE = "Each model's highest grades, then its lowest. Grades are from 1 to 10; each turn has its own."


def write(card: Card, folder: Path) -> Path:
    """Write the page and all that stands beside it into `folder`; the page's path."""
    leaders, differences = marked(card), against_baseline(card)
    tables = everything(card, leaders, differences)
    short = [each for each in tables if not each.name.startswith("categories-")]  # MMLU alone has 57
    pictures = draw(card)
    (folder / "figures").mkdir(parents=True, exist_ok=True)
    for picture in pictures:
        (folder / "figures" / f"{picture.name}.svg").write_text(picture.svg, encoding="utf-8")
        (folder / "figures" / f"{picture.name}.png").write_bytes(picture.png)
    told = json.dumps(metrics(card, differences), indent=1, allow_nan=False)
    files = {
        "metrics.json": told + "\n",
        "result.md": markdown.document(card.name, card.warnings, [judge_ability(card)], short),
        "table.csv": numbers(card),
        "table.tex": latex.document(tables),
        "report.html": page(card, tables, leaders, pictures),
    }
    for name, text in files.items():
        # Models' text can hold half of a surrogate pair, which no encoding can write.
        (folder / name).write_bytes(text.encode("utf-8", errors="replace"))
    return folder / "report.html"


def page(card: Card, tables: Sequence[Table], leaders: Marks, pictures: Sequence[Picture]) -> str:
    """The whole page."""
    drawn = {picture.name: figure(picture) for picture in pictures}
    tabled = {each.name: table(each, titled=each.name == "comparisons") for each in tables}
    parts = [folded(each) for each in tables if each.name.startswith("categories-")]
    chapters = [
        ("results-section", "Results", [tabled["results"], drawn.get("values", "")]),
        ("comparisons-section", "Comparisons", [tabled.get("comparisons", "")]),
        ("categories-section", "Categories", [drawn.get("mt-bench", ""), *parts]),
        ("duels-section", "Head to head", [drawn.get("duels", ""), tabled.get("duels", "")]),
        ("examples-section", "Examples", _examples(card)),
        ("contamination-section", "Contamination", [tabled.get("contamination", ""), _overlapping(card)]),
        ("judge-section", "Judge", _judge(card)),
        ("protocol-section", "Protocol", [table(_protocol(card), titled=False)] if card.columns else []),
        ("replay-section", "Replay", _replay(card)),
    ]
    sections = {anchor: section(anchor, title, parts) for anchor, title, parts in chapters}
    links = "".join(f'<a href="#{anchor}">{title}</a>' for anchor, title, _ in chapters if sections[anchor])
    body = "\n".join(text for text in sections.values() if text)
    body = f"""{_header(card, leaders)}
<nav aria-label="Sections">{links}</nav>
<main>
{_warnings(card.warnings)}
{body}
</main>"""
    return document(f"{escape(card.name)} – Montessori evaluation", body, MORE)


def findings(card: Card, leaders: Marks) -> list[str]:
    """What the results say: who is ahead of all others by more than the noise, and where nobody is."""
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


def _header(card: Card, leaders: Marks) -> str:
    facts = {"models": f"{len(card.models)}", "measures": f"{len(card.columns)}"}
    judge = card.usage.get("the judge", {})
    if judge.get("prompts"):
        facts["judge's prompts"] = f"{judge['prompts']:,.0f}"
    if tokens := judge.get("prompt_tokens", 0) + judge.get("completion_tokens", 0):
        facts["judge's tokens"] = compact(tokens)
    if judge.get("usd"):
        facts["US dollars"] = f"{judge['usd']:,.2f}"
    for kind in SPENT[:2]:
        if seconds := card.usage.get(kind, {}).get("seconds"):
            facts[f"time of {kind}"] = duration(seconds)
    shown = "".join(f"<div><dt>{name}</dt><dd>{value}</dd></div>" for name, value in facts.items())
    sentences = "".join(f"<li>{escape(sentence)}</li>" for sentence in findings(card, leaders))
    return (
        f'<header>\n<p class="eyebrow">Montessori evaluation</p>\n<h1>{escape(card.name)}</h1>\n'
        f'<p class="meta">Evaluation <span class="address">{escape(card.id)}</span></p>\n'
        + (f'<ul class="findings">{sentences}</ul>\n' if sentences else "")
        + f'<dl class="facts">{shown}</dl>\n</header>'
    )


def _warnings(warnings: Iterable[str]) -> str:
    return "\n".join(f'<p class="warning" role="note">{escape(warning)}</p>' for warning in warnings)


def _examples(card: Card) -> list[str]:
    """Verdicts to look at, column by column."""
    parts = []
    for key in dict.fromkeys(example.column for example in card.examples):
        shown = [example for example in card.examples if example.column == key]
        paired = any(example.other for example in shown)
        titles = ["Question", "Answer", *(["The answer it is compared with"] if paired else []), "The judge's reply"]
        head = f'<th scope="col" class="narrow">{PREFERRED if paired else GRADED}</th>'
        head += "".join(f'<th scope="col">{title}</th>' for title in titles)
        name = next((column.name for column in card.columns if key in (column.key, column.name)), key)
        rows = [_example(example, paired) for example in shown]
        parts.append(f"<h3>{escape(name)}</h3>" + raw_table(head, rows, PREFERENCE if paired else GRADE, "examples"))
    return parts


def _example(example: Example, paired: bool) -> str:
    answers = [(example.model, example.answer), *([(example.other, example.other_answer)] if paired else [])]
    texts = [
        model_text(example.question),
        *(f'<span class="muted small">{escape(model)}</span>{model_text(answer)}' for model, answer in answers),
        model_text(example.said)
        + (f'<span class="muted small">A is {escape(example.first)}</span>' if example.first else ""),
    ]
    cells = "".join(f"<td>{text}</td>" for text in texts)
    return f'<tr><td><span class="influence">{example.value:.3g}</span></td>{cells}</tr>'


def _overlapping(card: Card) -> str:
    """Words that a benchmark shares with the training data."""
    rows = [
        f"<tr><td>{escape(overlap.benchmark)}{_of(overlap.data)}</td><td>{model_text(text)}</td></tr>"
        for overlap in card.overlaps
        for text in overlap.examples
    ]
    if not rows:
        return ""
    head = '<th scope="col" class="narrow">Benchmark</th><th scope="col">Shared words</th>'
    shown = raw_table(head, rows, kind="examples")
    return f'<details class="fold"><summary>Examples of what is shared</summary>{shown}</details>'


def _of(data: str) -> str:
    return f'<br><span class="muted small">{escape(data)}</span>' if data else ""


def _judge(card: Card) -> list[str]:
    said = [f"Verdicts are by {card.judge}." if card.judge else "", judge_ability(card)]
    return [f"<p>{escape(text)}</p>" for text in said if text]


def _protocol(card: Card) -> Table:
    """How each column was measured, and what a reader must know of its numbers."""
    rows = []
    for column in ordered(card):
        scores = {model: score for model in card.models if (score := card.scores.get((model, column.key)))}
        unread = sum(score.unreadable for score in scores.values())
        by_note: dict[str, list[str]] = {}
        for model, score in scores.items():
            for note in score.notes:
                by_note.setdefault(note, []).append(model)
        everyone = len(scores)
        notes = [note if len(who) == everyone > 1 else f"{listed(who)}: {note}" for note, who in by_note.items()]
        against = f"against {column.baseline}" if column.baseline else ""
        texts = (
            f"{arrow(column)} ({column.unit})",
            "; ".join(part for part in (column.protocol, against) if part),
            span(score.measure.n for score in scores.values()),
            f"{unread:,}" if unread else "",
            " ".join(notes),
        )
        rows.append([Cell(text) for text in texts])
    heads = [Head(title) for title in ("Measure", "Protocol", "n", "Unreadable verdicts", "Notes")]
    caption = "n: items of a model. Unreadable: of all models, after all tries; left out of the means."
    return Table("protocol", "How each measure was taken", heads, [Group(rows)], caption, frozenset({0, 1, 4}))


def _replay(card: Card) -> list[str]:
    parts = []
    if card.command:
        parts.append(f"<p>Made by:</p><pre>{html.escape(card.command)}</pre>")
    if card.settings_yaml:
        settings = f"<pre>{html.escape(card.settings_yaml)}</pre>"
        parts.append(f'<details class="fold"><summary>Settings</summary>{settings}</details>')
    tables: list[tuple[str, Mapping[str, str]]] = [
        ("Versions", card.versions),
        (
            "Usage of all stages, whenever they were made",
            {
                f"{kind}: {name.replace('_', ' ')}": f"{value:,.10g}"
                for kind, used in card.usage.items()
                for name, value in used.items()
            },
        ),
    ]
    for title, told in tables:
        if told:
            rows = [f"<tr><td>{escape(name)}</td><td>{escape(value)}</td></tr>" for name, value in told.items()]
            shown = raw_table('<th scope="col">Name</th><th scope="col">Value</th>', rows, kind="artifacts")
            parts.append(f'<details class="fold"><summary>{title}</summary>{shown}</details>')
    return parts
