"""The scores of points of one's own: gathered from the shards, summarised, written to a file, drawn.

In: artifacts of the stages `points`, `influence` and perhaps `split`.  Out: plain values.
"""

import json
import math
import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from montessori.artifacts import Store
from montessori.correlation import spearman
from montessori.data.rows import Row, read_rows, write_rows
from montessori.reporting.text import count, percent, scientific

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
FEW, MOST = 0.05, 0.95  # a share of positive points outside of these tells hardly any points apart
DOUBTFUL = 0.95  # a rank correlation with better scores below this is worth a sentence
ERROR = 0.3  # errors that spread more than this share of the influences are worth a sentence too
ENOUGH = 10  # points for a rank correlation to say anything
FIRST_ORDER = 1e-4  # an AdamW step of this learning rate is not small: docs/results/influence.md


@dataclass(frozen=True)
class Scores:
    """Every point's score, in the order of the data, and the statistics of the shards."""

    rows: list[Row]  # id, influence (None unless ok), training_loss, tokens, status[, in_warm_up]
    momentum_influence: float  # I(∅), nats
    step: dict[str, Any]  # optimizer, learning_rate[, steps_before]
    reference: dict[str, Any]  # n, loss
    truncated: int  # points cut at the end
    check: dict[str, Any] | None  # against, points, spearman, …: the agreement with better scores of a few points
    seconds: float  # of all shards together, loading included
    tokens: int  # read while scoring, prompts and answers

    @property
    def influences(self) -> list[float]:
        """Return the known influences in the order of the data."""
        return [row["influence"] for row in self.rows if row["influence"] is not None]

    @property
    def statuses(self) -> dict[str, int]:
        """Count the points of each status, the most common status first."""
        return dict(Counter(row["status"] for row in self.rows).most_common())


def gather(store: Store, points: str, shards: Sequence[str], split: str | None) -> Scores:
    """Gather the shards' scores in the order of `points`; `split` names the rows that warmed the student up."""
    warm = {row["id"] for row in read_rows(store.open(split) / "warm-up.parquet")} if split else set()
    scored = {row["id"]: row for shard in shards for row in read_rows(store.open(shard) / "scores.parquet")}
    marker = {"in_warm_up": False} if split else {}
    rows = []
    for point in read_rows(store.open(points) / "rows.parquet"):
        row = {**scored[point["id"]], **marker}
        row |= {name: None for name in ("influence", "training_loss") if not math.isfinite(row[name])}
        rows.append(row | ({"in_warm_up": True} if point["id"] in warm else {}))
    manifests = [store.manifest(shard) for shard in shards]
    told = [manifest["summary"] for manifest in manifests]
    return Scores(
        rows=rows,
        momentum_influence=json.loads((store.open(shards[0]) / "momentum.json").read_text())["momentum_influence"],
        step=told[0]["step"],
        reference=told[0]["reference"],
        truncated=sum(part["truncated"] for part in told),
        check=told[0].get("check"),
        seconds=sum(manifest["seconds"] for manifest in manifests),
        tokens=sum(part["tokens"] for part in told),
    )


def distribution(scores: Scores) -> dict[str, Any]:
    """Return mean, spread and shares of the influences, nats; of no influence at all only the count."""
    values = scores.influences
    if not values:
        return {"points": 0}
    ordered = sorted(values)
    return {
        "points": len(values),
        "mean": statistics.fmean(values),
        "standard_deviation": statistics.stdev(values) if len(values) > 1 else None,
        "minimum": ordered[0],
        "quantiles": {f"{q:.2f}": _quantile(ordered, q) for q in QUANTILES},
        "maximum": ordered[-1],
        "share_above_zero": _share_above(values, 0.0),
        "momentum_influence": scores.momentum_influence,
        "share_above_momentum": _share_above(values, scores.momentum_influence),
    }


def lengths(scores: Scores) -> dict[str, Any]:
    """Return the spread of the answers' tokens and losses, and how far the influences rank the points by them.

    A rank correlation is None where there are too few points, or no differences.
    """
    known = [row for row in scores.rows if row["influence"] is not None]
    found: dict[str, Any] = {}
    for name in ("tokens", "training_loss") if known else ():
        values = [row[name] for row in known]
        comparable = len(known) >= ENOUGH and len({*values}) > 1 and len({*scores.influences}) > 1
        found[name] = {
            "minimum": min(values),
            "median": statistics.median(values),
            "maximum": max(values),
            "spearman_with_influence": spearman(scores.influences, values) if comparable else None,
        }
    return found


def speed(scores: Scores) -> dict[str, float]:
    """Return points and tokens a second of one process, over all shards, loading included."""
    return {
        "points_per_second": round(len(scores.rows) / scores.seconds, 2),
        "tokens_per_second": round(scores.tokens / scores.seconds, 1),
        "seconds": round(scores.seconds, 3),
    }


def step_in_words(step: dict[str, Any], origin: str) -> str:
    """Describe the step whose effect is the influence; `origin` names the source of its state, "" for none."""
    rate = f"learning rate {step['learning_rate']:g}"
    if not origin:
        return f"one step of plain gradient descent, {rate}, without an optimiser state"
    taken = count(step["steps_before"], "step")
    return f"one AdamW step with {rate}, from the optimiser state {origin} after {taken}"


def warnings(scores: Scores, estimator: str, overlap: int) -> list[str]:
    """Warn a reader of the scores, in a sentence each."""
    sentences = []
    if overlap:
        sentences.append(
            f"{overlap} of the points {'has its' if overlap == 1 else 'have their'} instruction in the reference set: "
            "what they score is in part that they teach the very answers that are measured"
        )
    if scores.influences:
        sentences += _one_sided(scores)
    adamw = scores.step["optimizer"] == "AdamW"
    if adamw and estimator != "exact" and scores.step["learning_rate"] >= FIRST_ORDER:
        sentences.append(
            f"{estimator} takes the step's effect to first order, which at a learning rate of "
            f"{scores.step['learning_rate']:g} may no longer rank points as exact does: compare with --estimator exact "
            "on some of them (--limit 50)"
        )
    if scores.check and (doubt := estimator_doubt(scores.check)):
        sentences.append(f"{doubt}; {'leave --exact-dtype out, or ' * (estimator == 'exact')}use --estimator taylor")
    return sentences


def estimator_doubt(check: dict[str, Any]) -> str | None:
    """Return a sentence where the scores of `check` are far from better ones, by their ranks or by their errors.

    Ranks alone can pass where the errors of a few points are larger than all differences between points.
    """
    rank, error, signal = check["spearman"], check["deviation_of_error"], check["deviation_of_influence"]
    if check["points"] < ENOUGH or ((rank or 0) >= DOUBTFUL and error <= ERROR * signal):
        return None
    reason = "directional's fixed second moment does not hold for this student"
    if not check["against"].startswith("taylor"):
        reason = "the exact step in bfloat16 is mostly rounding"
    points = (f"{p['id']} has {scientific(p['influence'])} for {scientific(p['better'])}" for p in check["furthest"])
    return (
        f"{reason}: against {check['against']} on {count(check['points'], 'point')} the rank correlation is "
        f"{'none' if rank is None else f'{rank:.2f}'}, and the errors spread {scientific(error)} where the influences "
        f"spread {scientific(signal)}; furthest off: {', '.join(points)}"
    )


def _one_sided(scores: Scores) -> list[str]:
    values, momentum = scores.influences, scores.momentum_influence
    share, above = _share_above(values, 0.0), _share_above(values, momentum)
    if FEW <= share <= MOST:
        return []
    sentence = f"{percent(share)} of the points are positive, so zero does not tell them apart"
    if momentum and FEW <= above <= MOST:
        return [
            f"{sentence}: I(∅) = {scientific(momentum)} of each score is the step's momentum, the same for every "
            f"point; compare with I(∅) ({percent(above)} are above it), or rank"
        ]
    return [f"{sentence}: use their rank, or compare with the mean of points that answer the same prompt"]


def write(scores: Scores, path: Path) -> None:
    """Write the rows as JSON lines or Parquet, whole or not at all."""
    temporary = path.with_name(f".{path.name}.part")
    if path.suffix == ".parquet":
        write_rows(temporary, scores.rows)
    else:
        temporary.write_text("".join(json.dumps(row) + "\n" for row in scores.rows), encoding="utf-8")
    temporary.replace(path)


def draw(scores: Scores, stem: Path) -> list[Path]:
    """Draw the figure beside `stem` as SVG and PNG; nothing when no point has an influence."""
    if not scores.influences:
        return []
    from montessori.reporting import figures  # half a second that wrong input need not wait for

    picture = figures.draw_scores(scores.influences, scores.momentum_influence)
    svg, png = stem.with_name(f"{stem.name}.svg"), stem.with_name(f"{stem.name}.png")
    svg.write_text(picture.svg, encoding="utf-8")
    png.write_bytes(picture.png)
    return [svg, png]


def _share_above(values: Sequence[float], limit: float) -> float:
    return sum(value > limit for value in values) / len(values)


def _quantile(ordered: Sequence[float], q: float) -> float:
    """Interpolate linearly between the two nearest values."""
    place = q * (len(ordered) - 1)
    low = math.floor(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (place - low) * (ordered[high] - ordered[low])
