"""Build preference pairs from scores: for each prompt, the teacher's outputs to prefer over others.

In: the outputs and their scores, influences or other signals.  Out: rows of prompt, chosen, rejected, and a summary.
The split defines the positive points. All others are negative:

    zero         I > 0, as in Montessori-Instruct (arXiv 2410.14208), section 3.3
    momentum     I > I(∅): the step lowers the loss by more than the momentum alone would
    prompt_mean  I > the mean over the scored samples of the same prompt
    best_worst   the first of the best of a prompt against the first of the worst, unless they are equal; the others
                 are left out, as in Self-Reward (arXiv 2401.10020), section 2.3
"""

import math
import random
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from montessori.data.rows import Row
from montessori.errors import InputError, StageError
from montessori.settings.influence import Split

EXTREME_SHARE = 0.05  # a split leaves few pairs below this share of positive points, and above one minus it
REMEDY = {
    "zero": "set preferences.split=momentum or preferences.split=prompt_mean",
    "momentum": "set preferences.split=prompt_mean",
    "prompt_mean": "raise instructions.samples_per_prompt, so that more prompts have several scored samples",
    "best_worst": "the scores of a prompt's samples hardly differ: raise responses.samples_temperature, or take "
    "a judge that tells them apart",
}


@dataclass(frozen=True)
class Summary:
    """Hold statistics of the scores, for the stage's summary and the report."""

    pairs: int
    prompts: int  # prompts with at least one scored point
    prompts_with_pairs: int
    scored: int  # points with a score
    unscored: int  # points whose status is not ok
    positive_share: float  # share of the scored points
    momentum_influence: float | None  # I(∅), nats; None for signals without momentum
    influence_mean: float
    influence_std: float  # population standard deviation over the scored points
    warning: str | None  # a sentence for the user when nearly all points are on one side


def build_pairs(
    outputs: Sequence[Row],
    scores: Sequence[Row],
    split: Split,
    *,
    momentum_influence: float | None = None,
    max_pairs: int | None = None,
    seed: int = 0,
) -> tuple[list[dict[str, Any]], Summary]:
    """Return every (positive, negative) pair within each prompt, in the order of `outputs`, and a summary.

    `outputs` have `id, prompt_id, prompt, raw`. `scores` have `id, influence, status`, in any order, for some of those
    ids. With more than `max_pairs` pairs, a seeded sample of that many is returned, in order. A row has `prompt,
    chosen, rejected` (the teacher's raw outputs), `chosen_id, rejected_id` and `margin`, the difference of the two
    influences. Raises StageError with the settings to change when there is no pair.
    """
    influences = influences_by_id(scores)
    prompts = _by_prompt(outputs, influences)
    pairs: list[dict[str, Any]] = []
    prompts_with_pairs = positives = 0
    for rows in prompts.values():
        positive, negative = _sides(rows, influences, split, momentum_influence)
        positives += len(positive)
        prompts_with_pairs += bool(positive and negative)
        pairs += [_preference(p, n, influences) for p in positive for n in negative]

    share = positives / len(influences)
    if not pairs:
        raise StageError(
            f"no preference pair: {share:.0%} of the {len(influences)} scored points are positive with "
            f"preferences.split={split}, and no prompt has positive and negative ones; {REMEDY[split]}"
        )
    if max_pairs is not None and len(pairs) > max_pairs:
        sample = sorted(random.Random(seed).sample(range(len(pairs)), max_pairs))
        pairs = [pairs[i] for i in sample]
    mean = math.fsum(influences.values()) / len(influences)
    return pairs, Summary(
        pairs=len(pairs),
        prompts=len(prompts),
        prompts_with_pairs=prompts_with_pairs,
        scored=len(influences),
        unscored=len(scores) - len(influences),
        positive_share=share,
        momentum_influence=momentum_influence,
        influence_mean=mean,
        influence_std=math.sqrt(math.fsum((i - mean) ** 2 for i in influences.values()) / len(influences)),
        warning=_warning(split, share),
    )


def positive_outputs(
    outputs: Sequence[Row], scores: Sequence[Row], split: Split, momentum_influence: float | None = None
) -> list[Row]:
    """Return the positive outputs of the split, in order. Arguments are those of `build_pairs`.

    Raises StageError when there is none.
    """
    influences = influences_by_id(scores)
    prompts = _by_prompt(outputs, influences)
    positive = [row for rows in prompts.values() for row in _sides(rows, influences, split, momentum_influence)[0]]
    if not positive:
        raise StageError(f"none of the {len(influences)} scored points is positive with preferences.split={split}")
    return positive


def influences_by_id(scores: Sequence[Row]) -> dict[str, float]:
    """Return the score of each scored point, by id. Raises StageError when no point has a score."""
    influences = {s["id"]: float(s["influence"]) for s in scores if s["status"] == "ok"}
    if not influences:
        raise StageError(
            f"none of the {len(scores)} points has a score; their status says why "
            f"({', '.join(sorted({str(s['status']) for s in scores})) or 'there are no points'})"
        )
    return influences


def threshold(split: Split, momentum_influence: float | None, prompt_influences: list[float]) -> float:
    """Return the limit above which an influence is positive.

    `prompt_influences` are those of the same prompt's samples. Raises InputError for the momentum split without a
    momentum influence.
    """
    if split == "zero":
        return 0.0
    if split == "prompt_mean":
        return statistics.mean(prompt_influences)  # exact: the mean of equal values is that value, bit for bit
    if momentum_influence is None:
        raise InputError("preferences.split=momentum needs scores that have a momentum share; set zero or prompt_mean")
    return momentum_influence


def _sides(
    rows: list[Row], influences: Mapping[str, float], split: Split, momentum_influence: float | None
) -> tuple[list[Row], list[Row]]:
    """Return the positive and the negative samples of a prompt."""
    if split == "best_worst":
        best = max(rows, key=lambda row: influences[row["id"]])
        worst = min(rows, key=lambda row: influences[row["id"]])
        return ([best], [worst]) if influences[best["id"]] > influences[worst["id"]] else ([], [])
    limit = threshold(split, momentum_influence, [influences[row["id"]] for row in rows])
    positive = [row for row in rows if influences[row["id"]] > limit]
    return positive, [row for row in rows if influences[row["id"]] <= limit]


def _by_prompt(outputs: Sequence[Row], influences: Mapping[str, float]) -> dict[str, list[Row]]:
    prompts: dict[str, list[Row]] = {}
    for row in outputs:
        if row["id"] in influences:
            prompts.setdefault(row["prompt_id"], []).append(row)
    _require_all_outputs(influences, prompts)
    return prompts


def _preference(chosen: Row, rejected: Row, influences: Mapping[str, float]) -> dict[str, Any]:
    return {
        "prompt": chosen["prompt"],
        "chosen": chosen["raw"],
        "rejected": rejected["raw"],
        "chosen_id": chosen["id"],
        "rejected_id": rejected["id"],
        "margin": influences[chosen["id"]] - influences[rejected["id"]],
    }


def _warning(split: Split, share: float) -> str | None:
    if EXTREME_SHARE <= share <= 1 - EXTREME_SHARE:
        return None
    return (
        f"{share:.1%} of the scored points are positive with preferences.split={split}, "
        f"so most prompts give no pair; {REMEDY[split]}"
    )


def _require_all_outputs(influences: Mapping[str, float], prompts: Mapping[str, list[Row]]) -> None:
    ids = {row["id"] for rows in prompts.values() for row in rows}
    missing = sorted(influences.keys() - ids)
    if missing:
        raise InputError(f"{len(missing)} scores belong to no instruction, the first is {missing[0]}")
