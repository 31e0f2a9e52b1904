"""The tables of an evaluation: results, differences from the baseline, categories, duels, overlap with training data.

In: a `Card`.  Out: `Table`s. What was not measured has no table.
"""

from collections.abc import Mapping, Sequence

from montessori.evaluation import published
from montessori.evaluation.bootstrap import Difference, Mark, marks
from montessori.evaluation.card import Card, Column, Measure, Overlap
from montessori.reporting.scorecard.layout import (
    MISSING,
    Cell,
    Group,
    Head,
    Table,
    arrow,
    digits_of,
    even,
    number,
    ordered,
    span,
    value_of,
    written,
)
from montessori.reporting.text import count, percent, superscript

NAMED = {"reference": "the answers that come with AlpacaEval (GPT-4-turbo's, in the published file)"}
Differences = Mapping[tuple[str, str], Difference]  # by model and column key
Marks = Mapping[str, Mapping[str, Mark]]  # by column key and model


def marked(card: Card) -> dict[str, dict[str, Mark]]:
    """The best and second models of every column."""
    return {column.key: marks(card, column) for column in card.columns}


def results(card: Card, found: Marks) -> Table:
    """A row a model, the paper's columns first; below them the rows that the paper published, where asked for."""
    columns = ordered(card)
    why = _footnotes(card, columns)
    values = {c.key: {model: value_of(card, model, c) for model in card.models} for c in columns}
    digits = {c.key: digits_of(c, values[c.key].values()) for c in columns}

    def cell(model: str, column: Column) -> Cell:
        own = values[column.key][model]
        if own is None and model == column.baseline:
            return Cell(even(column), found[column.key].get(model))
        text = written(own, column, digits[column.key])
        reason = card.missing.get((model, column.key)) if text == MISSING else None
        return Cell(text + superscript(why[reason]) if reason else text, found[column.key].get(model))

    groups = [Group([[Cell(model), *(cell(model, column) for column in columns)] for model in card.models])]
    theirs = {column.key: published.values(card.published, column) for column in columns}
    methods = list(dict.fromkeys(method for rows in theirs.values() for method in rows))
    if methods:
        rows = [[Cell(method), *(Cell(theirs[c.key].get(method, MISSING)) for c in columns)] for method in methods]
        groups.append(Group(rows, f"Published, {card.published} students: {published.TITLE}", published=True))
    heads = [Head(arrow(c), _about(c, values[c.key])) for c in columns]
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
    return Table("results", "Results", [Head("Model"), *heads], groups, caption)


def comparisons(card: Card, found: Differences) -> Table | None:
    """Each model minus the one that all are compared with, column by column."""
    groups = []
    for column in ordered(card):
        gaps = {model: gap for model in card.models if (gap := found.get((model, column.key)))}
        if gaps:
            # An interval is four errors wide.
            errors = [Measure(gap.mean, (gap.high - gap.low) / 4, gap.n) for gap in gaps.values()]
            digits = digits_of(column, errors)
            rows = [[Cell(model), *_difference(column, gap, digits)] for model, gap in gaps.items()]
            groups.append(Group(rows, f"{arrow(column)} ({column.unit})"))
    if not groups:
        return None
    heads = [Head("Model"), Head("Difference"), Head("95% interval"), Head("p"), Head("n")]
    caption = (
        f"Model minus {card.baseline}, on the items that both have: for ↑ a positive difference is better, for ↓ a "
        "negative one. Interval and two-sided p by a paired bootstrap over items; p is not corrected for the number "
        "of comparisons. Neither covers the variation between training seeds."
    )
    return Table("comparisons", f"Differences from {card.baseline}", heads, groups, caption)


def categories(card: Card) -> list[Table]:
    """A table a column that has groups or turns: a row a category, subject or turn, a column a model."""
    found = []
    for column in ordered(card):
        scores = {model: score for model in card.models if (score := card.scores.get((model, column.key)))}
        categories_ = {model: score.groups for model, score in scores.items() if score.groups}
        turns = {model: score.turns for model, score in scores.items() if score.turns}
        models = [model for model in scores if model in categories_ or model in turns]
        if not models:
            continue
        parts = [*categories_.values(), *turns.values()]
        digits = digits_of(column, [measure for part in parts for measure in part.values()])
        groups = [
            Group(_parts(own, models, column, digits), title)
            for own, title in ((categories_, ""), (turns, "By turn"))
            if own
        ]
        heads = [Head("Category"), *(Head(model) for model in models), Head("n")]
        caption = (
            f"Mean ± one standard error ({column.unit}), the mean alone where n is 1; "
            f"{'lower' if column.lower_is_better else 'higher'} is better. The parts are too small to be marked."
        )
        title = f"{column.name} by category{' and turn' if turns else ''}"
        found.append(Table(f"categories-{column.key}", title, heads, groups, caption))
    return found


def duels(card: Card) -> Table | None:
    """Each pair of models head to head."""
    if not card.duels:
        return None
    rows = []
    for duel in card.duels:
        read = duel.wins + duel.ties + duel.losses
        shares = (f"{n:,} ({percent(n / read)})" if read else "0" for n in (duel.wins, duel.ties, duel.losses))
        texts = (duel.left, duel.right, *shares, f"{read:,}", f"{duel.unreadable:,}")
        rows.append([Cell(text) for text in texts])
    titles = ("Model", "Against", "Wins", "Ties", "Losses", "n", "Unreadable")
    caption = "Wins, ties and losses of the first model over n items. Shares of the verdicts that could be read."
    heads = [Head(title) for title in titles]
    return Table("duels", "Head to head", heads, [Group(rows)], caption, frozenset({0, 1}))


def overlaps(card: Card) -> Table | None:
    """How much of each benchmark is in the training data."""
    if not card.overlaps:
        return None
    groups = [
        Group(
            [
                [Cell(o.benchmark), Cell(f"{o.items:,}"), Cell(_share(o.exact, o)), Cell(_share(o.ngram, o))]
                for o in card.overlaps
                if o.data == data
            ],
            f"Training data: {data}" if data else "",
        )
        for data in dict.fromkeys(overlap.data for overlap in card.overlaps)
    ]
    words = f"{span(overlap.words for overlap in card.overlaps)} words in a row"
    heads = [Head("Benchmark"), Head("Items"), Head("Exact"), Head(words)]
    caption = (
        f"Exact: the item's text is a training instruction. {words}: shared with a training instruction or "
        "its response. Case and punctuation aside; a paraphrase is not found."
    )
    return Table("contamination", "Overlap with the training data", heads, groups, caption)


def judge_ability(card: Card) -> str:
    """How well the judge agrees with people, in one sentence; empty where that was not measured."""
    if not card.ability:
        return ""
    found = card.ability
    share = written(found.accuracy, Column("", "", "%", scale=100), 1)
    people = ""
    if found.agreement_of_people is not None:
        people = f" (one of the people with the majority of the others: {percent(found.agreement_of_people, 1)})"
    return (
        f"The judge {found.judge} agrees with the majority of the people on {share}% of "
        f"{count(found.accuracy.n, 'pair')}{people}; it called {found.ties:,} a tie, and {found.unreadable:,} of its "
        "verdicts could not be read."
    )


def everything(card: Card, leaders: Marks, differences: Differences) -> list[Table]:
    """All tables that there is data for, the results first."""
    tables = [results(card, leaders), comparisons(card, differences), duels(card), overlaps(card), *categories(card)]
    return [table for table in tables if table]


def _footnotes(card: Card, columns: Sequence[Column]) -> dict[str, int]:
    """Why models have no number in some columns: each reason once, with its number."""
    reasons = (card.missing.get((model, column.key)) for column in columns for model in card.models)
    return {reason: place for place, reason in enumerate(dict.fromkeys(filter(None, reasons)), 1)}


def _parts(
    own: Mapping[str, Mapping[str, Measure]], models: Sequence[str], column: Column, digits: int
) -> list[list[Cell]]:
    """A row a part, in the order of their first appearance."""
    names = dict.fromkeys(name for parts in own.values() for name in parts)
    return [
        [
            Cell(name),
            *(Cell(written(own.get(model, {}).get(name), column, digits)) for model in models),
            Cell(span(parts[name].n for parts in own.values() if name in parts)),
        ]
        for name in names
    ]


def _about(column: Column, values: Mapping[str, Measure | None]) -> list[str]:
    n = span(measure.n for measure in values.values() if measure)
    return [part for part in (column.unit, f"n = {n}" if n else "") if part]


def _difference(column: Column, gap: Difference, digits: int) -> list[Cell]:
    mean, low, high = (number(column.scale * v, digits, signed=True) for v in (gap.mean, gap.low, gap.high))
    p = "< 0.001" if gap.p_value < 0.001 else f"{gap.p_value:.3f}"
    return [Cell(mean), Cell(f"{low} to {high}"), Cell(p), Cell(f"{gap.n:,}")]


def _share(found: int, overlap: Overlap) -> str:
    return f"{found:,} ({percent(found / overlap.items, 1)})" if overlap.items else "0"
