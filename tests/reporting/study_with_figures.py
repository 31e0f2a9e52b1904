"""A made-up study with something in every figure."""

import random

from montessori.evaluation.card import Column, Duel
from montessori.reporting.study.data import Cost, Result, Scored, StudentStep, Study, TeacherStep, Texts
from montessori.settings.study import SYSTEMS

LOSS = Column("Reference loss", "reference_loss", "nats/token", lower_is_better=True)
ACCURACY = Column("Accuracy", "accuracy", "%", lower_is_better=False, scale=100.0)
ROWS = [
    "No fine-tuning",
    "Self-Instruct",
    "Self-Reward",
    "LLM2LLM",
    "Montessori, iteration 1",
    "Montessori, iteration 2",
]
BASELINE = "Self-Instruct"
VERBS = "write create describe explain generate name find list sort compare rewrite give".split()  # noqa: SIM905
OBJECTS = "story poem list letter sentence paragraph process difference example function".split()  # noqa: SIM905


def costs(position: int) -> Cost:
    busy = 40.0 * position
    return Cost(1e5 * position, busy, 0.6 * busy * (position > 3), 0.3 * busy, 30.0 * (position > 0))


def results(rng: random.Random, rows: list[str], seeds: list[int], students: list[str], group: str) -> list[Result]:
    return [
        Result(
            row, group, student, seed,
            {LOSS.key: 1.45 - 0.1 * i + rng.gauss(0, 0.06), ACCURACY.key: 0.05 + 0.08 * i + rng.gauss(0, 0.02)},
            costs(i), 400,
        )
        for i, row in enumerate(rows) for student in students for seed in seeds
    ]  # fmt: skip


def texts(rng: random.Random, row: str, position: int, n: int = 400) -> Texts:
    def asked() -> str:
        verb, thing = rng.choice(VERBS[: 6 + position]), rng.choice(OBJECTS[position % 5 :])
        return rng.choice([f"{verb} a {thing} about cats.", f"Please {verb} the {thing}.", "What is rain?"])

    lengths = [round(rng.lognormvariate(2.6 + 0.1 * position, 0.4)) for _ in range(n)]
    answers = [round(rng.lognormvariate(3.2 + 0.15 * position, 0.6)) for _ in range(n)]
    return Texts(row, [asked() for _ in range(n)], lengths, answers)


def scored(rng: random.Random, seed: int, n: int = 120) -> Scored:
    exact = [rng.gauss(2e-5, 3e-5) for _ in range(n)]
    return Scored(
        seed,
        [2.0 + 8e3 * value + rng.gauss(0, 0.4) for value in exact],
        {
            "exact": exact,
            "taylor": [value + rng.gauss(0, 1e-6) for value in exact],
            "directional": [value + rng.gauss(0, 8e-6) for value in exact[:-1]] + [float("nan")],
        },
    )


def made_up(rows: list[str] = ROWS, seeds: int = 5) -> Study:
    rng = random.Random(0)
    numbers = list(range(10, 10 + seeds))
    return Study(
        "pocket", "20261123-042211-9f31c2", "montessori study study.yaml", "name: pocket\n", [LOSS, ACCURACY], BASELINE,
        results(rng, rows, numbers, [""], SYSTEMS), numbers, [""],
        teacher_steps=[
            TeacherStep(
                seed, round(share * (60 + seed)), share,
                {LOSS.key: rng.gauss(1.2 - 0.4 * share, 0.08), ACCURACY.key: rng.gauss(0.3 + 0.2 * share, 0.03)},
                [rng.gauss(1e-5 + 3e-5 * share, 3e-5) for _ in range(120)],
            )
            for seed in numbers for share in (0.0, 0.25, 0.5, 0.75, 1.0)
        ],
        student_steps=[
            StudentStep(row, seed, share, min(1, max(0, 0.6 - 0.35 * share + 0.04 * i + rng.gauss(0, 0.04))))
            for i, row in enumerate(rows[1:]) for seed in numbers for share in (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
        ],
        duels=[Duel(row, BASELINE, 150 + 15 * i, 60 - 5 * i, 110) for i, row in enumerate(rows) if row != BASELINE],
        transfer=results(rng, rows[1:], numbers, ["small", "wide", "deep", "other tokenizer"], SYSTEMS),
        scored=[scored(rng, seed) for seed in numbers],
        texts=[texts(rng, row, i) for i, row in enumerate(rows) if i or len(rows) == 1],
    )  # fmt: skip
