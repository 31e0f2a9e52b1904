"""The report of a run as one HTML page that needs nothing else, with its figures beside it as PNG and SVG.

In: a `Report`.  Out: `report.html` and `figures/` in a folder; the same bytes for the same report.
"""

from collections.abc import Sequence
from pathlib import Path

from montessori.reporting.data import Cost, Example, Iteration, Report, Run, Stage, finite, positive_means
from montessori.reporting.figures import Picture, draw
from montessori.reporting.html import escape, figure, model_text, raw_table, section, table
from montessori.reporting.stylesheet import document
from montessori.reporting.tables import Cell, Table, findings, summary_table
from montessori.reporting.text import compact, count, duration, label, percent, scientific, short, size


def write(report: Report, folder: Path) -> Path:
    """Write `report.html` and `figures/*.svg, *.png` into `folder`; the page's path."""
    pictures = draw(report)
    (folder / "figures").mkdir(parents=True, exist_ok=True)
    for picture in pictures:
        (folder / "figures" / f"{picture.name}.svg").write_text(picture.svg, encoding="utf-8")
        (folder / "figures" / f"{picture.name}.png").write_bytes(picture.png)
    path = folder / "report.html"
    # Generated text can hold half of a surrogate pair, which no encoding can write.
    path.write_bytes(page(report, pictures).encode("utf-8", errors="replace"))
    return path


def page(report: Report, pictures: Sequence[Picture]) -> str:
    """The whole page."""
    drawn = {picture.name: figure(picture) for picture in pictures}
    results = [table(summary_table(report)) if report.systems else "", drawn.get("results", "")]
    influences = [drawn.get("influence", ""), drawn.get("positive-share", ""), _iterations(report.iterations)]
    data = [
        drawn.get("families", ""),
        drawn.get("token-lengths", ""),
        _examples("Highest influence", report.highest),
        _examples("Lowest influence", report.lowest),
        _rejections(report),
    ]
    provenance = [drawn.get("time", ""), _costs(report.costs), drawn.get("lineage", ""), _artifacts(report.stages)]
    chapters = [
        ("results-section", "Results", results),
        ("influence-section", "Influence", influences),
        ("data-section", "Generated data", data),
        ("training-section", "Training", [drawn.get("training", "")]),
        ("provenance-section", "Cost and lineage", provenance),
        ("replay-section", "Replay", _replay(report.run)),
    ]
    sections = {anchor: section(anchor, title, parts) for anchor, title, parts in chapters}
    links = "".join(f'<a href="#{anchor}">{title}</a>' for anchor, title, _ in chapters if sections[anchor])
    body = "\n".join(text for text in sections.values() if text)
    body = f"""{_header(report)}
<nav aria-label="Sections">{links}</nav>
<main>
{_warnings(report.iterations)}
{body}
</main>"""
    return document(f"{escape(report.run.name)} – Montessori report", body)


def _header(report: Report) -> str:
    run = report.run
    made = " to ".join(escape(date) for date in (run.started, run.finished) if date)
    unique = {stage.address: stage for stage in report.stages}.values()
    facts = {
        "systems compared": f"{len(report.systems)}",
        "iterations": f"{len(report.iterations)}",
        "points scored": f"{sum(len(finite(i.influences)) for i in report.iterations):,}",
        "preference pairs": f"{sum(i.pairs for i in report.iterations):,}",
    }
    if unique:
        facts["computing time"] = duration(sum(stage.seconds for stage in unique))
    shown = "".join(f"<div><dt>{name}</dt><dd>{value}</dd></div>" for name, value in facts.items())
    sentences = "".join(f"<li>{escape(sentence)}</li>" for sentence in findings(report))
    when = f" · artifacts made {made}" if made else ""
    return (
        f'<header>\n<p class="eyebrow">Montessori report</p>\n<h1>{escape(run.name)}</h1>\n'
        f'<p class="meta">Run <span class="address">{escape(run.id)}</span>{when}</p>\n'
        + (f'<ul class="findings">{sentences}</ul>\n' if sentences else "")
        + f'<dl class="facts">{shown}</dl>\n</header>'
    )


def _warnings(iterations: Sequence[Iteration]) -> str:
    return "\n".join(
        f'<p class="warning" role="note"><strong>Iteration {i.number}:</strong> {escape(i.warning)}</p>'
        for i in iterations
        if i.warning
    )


def _iterations(iterations: Sequence[Iteration]) -> str:
    """What scoring gave, a row an iteration; where points were scored."""
    iterations = [iteration for iteration in iterations if iteration.split]
    if not iterations:
        return ""
    rows = []
    for i in iterations:
        scored = len(finite(i.influences))
        share = percent(i.positive_share, 1)
        if i.positive_share_after is not None:
            share += f" → {percent(i.positive_share_after, 1)}"
        momentum = "–" if i.momentum_influence is None else scientific(i.momentum_influence)
        values = (f"{scored:,}", f"{len(i.influences) - scored:,}", share, momentum, i.split, f"{i.pairs:,}")
        rows.append([Cell(f"Iteration {i.number}"), *(Cell(value) for value in values)])
    header = ["", "Points scored", "Excluded", "Positive", "I(∅)", "Split", "Preference pairs"]
    caption = (
        f"Excluded: points without a finite influence. Positive: share of points, before → after the teacher's "
        f"update, where {positive_means(iterations)}. I(∅): influence of a step with zero gradient, "
        "in nats/token. "
        "Split: what divides chosen from rejected."
    )
    return "<h3>Scoring by iteration</h3>" + table(Table(header, rows, caption))


def _examples(title: str, examples: Sequence[Example]) -> str:
    if not examples:
        return ""
    rows = [
        f'<tr><td><span class="influence">{scientific(example.influence, 2)}</span><br>'
        f'<span class="muted small">iteration {example.iteration}'
        f"{'<br>' + escape(label(example.family)) if example.family else ''}</span></td>"
        f"<td>{model_text(example.instruction)}</td><td>{model_text(example.response)}</td></tr>"
        for example in examples
    ]
    head = (
        '<th scope="col" class="narrow">Influence (nats/token)</th><th scope="col">Instruction</th>'
        '<th scope="col">Response</th>'
    )
    return f"<h3>{title}</h3>" + raw_table(head, rows, kind="examples")


def _rejections(report: Report) -> str:
    if not report.rejections:
        return ""
    counts = sorted(report.rejections.items(), key=lambda item: (-item[1], item[0]))
    total = sum(report.rejections.values())
    rows = [[Cell(reason), Cell(f"{n:,}"), Cell(percent(n / total) if total else "–")] for reason, n in counts]
    caption = f"{count(total, 'generation')} of the teacher dropped, by the first filter that caught it."
    parts = ["<h3>Rejected generations</h3>", table(Table(["Reason", "Generations", "Share"], rows, caption))]
    if report.rejected:
        samples = [
            f"<tr><td>{escape(sample.reason)}</td><td>{model_text(sample.text)}</td></tr>" for sample in report.rejected
        ]
        head = '<th scope="col" class="narrow">Reason</th><th scope="col">Text</th>'
        shown = raw_table(head, samples, kind="examples")
        parts.append(f'<details class="fold"><summary>Samples</summary>{shown}</details>')
    return "".join(parts)


def _costs(costs: Sequence[Cost]) -> str:
    """What was estimated beside what it took, a row a stage, and all together."""
    if not costs:
        return ""
    paid = any(cost.usd[1] is not None for cost in costs)
    known = [cost.hours[0] for cost in costs if cost.hours[0] is not None]
    whole = Cost(
        "In all",
        (sum(cost.tokens[0] for cost in costs), sum(cost.tokens[1] for cost in costs)),
        (sum(known) if len(known) == len(costs) else None, sum(cost.hours[1] for cost in costs)),
        (sum(cost.usd[0] or 0 for cost in costs), sum(cost.usd[1] or 0 for cost in costs)) if paid else (None, None),
    )
    rows = []
    for cost in [*(cost for cost in costs if any(cost.tokens) or cost.hours[1] * 3600 >= 1), whole]:
        tokens = [compact(number) if number else "" for number in cost.tokens]
        hours = ["–" if number is None else duration(3600 * number) for number in cost.hours]
        dollars = ["" if number is None else f"{number:.2f}" for number in cost.usd] if paid else []
        rows.append([Cell(text) for text in (cost.stage, *tokens, *hours, *dollars)])
    header = ["Stage", "Teacher tokens, estimated", "actual", "Time, estimated", "actual"]
    caption = (
        "Estimated: from the rates of like stages that the store had before this run, else from stated assumptions "
        "(montessori estimate). Teacher tokens: read and written. Time: of all shards, added up. Artifacts that were "
        "already there count as when made."
    )
    return "<h3>Estimate and actual</h3>" + table(
        Table(header + (["US dollars, estimated", "actual"] if paid else []), rows, caption)
    )


def _artifacts(stages: Sequence[Stage]) -> str:
    """Every artifact with links to its parents."""
    unique = {stage.address: stage for stage in stages}
    if not unique:
        return ""
    number = {address: position for position, address in enumerate(unique, 1)}

    def parent(address: str) -> str:
        text = f'<span class="address" title="{escape(address)}">{escape(short(address))}</span>'
        return f'<a href="#artifact-{number[address]}">{text}</a>' if address in number else text

    rows = [
        f'<tr id="artifact-{number[s.address]}"><td>{escape(s.stage)}</td>'
        f"<td>{escape(', '.join(part for part in (s.label, s.shard) if part))}</td>"
        f'<td class="address" title="{escape(s.address)}">{escape(short(s.address))}</td>'
        f"<td>{duration(s.seconds)}</td>"
        f"<td>{size(s.bytes)}</td><td>{'' if s.seed is None else s.seed}</td>"
        f"<td>{', '.join(parent(address) for address in s.parents)}</td></tr>"
        for s in unique.values()
    ]
    titles = ("Stage", "Part", "Artifact", "Time", "Size", "Seed", "Made from")
    head = "".join(f'<th scope="col">{title}</th>' for title in titles)
    shown = raw_table(head, rows, kind="artifacts")
    return f'<details class="fold"><summary>All {count(len(unique), "artifact")}</summary>{shown}</details>'


def _replay(run: Run) -> list[str]:
    parts = [
        f"<p>Save the settings below as <code>run.yaml</code>, then:</p><pre>{escape(run.command)}</pre>"
        f'<details class="fold"><summary>Settings</summary><pre>{escape(run.settings_yaml)}</pre></details>'
    ]
    if run.versions:
        rows = [f"<tr><td>{escape(name)}</td><td>{escape(v)}</td></tr>" for name, v in run.versions.items()]
        versions = raw_table('<th scope="col">Package</th><th scope="col">Version</th>', rows, kind="artifacts")
        parts.append(f'<details class="fold"><summary>Versions</summary>{versions}</details>')
    return parts
