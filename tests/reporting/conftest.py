import random

import pytest

from montessori.evaluation.card import Measure
from montessori.reporting.figures import Picture
from montessori.reporting.run.data import (
    Cost,
    Iteration,
    Rejection,
    Report,
    Run,
    ScoredPoint,
    Stage,
    Step,
    System,
)
from montessori.reporting.run.figures import draw

FAMILIES = ["reverse", "uppercase", "count", "sort", "add", "compare", "repeat", "last letter", "first word"]


def steps(rng: random.Random, n: int, high: float, low: float, dpo: bool = False) -> list[Step]:
    rows = []
    for i in range(n):
        done = (i + 1) / n
        loss = low + (high - low) * (1 - done) ** 2 + rng.gauss(0, 0.03)
        rate = 1e-6 * min(1, done / 0.1, max(1e-3, (1 - done) / 0.4))
        margin = done * 1.8 + rng.gauss(0, 0.2) if dpo else float("nan")
        accuracy = min(1, 0.5 + 0.4 * done + rng.gauss(0, 0.05)) if dpo else float("nan")
        rows.append(Step(5 * (i + 1), loss, rate, margin, accuracy))
    return rows


def mixture(rng: random.Random, reference_weight: float) -> dict[str | None, float]:
    weights: dict[str | None, float] = {
        name: rng.uniform(0.5, 1.5) * (reference_weight if i < 3 else 1) for i, name in enumerate(FAMILIES)
    }
    weights[None] = 1.2 / reference_weight
    return {name: weight / sum(weights.values()) for name, weight in weights.items()}


def iteration(rng: random.Random, number: int) -> Iteration:
    middle = 2e-5 * number
    influences = [rng.gauss(middle, 3e-5) for _ in range(600)] + [float("nan")] * 3 + [0.01]
    share = 0.55 + 0.13 * number
    return Iteration(
        number,
        influences,
        positive_share=share,
        pairs=412 - 60 * number,
        split="prompt_mean",
        momentum_influence=5.3e-5 / number,
        positive_share_after=share + 0.13 if number == 1 else None,
        warning="96% of the points are positive: set preferences.split" if number == 2 else None,
        families_before=mixture(rng, 1.0 + number * 0.8),
        families_after=mixture(rng, 1.8 + number * 0.8),
        warm_up=steps(rng, 16, 2.9, 2.4),
        dpo=steps(rng, 80, 0.69, 0.4, dpo=True),
        sft=steps(rng, 30, 2.8, 1.9),
    )


def stages() -> list[Stage]:
    rows: list[Stage] = []

    def add(stage: str, label: str, seconds: float, *parents: str, shard: str = "") -> str:
        address = f"{stage}/{random.Random(f'{stage}{label}{shard}').getrandbits(64):016x}"
        rows.append(Stage(stage, address, seconds, label, shard, len(rows), int(3e4 * seconds), list(parents)))
        return address

    seeds = add("seeds", "", 0.4)
    reference = add("reference", "", 0.3)
    teacher = add("scratch", "teacher", 131)
    student = probed = add("scratch", "student", 64)

    def data(name: str, teacher: str) -> str:
        instructions = add("instructions", name, 41, teacher, seeds)
        shards = [add("responses", name, 22, teacher, instructions, shard=f"{i} of 2") for i in range(2)]
        return add("pairs", name, 0.6, instructions, *shards)

    def evaluated(name: str, student: str) -> None:
        add("evaluate", name, 9.5, student, reference)

    evaluated("No fine-tuning", student)
    tuned = add("sft", "Self-Instruct", 33, student, data("Self-Instruct", teacher))
    evaluated("Self-Instruct", tuned)
    for i in (1, 2):
        name = f"iteration {i}"
        pairs = data(f"{name}, probing", teacher)
        warm = add("warm-up", name, 17, probed, pairs)
        gradient = add("reference-gradient", name, 6, warm, reference)
        scores = [add("influence", name, 31, warm, gradient, pairs, shard=f"{k} of 4") for k in range(4)]
        preferences = add("preferences", name, 0.3, *scores, pairs)
        teacher = add("dpo", name, 88, teacher, preferences)
        probed = add("sft", name, 35, student, data(f"{name}, training", teacher))
        evaluated(f"Montessori {name}", probed)
    return rows


def realistic() -> Report:
    rng = random.Random(0)
    names = ["No fine-tuning", "Self-Instruct", "Montessori iteration 1", "Montessori iteration 2"]
    systems = [
        System(
            name,
            training_points=400 if i else 0,
            reference_loss=Measure(2.9 - 0.2 * i, 0.031, 256),
            held_out_loss=Measure(2.95 - 0.19 * i, 0.028, 512),
            accuracy=Measure((0.12, 0.31, 0.42, 0.45)[i], 0.0215, 512),
            baseline=i < 2,
            instruction_tokens=[round(rng.lognormvariate(2.6 + 0.1 * i, 0.4)) for _ in range(400 * (i > 0))],
            response_tokens=[round(rng.lognormvariate(3.0 + 0.2 * i, 0.6)) for _ in range(400 * (i > 0))],
        )
        for i, name in enumerate(names)
    ]
    run = Run(
        "tiny-two-iterations",
        "20261123-042211-9f31c2",
        "name: tiny\nseed: 0\niterations: 2\n",
        versions={"montessori": "0.1.0", "torch": "2.13.0"},
        started="2026-11-23 04:22 UTC",
        finished="05:01 UTC",
    )
    return Report(
        run,
        systems,
        accuracy_kind="exact match",
        iterations=[iteration(rng, 1), iteration(rng, 2)],
        reference_families=set(FAMILIES[:3]),
        highest=[
            ScoredPoint("Reverse the word 'lantern'.", "nretnal", 1.4e-4, 1, "reverse"),
            ScoredPoint("<script>alert('x')</script> & count", "<img src=x onerror=alert(1)>", 1.1e-4, 2),
            ScoredPoint("Explain why the sky is blue. " * 30, "Light scatters. " * 900, 9.7e-5, 2, "explain"),
        ],
        lowest=[ScoredPoint("Sort 3 1 2", "<b>2 1 3</b>", -8.1e-5, 1, "sort")],
        rejections={"no instruction tag": 41, "near-duplicate": 210, "too long": 3},
        rejected=[Rejection("near-duplicate", "Sort <3 2 1>")],
        stages=stages(),
        costs=[
            Cost("seeds", (0, 0), (0.0, 1e-6)),
            Cost("instructions", (231_000, 204_000), (0.02, 0.03), (1.25, 1.1)),
            Cost("teacher", (0, 0), (None, 0.5)),
        ],
    )


@pytest.fixture(scope="session")
def report() -> Report:
    return realistic()


@pytest.fixture(scope="session")
def pictures(report: Report) -> dict[str, Picture]:
    """Every figure of the realistic report, drawn once for all tests."""
    return {picture.name: picture for picture in draw(report)}


@pytest.fixture(scope="session")
def minimal() -> Report:
    """The least that a run can have to show."""
    return Report(Run("bare", "r1", ""), [System("No fine-tuning", 0, Measure(2.0, float("nan"), 1))])
