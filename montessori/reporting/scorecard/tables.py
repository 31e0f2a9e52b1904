"""The tables of an evaluation: results, differences from the baseline, categories, duels, overlap with training data.

In: a `Card`.  Out: `Table`s. What was not measured has no table.
"""

import math
from collections.abc import Mapping, Sequence

from montessori.evaluation import published
from montessori.evaluation.bootstrap import EVEN, Difference, marks
from montessori.evaluation.card import Card, Column, Mark, Measure, Overlap
from montessori.reporting.tables import (
    MISSING,
    Cell,
    Group,
    Head,
    Table,
    arrow,
    cells,
    digits_of,
    heads,
    measured,
    number,
    p_value,
    span,
    written,
)
from montessori.reporting.text import count, listed, percent, superscript

NAMED = {"reference": "the answers that come with AlpacaEval (GPT-4-turbo's, in the published file)"}
Differences = Mapping[tuple[str, str], Difference]  # by model and column key
Marks = Mapping[str, Mapping[str, Mark]]  # by column key and model


def ordered(card: Card) -> list[Column]:
    """Return the columns as the paper orders its own, parts behind the whole, then losses, then the rest."""
    return sorted(card.columns, key=_rank)


def value_of(card: Card, model: str, column: Column) -> Measure | None:
    """Return the measure of `model` in `column`; None where it was not measured, or came to nothing."""
    score = card.scores.get((model, column.key))
    return score.measure if score and math.isfinite(score.measure.mean) else None


def even(column: Column) -> str:
    """Write what a baseline has in its own column: an even preference."""
    return f"{column.scale * EVEN:g}"


def marked(card: Card) -> dict[str, dict[str, Mark]]:
    """Return the best and second models of every column."""
    return {column.key: marks(card, column) for column in card.columns}


def results(card: Card, leaders: Marks) -> Table:
    """Tabulate a row a model, the paper's columns first; below them the rows of the paper, where requested."""
    columns = ordered(card)
    why = _footnotes(card, columns)
    values = {c.key: {model: value_of(card, model, c) for model in card.models} for c in columns}
    digits = {c.key: digits_of(values[c.key].values(), c.scale) for c in columns}

    def cell(model: str, column: Column) -> Cell:
        own, mark = values[column.key][model], leaders[column.key].get(model)
        if own is None and model == column.baseline:
            return Cell(even(column), mark=mark)
        reason = None if own else card.missing.get((model, column.key))
        if reason:
            return Cell(MISSING + superscript(why[reason]), mark=mark)
        return measured(own, digits[column.key], scale=column.scale, mark=mark)

    groups = [Group([[Cell(model), *(cell(model, column) for column in columns)] for model in card.models])]
    theirs = {column.key: published.values(card.published, column) for column in columns}
    methods = list(dict.fromkeys(method for rows in theirs.values() for method in rows))
    if methods:
        rows = [cells(method, *(theirs[c.key].get(method, MISSING) for c in columns)) for method in methods]
        groups.append(Group(rows, f"Published, {card.published} students: {published.TITLE}", published=True))
    header = [Head("Model"), *(Head(arrow(c), _about(c, values[c.key])) for c in columns)]
    caption = (
        "Mean ± one standard error over n items. ↑ higher is better, ↓ lower is better. Bold: the best, where it leads "
        "every other model here by more than the noise (paired bootstrap over the items that both have, p < 0.05 "
        "after Holm's correction). Underlined: the second, where it leads the rest in the same way."
    )
    for baseline in dict.fromkeys(c.baseline for c in columns if c.baseline):
        caption += f" Win rates are against {NAMED.get(baseline, baseline)}"
        caption += ", which stands at an even preference." if baseline in card.models else "."
    if methods:
        caption += " Published: with other models, data and judges, and without errors; not compared."
    caption += "".join(f" {superscript(place)} {reason[0].upper()}{reason[1:]}." for reason, place in why.items())
    return Table("results", "Results", header, groups, caption)


def comparisons(card: Card, differences: Differences) -> Table | None:
    """Tabulate each model minus the one that all are compared with, column by column."""
    groups = []
    for column in ordered(card):
        gaps = {model: gap for model in card.models if (gap := differences.get((model, column.key)))}
        if gaps:
            # An interval is four errors wide.
            errors = [Measure(gap.mean, (gap.high - gap.low) / 4, gap.n) for gap in gaps.values()]
            digits = digits_of(errors, column.scale)
            rows = [cells(model, *_difference(column, gap, digits)) for model, gap in gaps.items()]
            groups.append(Group(rows, f"{arrow(column)} ({column.unit})"))
    if not groups:
        return None
    header = heads("Model", "Difference", "95% interval", "p", "n")
    caption = (
        f"Model minus {card.baseline}, on the items that both have: for ↑ a positive difference is better, for ↓ a "
        "negative one. Interval and two-sided p by a paired bootstrap over items; p is not corrected for the number "
        "of comparisons. Neither covers the variation between training seeds."
    )
    return Table("comparisons", f"Differences from {card.baseline}", header, groups, caption)


def categories(card: Card) -> list[Table]:
    """Tabulate each column that has groups or turns: a row a category, subject or turn, a column a model."""
    tables = []
    for column in ordered(card):
        scores = {model: score for model in card.models if (score := card.scores.get((model, column.key)))}
        categories_ = {model: score.groups for model, score in scores.items() if score.groups}
        turns = {model: score.turns for model, score in scores.items() if score.turns}
        models = [model for model in scores if model in categories_ or model in turns]
        if not models:
            continue
        parts = [*categories_.values(), *turns.values()]
        digits = digits_of([measure for part in parts for measure in part.values()], column.scale)
        groups = [
            Group(_parts(own, models, column, digits), title)
            for own, title in ((categories_, ""), (turns, "By turn"))
            if own
        ]
        caption = (
            f"Mean ± one standard error ({column.unit}), the mean alone where n is 1; "
            f"{'lower' if column.lower_is_better else 'higher'} is better. The parts are too small to be marked."
        )
        title = f"{column.name} by category{' and turn' if turns else ''}"
        header = heads("Category", *models, "n")
        tables.append(Table(f"categories-{column.key}", title, header, groups, caption))
    return tables


def duels(card: Card) -> Table | None:
    """Tabulate each pair of models head to head."""
    if not card.duels:
        return None
    rows = []
    for duel in card.duels:
        read = duel.wins + duel.ties + duel.losses
        shares = (f"{n:,} ({percent(n / read)})" if read else "0" for n in (duel.wins, duel.ties, duel.losses))
        rows.append(cells(duel.left, duel.right, *shares, f"{read:,}", f"{duel.unreadable:,}"))
    header = heads("Model", "Against", "Wins", "Ties", "Losses", "n", "Unreadable", words={"Against"})
    caption = "Wins, ties and losses of the first model over n items. Shares of the verdicts that could be read."
    return Table("duels", "Head to head", header, [Group(rows)], caption)


def overlaps(card: Card) -> Table | None:
    """Tabulate how much of each benchmark is in the training data."""
    if not card.overlaps:
        return None
    groups = [
        Group(
            [
                cells(o.benchmark, f"{o.items:,}", _share(o.exact, o), _share(o.ngram, o))
                for o in card.overlaps
                if o.data == data
            ],
            f"Training data: {data}" if data else "",
        )
        for data in dict.fromkeys(overlap.data for overlap in card.overlaps)
    ]
    words = f"{span(overlap.words for overlap in card.overlaps)} words in a row"
    caption = (
        f"Exact: the item's text is a training instruction. {words}: shared with a training instruction or "
        "its response. Case and punctuation aside; a paraphrase is not found."
    )
    return Table(
        "contamination", "Overlap with the training data", heads("Benchmark", "Items", "Exact", words), groups, caption
    )


def judge_ability(card: Card) -> str:
    """Say in one sentence how well the judge agrees with people; nothing where that was not measured."""
    if not card.ability:
        return ""
    ability = card.ability
    share = written(ability.accuracy, 1, scale=100)
    people = ""
    if ability.agreement_of_people is not None:
        people = f" (one of the people with the majority of the others: {percent(ability.agreement_of_people, 1)})"
    return (
        f"The judge {ability.judge} agrees with the majority of the people on {share}% of "
        f"{count(ability.accuracy.n, 'pair')}{people}; it called {ability.ties:,} a tie, and {ability.unreadable:,} "
        "of its verdicts could not be read."
    )


def everything(card: Card, leaders: Marks, differences: Differences) -> list[Table]:
    """Return all tables that there is data for, the results first."""
    tables = [results(card, leaders), comparisons(card, differences), duels(card), overlaps(card), *categories(card)]
    return [table for table in tables if table]


def protocol(card: Card) -> Table:
    """Tabulate how each column was measured, and what a reader must know of its numbers."""
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
        row = cells(
            f"{arrow(column)} ({column.unit})",
            "; ".join(part for part in (column.protocol, against) if part),
            span(score.measure.n for score in scores.values()),
            f"{unread:,}" if unread else "",
            " ".join(notes),
        )
        rows.append(row)
    header = heads("Measure", "Protocol", "n", "Unreadable verdicts", "Notes", words={"Protocol", "Notes"})
    caption = "n: items of a model. Unreadable: of all models, after all tries; left out of the means."
    return Table("protocol", "How each measure was taken", header, [Group(rows)], caption)


def _footnotes(card: Card, columns: Sequence[Column]) -> dict[str, int]:
    """Number the reasons for which models lack a value in some columns."""
    reasons = (card.missing.get((model, column.key)) for column in columns for model in card.models)
    return {reason: place for place, reason in enumerate(dict.fromkeys(filter(None, reasons)), 1)}


def _parts(
    own: Mapping[str, Mapping[str, Measure]], models: Sequence[str], column: Column, digits: int
) -> list[list[Cell]]:
    """Return a row a part, in the order of their first appearance."""
    names = dict.fromkeys(name for parts in own.values() for name in parts)
    return [
        [
            Cell(name),
            *(measured(own.get(model, {}).get(name), digits, scale=column.scale) for model in models),
            Cell(span(parts[name].n for parts in own.values() if name in parts)),
        ]
        for name in names
    ]


def _about(column: Column, values: Mapping[str, Measure | None]) -> list[str]:
    n = span(measure.n for measure in values.values() if measure)
    return [part for part in (column.unit, f"n = {n}" if n else "") if part]


def _difference(column: Column, gap: Difference, digits: int) -> list[str]:
    mean, low, high = (number(column.scale * v, digits, signed=True) for v in (gap.mean, gap.low, gap.high))
    return [mean, f"{low} to {high}", p_value(gap.p_value), f"{gap.n:,}"]


def _share(items: int, overlap: Overlap) -> str:
    return f"{items:,} ({percent(items / overlap.items, 1)})" if overlap.items else "0"


def _rank(column: Column) -> tuple[int, int, bool]:
    known = published.column_of(column)
    if known:
        return 0, published.COLUMNS.index(known), False
    if column.key == "reference_loss" or column.unit == "bits/byte":
        return 1, int(column.unit == "bits/byte"), False
    # A part of a known one, such as alpaca_eval_others, stands behind it.
    whole = next((place for place, key in enumerate(published.COLUMNS) if column.key.startswith(f"{key}_")), None)
    return (2, 0, False) if whole is None else (0, whole, True)
