"""Studies made by hand: one as a real one is, one of names that would break markup, one of a single seed."""

import random
from dataclasses import replace

from montessori.evaluation.card import Column
from montessori.reporting.run.data import ScoredPoint
from montessori.reporting.study.data import Cost, Missing, Published, Result, Study
from montessori.settings.study import SYSTEMS

HOSTILE = "50%_of $x & {y} \\input~^#<b>'\"`|*[z]--</td><script>alert(1)</script>é中😀\ud800\u202e"
SEEDS = [0, 1, 2, 3, 4]
LOSS = Column("Reference loss", "reference_loss", "nats/token", True)
WINS = Column("AlpacaEval WR", "alpaca_eval", "%", False, scale=100)
GRADE = Column("MT-Bench", "mt_bench", "", False)
BASELINE = "Self-Instruct"
MONTESSORI = "Montessori-Instruct, iteration 1"
GAIN = {"No fine-tuning": -4.0, BASELINE: 0.0, MONTESSORI: 1.5}  # in a metric's unit of effect
SIGNAL, UPDATE = "Signal", "Teacher update"
ABLATIONS = {SIGNAL: {"influence": 1.5, "judge": 0.1}, UPDATE: {"instructions": 1.5, "responses": 1.45}}


def cost(times: float) -> Cost:
    return Cost(120_000 * times, 90 * times, 40 * (times - 1), 70 * (times - 1), 200, 0.5 * times)


def result(row: str, group: str, student: str, seed: int, gain: float) -> Result:
    """Seeds move all rows together, and each row a little by itself."""
    together = random.Random(f"{student!a}{seed}").gauss(0, 1)
    own = random.Random(f"{row!a}{group!a}{student!a}{seed}")
    at = [gain + together + own.gauss(0, 0.25) for _ in range(3)]
    base = 2.4 if student == "8B" else 3.1
    values = {"reference_loss": base - 0.05 * at[0], "alpaca_eval": 0.5 + 0.02 * at[1], "mt_bench": 6 + at[2] * 0.001}
    return Result(row, group, student, seed, values, cost(1 + (gain > 0)), 0 if row == "No fine-tuning" else 10_000)


def realistic() -> Study:
    results = [
        result(row, SYSTEMS, student, seed, gain)
        for student in ("8B", "1.1B")
        for row, gain in GAIN.items()
        for seed in SEEDS
        if (row, student, seed) != (MONTESSORI, "1.1B", 3)
    ]
    results += [
        result(row, group, "8B", seed, gain)
        for group, rows in ABLATIONS.items()
        for row, gain in rows.items()
        for seed in SEEDS
    ]
    transfer = [
        result(row, "transfer", student, seed, gain / 2)
        for student in ("Qwen", "Gemma")
        for row, gain in GAIN.items()
        if row != "No fine-tuning"
        for seed in SEEDS
    ]
    return Study(
        "table-1-and-2", "study-1a2b3c4d", "montessori study study.yaml", "name: table-1-and-2\nseeds: 5\n",
        [LOSS, WINS, GRADE], BASELINE, results, SEEDS, ["8B", "1.1B"],
        published=[
            Published(BASELINE, {"alpaca_eval": 50, "mt_bench": 6.49}, "8B", "8B"),
            Published(MONTESSORI, {"mt_bench": 6.903}, "8B", "8B"),
            Published(MONTESSORI, {"mt_bench": 2.485}, "1.1B", "1.1B"),
        ],
        transfer=transfer,
        highest=[
            ScoredPoint("Reverse the word 'lantern'.", "nretnal", 1.4e-4),
            ScoredPoint("<script>alert('x')</script> & count", "<img src=x onerror=alert(1)>", 1.1e-4),
            ScoredPoint("Explain why the sky is blue. " * 30, "Light scatters. " * 900, 9.7e-5),
        ],
        lowest=[ScoredPoint("Sort 3 1 2", "<b>2 1 3</b>", -8.1e-5)],
        hyperparameters={"DPO: learning rate": "1e-6", "DPO: β": "0.1", "SFT: learning rate": "5e-6"},
        changes={"system Self-Reward": {"method": "self-reward"}, "student 1.1B": {"sft.learning_rate": "1e-5"}},
        missing=[Missing(MONTESSORI, "1.1B", 3, "the teacher wrote 12 of 10,000 points")],
        seconds=91_234.0,
        versions={"montessori": "0.1.0", "torch": "2.13.0"},
    )  # fmt: skip


def single() -> Study:
    """One seed, one student, no ablations."""
    results = [result(row, SYSTEMS, "", 0, gain) for row, gain in GAIN.items()]
    return Study("one", "s1", "montessori study one.yaml", "", [LOSS, WINS], BASELINE, results, [0], [""])


def hostile() -> Study:
    """Every text of it is `HOSTILE`."""
    metric = Column(HOSTILE, HOSTILE, HOSTILE, True)
    other = HOSTILE + "2"
    results = [
        replace(result(row, group, HOSTILE, seed, 0), values={HOSTILE: seed * 1.1 + len(row) + (seed % 2) * 0.01})
        for group in (SYSTEMS, HOSTILE)
        for row in (HOSTILE, other)
        for seed in (0, 1)
    ]
    example = ScoredPoint(HOSTILE * 10, HOSTILE, 1e-5)
    return Study(
        HOSTILE, HOSTILE, HOSTILE, HOSTILE, [metric], HOSTILE, results, [0, 1], [HOSTILE],
        [Published(HOSTILE, {HOSTILE: 1}, HOSTILE, HOSTILE)], highest=[example], lowest=[example],
        transfer=[one for one in results if one.group == SYSTEMS],
        hyperparameters={HOSTILE: HOSTILE}, changes={HOSTILE: {HOSTILE: HOSTILE}},
        missing=[Missing(HOSTILE, HOSTILE, 7, HOSTILE)], versions={HOSTILE: HOSTILE},
    )  # fmt: skip
