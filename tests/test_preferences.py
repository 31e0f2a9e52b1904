"""Preference pairs from influence scores."""

import math
import random
import statistics
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from montessori.errors import InputError, StageError
from montessori.preferences import build_pairs, positive_outputs

Rows = list[dict[str, Any]]

INFLUENCES = st.floats(-1e-3, 1e-3, allow_nan=False)
PROMPTS = st.lists(
    st.lists(st.one_of(INFLUENCES, st.none(), st.sampled_from([0.0, 1e-4])), min_size=1, max_size=5),
    min_size=1,
    max_size=8,
)
SPLITS = st.sampled_from(["zero", "momentum", "prompt_mean"])


def rows(prompts: list[list[float | None]]) -> tuple[Rows, Rows]:
    """Instruction rows and scores of points given as influences by prompt; None: a point without a score."""
    instructions, scores = [], []
    for p, samples in enumerate(prompts):
        for s, influence in enumerate(samples):
            id = f"{p}-{s}"
            prompt = [{"role": "user", "content": f"prompt {p}"}]
            instructions.append({"id": id, "prompt_id": f"p{p}", "prompt": prompt, "raw": f"raw {id}"})
            ok = influence is not None
            scores.append(
                {
                    "id": id,
                    "influence": influence if ok else math.nan,
                    "status": "ok" if ok else "not-finite",
                }
            )
    return instructions, scores


def is_positive(influence: float, of_prompt: list[float], split: str, momentum: float) -> bool:
    return influence > {"zero": 0.0, "momentum": momentum, "prompt_mean": statistics.mean(of_prompt)}[split]


@given(PROMPTS, SPLITS, INFLUENCES)
def test_pairs_are_all_positives_against_all_negatives_of_each_prompt(prompts, split, momentum):
    instructions, scores = rows(prompts)
    positives = {}
    expected = 0
    for p, samples in enumerate(prompts):
        scored = [i for i in samples if i is not None]
        labels = [i is not None and is_positive(i, scored, split, momentum) for i in samples]
        positives |= {f"{p}-{s}": label for s, label in enumerate(labels)}
        expected += sum(labels) * (len(scored) - sum(labels))
    if not expected:
        with pytest.raises(StageError):
            build_pairs(instructions, scores, split, momentum_influence=momentum)
        return

    pairs, summary = build_pairs(instructions, scores, split, momentum_influence=momentum)
    by_id = {row["id"]: row for row in instructions}
    influence = {s["id"]: s["influence"] for s in scores}
    for row in pairs:
        chosen, rejected = by_id[row["chosen_id"]], by_id[row["rejected_id"]]
        assert chosen["prompt_id"] == rejected["prompt_id"]
        assert (row["prompt"], row["chosen"], row["rejected"]) == (
            chosen["prompt"],
            chosen["raw"],
            rejected["raw"],
        )
        assert positives[row["chosen_id"]]
        assert not positives[row["rejected_id"]]
        assert row["margin"] == influence[row["chosen_id"]] - influence[row["rejected_id"]] > 0
    assert len({(row["chosen_id"], row["rejected_id"]) for row in pairs}) == len(pairs) == expected
    assert summary.pairs == expected
    assert summary.positive_share == pytest.approx(sum(positives.values()) / summary.scored)


@given(PROMPTS, SPLITS, st.integers(0, 100))
def test_the_order_of_the_scores_changes_nothing(prompts, split, seed):
    instructions, scores = rows(prompts)
    shuffled = random.Random(seed).sample(scores, len(scores))
    try:
        expected = build_pairs(instructions, scores, split, momentum_influence=1e-5)[0]
    except StageError:
        return
    assert build_pairs(instructions, shuffled, split, momentum_influence=1e-5)[0] == expected


@given(st.floats(-1, 1, allow_nan=False), st.integers(1, 7))
def test_prompt_mean_finds_nothing_to_prefer_among_equals(influence, samples):
    with pytest.raises(StageError, match=r"0% of .*preferences\.split=prompt_mean"):
        build_pairs(*rows([[influence] * samples]), "prompt_mean")


@given(PROMPTS)
def test_best_worst_makes_one_pair_of_each_prompt_whose_samples_differ(prompts):
    outputs, scores = rows(prompts)
    expected = {}
    for p, samples in enumerate(prompts):
        scored = {f"{p}-{s}": i for s, i in enumerate(samples) if i is not None}
        if len({*scored.values()}) > 1:
            expected[f"p{p}"] = (max(scored.values()), min(scored.values()))
    if not expected:
        with pytest.raises(StageError):
            build_pairs(outputs, scores, "best_worst")
        return
    pairs, summary = build_pairs(outputs, scores, "best_worst")
    influence = {s["id"]: s["influence"] for s in scores}
    prompt = {row["id"]: row["prompt_id"] for row in outputs}
    found = {prompt[r["chosen_id"]]: (influence[r["chosen_id"]], influence[r["rejected_id"]]) for r in pairs}
    assert found == expected and len(pairs) == summary.prompts_with_pairs == len(expected)


def test_positives_are_the_outputs_that_pairs_could_choose():
    outputs, scores = rows([[3.0, 1.0, None], [0.5, 0.5], [-1.0]])
    assert [row["id"] for row in positive_outputs(outputs, scores, "zero")] == ["0-0", "0-1", "1-0", "1-1"]
    assert [row["id"] for row in positive_outputs(outputs, scores, "prompt_mean")] == ["0-0"]
    assert [row["id"] for row in positive_outputs(outputs, scores, "momentum", 0.7)] == ["0-0", "0-1"]
    with pytest.raises(StageError, match=r"none of the 1 scored points is positive with preferences\.split=zero"):
        positive_outputs(*rows([[-1.0]]), "zero")


def test_max_pairs_keeps_a_seeded_sample_in_order():
    instructions, scores = rows([[1.0, 2.0, -1.0, -2.0]] * 5)
    every, _ = build_pairs(instructions, scores, "zero")
    kept, summary = build_pairs(instructions, scores, "zero", max_pairs=7, seed=3)
    assert kept == build_pairs(instructions, scores, "zero", max_pairs=7, seed=3)[0]
    assert kept != build_pairs(instructions, scores, "zero", max_pairs=7, seed=4)[0]
    assert len(kept) == summary.pairs == 7
    assert kept == [row for row in every if row in kept]


def test_the_summary_counts_what_was_found():
    instructions, scores = rows([[3.0, -1.0], [2.0, None], [None]])
    _, summary = build_pairs(instructions, scores, "zero", momentum_influence=0.5)
    assert (summary.pairs, summary.prompts, summary.prompts_with_pairs) == (1, 2, 1)
    assert (summary.scored, summary.unscored, summary.momentum_influence) == (3, 2, 0.5)
    assert summary.positive_share == pytest.approx(2 / 3)
    assert summary.influence_mean == pytest.approx(4 / 3)
    assert summary.influence_std == pytest.approx(statistics.pstdev([3.0, -1.0, 2.0]))
    assert summary.warning is None


def test_points_that_are_nearly_all_positive_warn_and_say_what_to_set():
    prompts = [[1.0, 2.0] for _ in range(20)] + [[1.0, -1.0]]
    _, summary = build_pairs(*rows(prompts), "zero", momentum_influence=1.5)
    assert summary.warning is not None
    assert "97.6% of the scored points are positive" in summary.warning
    assert "preferences.split=momentum or preferences.split=prompt_mean" in summary.warning
    assert build_pairs(*rows(prompts), "momentum", momentum_influence=1.5)[1].warning is None


def test_no_pair_at_all_stops_with_the_split_the_share_and_the_remedy():
    with pytest.raises(StageError) as error:
        build_pairs(*rows([[1.0, 2.0], [3.0]]), "zero")
    assert "100% of the 3 scored points are positive with preferences.split=zero" in str(error.value)
    assert "set preferences.split=momentum" in str(error.value)


def test_points_without_a_single_score_say_why():
    with pytest.raises(StageError, match=r"none of the 2 points has a score.*not-finite"):
        build_pairs(*rows([[None, None]]), "zero")


def test_the_momentum_split_needs_the_momentum_share():
    with pytest.raises(InputError, match="momentum share"):
        build_pairs(*rows([[1.0, -1.0]]), "momentum")


def test_a_score_of_no_instruction_is_refused():
    instructions, scores = rows([[1.0, -1.0]])
    with pytest.raises(InputError, match="the first is 0-1"):
        build_pairs(instructions[:1], scores, "zero")


def test_importing_it_does_not_import_torch():
    code = "import sys, montessori.preferences; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
