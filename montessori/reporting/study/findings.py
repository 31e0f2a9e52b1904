"""What a study says in a few sentences, each as sure as its test.

In: a `Study`.  Out: sentences, about the first metric in numbers and about the others by what holds.
"""

import math
from collections.abc import Mapping, Sequence

from montessori.evaluation.bootstrap import LEVEL
from montessori.evaluation.card import Column
from montessori.reporting.study.comparison import Difference
from montessori.reporting.study.data import Study
from montessori.reporting.study.rows import Row, ablations, baseline, blocks, missing, standings, systems, transferred
from montessori.reporting.study.tables import average, block_title
from montessori.reporting.tables import number, p_value
from montessori.reporting.text import count, listed
from montessori.settings.study import NO_FINE_TUNING


def findings(study: Study) -> list[str]:
    """Return the sentences, the systems first."""
    if not study.metrics or not study.results:
        return ["There are no results yet."]
    rows = systems(study)
    several = len(study.seeds) > 1
    sentences = []
    for (_, student), members in blocks(rows).items():
        texts = [_headline(study, rows, members), _others(study, rows, members) if several else ""]
        sentences += [f"Student {student}: {text}" if student else text for text in texts if text]
    if several:
        sentences += _ablations(study)
        sentences += _transfer(study)
    else:
        sentences.append("One seed: there are no errors and no tests, and another seed can turn the order around.")
    if lacking := missing(study):
        sentences.append(f"{count(len(lacking), 'result')} missing; the table of missing results says which, and why.")
    return sentences


def _headline(study: Study, rows: Sequence[Row], members: Sequence[Row]) -> str:
    """Name the system with the best mean in the first metric, against the baseline, and what it took."""
    metric = study.metrics[0]
    standing = standings(study, rows, metric)
    means = {row: measure.mean for row in members if (measure := standing[row].measure)}
    if not means:
        return f"{_phrase(metric)} was not measured."
    best = _best(metric, means)
    start = f"{best.name} has the {'lowest' if metric.lower_is_better else 'highest'} mean {_phrase(metric)}"
    if best.name == study.baseline:
        return f"{start}; it is what the others are tested against."
    other = baseline(study, rows, best.student)
    if other is None or other not in means:
        return f"{start}; {study.baseline} has none to compare it with."
    gap = standing[best].difference
    if gap is None:
        said = f"it shares too few seeds with {study.baseline} for a test"
    elif math.isnan(gap.p_value):
        said = f"its difference from {study.baseline} is the same at every seed, which leaves nothing to test"
    else:
        said = _against(study, metric, gap, standing[best].corrected)
    return f"{start}; {said}.{_price(best, other)}"


def _best(metric: Column, means: Mapping[Row, float]) -> Row:
    return (min if metric.lower_is_better else max)(means, key=lambda row: means[row])


def _against(study: Study, metric: Column, gap: Difference, corrected: float) -> str:
    """Write a difference in numbers, and whether it holds."""
    error = abs(metric.scale) * (gap.high - gap.low) / 4
    digits = min(max(1 - math.floor(math.log10(error)), 0), 5)
    mean, low, high = (number(metric.scale * value, digits, signed=True) for value in (gap.mean, gap.low, gap.high))
    unit = f" {metric.unit}" if metric.unit else ""
    p = p_value(corrected)
    said = f"its difference from {study.baseline} is {mean}{unit} (95% interval {low} to {high}, "
    said += f"{count(gap.n, 'seed')}; p {p if p.startswith('<') else f'= {p}'} after Holm's correction)"
    return said if corrected < LEVEL else f"{said}, which may be the seeds' doing"


def _price(row: Row, other: Row) -> str:
    own, theirs = (average(result.cost.whole_s for result in r.results.values()) for r in (row, other))
    if not (own > 0 and theirs > 0):
        return ""
    return f" It took {own / theirs:.2g} times the computing of {other.name}."


def _others(study: Study, rows: Sequence[Row], members: Sequence[Row]) -> str:
    """Say which systems the metrics tell from the baseline; without what the headline has said of the first metric."""
    verdicts: dict[str, dict[str, list[str]]] = {}  # by system, then by verdict
    level = []
    for metric in study.metrics:
        standing = standings(study, rows, metric)
        means = {row: measure.mean for row in members if (measure := standing[row].measure)}
        said_before = _best(metric, means) if means and metric is study.metrics[0] else None
        told = [(standing[row].verdict, row.name) for row in members if row is not said_before]
        for verdict, name in told:
            if verdict:
                verdicts.setdefault(name, {}).setdefault(verdict, []).append(metric.name)
        if not any(verdict for verdict, _ in told):
            level.append(metric.name)
    said = [
        f"{name} is " + ", ".join(f"{verdict} in {listed(titles)}" for verdict, titles in told.items())
        for name, told in verdicts.items()
    ]
    sentences = [f"Against {study.baseline}, beyond the noise: {'; '.join(said)}."] if said else []
    sentences += [f"No system can be told from {study.baseline} in {listed(level)}."] if level else []
    return " ".join(sentences)


def _ablations(study: Study) -> list[str]:
    """Say which row of each block of several leads, and one sentence for the blocks in which none does."""
    metric = study.metrics[0]
    rows = ablations(study)
    standing = standings(study, rows, metric)
    sentences, level = [], []
    for block, members in blocks(rows).items():
        best = next((row.name for row in members if standing[row].best), None)
        if best and len(members) > 1:
            title = block_title(*block)
            sentences.append(f"{title}: {best} leads every other row beyond the noise in {_phrase(metric)}.")
        elif len(members) > 1:
            level.append(block_title(*block))
    if level:
        sentences.append(f"{listed(level)}: no row leads all others beyond the noise in {_phrase(metric)}.")
    return sentences


def _transfer(study: Study) -> list[str]:
    """Say in a sentence a system for which other students its data is better than the baseline's."""
    metric = study.metrics[0]
    rows = transferred(study)
    standing = standings(study, rows, metric)
    sentences = []
    for name in dict.fromkeys(row.name for row in rows if row.name not in (study.baseline, NO_FINE_TUNING)):
        own = [row for row in rows if row.name == name]
        told = {
            verdict: [row.student for row in own if standing[row].verdict == verdict] for verdict in ("better", "worse")
        }
        parts = [f"{verdict} than {study.baseline} for {listed(who)}" for verdict, who in told.items() if who]
        rest = len(own) - sum(map(len, told.values()))
        parts += [f"not to be told from it for {rest} of {len(own)}"] if rest else []
        sentences.append(f"Transfer, {_phrase(metric)}: the data of {name} is {listed(parts)}.")
    return sentences


def _phrase(metric: Column) -> str:
    """Write a title as it stands in a sentence: reference loss, MT-Bench."""
    first, *rest = metric.name.split(" ")
    return " ".join([first.lower() if first[1:].islower() else first, *rest])
