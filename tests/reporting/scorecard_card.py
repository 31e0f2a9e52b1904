"""Cards of evaluations, made by hand: one as a real one is, one of names that would break markup."""

import random
import statistics
from collections.abc import Callable, Mapping, Sequence

from montessori.evaluation.card import Card, Column, Duel, Example, JudgeAbility, Measure, Overlap, Score
from montessori.evaluation.mt_bench import TURNS

HOSTILE = "50%_of $x & {y} \\input~^#<b>'\"`|*[z]--</td><script>alert(1)</script>é中😀\ud800\u202e"
MODELS = ("No fine-tuning", "Self-Instruct", "Montessori iteration 1", "Montessori iteration 2")
CATEGORIES = ("writing", "roleplay", "reasoning", "math", "coding", "extraction", "stem", "humanities")
SUBJECTS = tuple(f"subject_{n:02}" for n in range(57))
SHARES = {  # by column key: items, and the chance of each model
    "hellaswag": (400, (0.60, 0.60, 0.61, 0.605)),
    "mmlu": (570, (0.40, 0.41, 0.42, 0.60)),
    "gsm8k": (300, (0.10, 0.30, 0.32, 0.31)),
    "arc_challenge": (300, (0.35, 0.36, 0.50, 0.70)),
    "gpqa": (200, (0.25, 0.24, 0.26, 0.25)),
}
NAMES = {"hellaswag": "HellaSwag", "mmlu": "MMLU", "gsm8k": "GSM8K", "arc_challenge": "ARC-C", "gpqa": "GPQA"}


def measure(values: Sequence[float]) -> Measure:
    spread = statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else 0.0
    return Measure(statistics.fmean(values), spread, len(values))


def score(items: Mapping[str, float], group: Callable[[int], str] | None = None, **more: object) -> Score:
    """A score of `items`; `group` says where the item at a position belongs."""
    parts: dict[str, list[float]] = {}
    for position, value in enumerate(items.values()):
        if group:
            parts.setdefault(group(position), []).append(value)
    return Score(measure(list(items.values())), items, {name: measure(p) for name, p in parts.items()}, **more)


def columns() -> list[Column]:
    """In an order that is not the paper's."""
    shares = [Column(NAMES[key], key, "%", scale=100, protocol=f"{key}, acc") for key in SHARES]
    return [
        Column("Reference loss", "reference_loss", "nats/token", lower_is_better=True, protocol="256 points"),
        *shares,
        Column("MT-Bench", "mt_bench", "1–10", protocol="two turns, graded by the judge"),
        Column("AlpacaEval WR", "alpaca_eval", "%", scale=100, protocol="805 instructions", baseline="Self-Instruct"),
        Column("AlpacaEval LC", "alpaca_eval_lc", "%", scale=100, baseline="Self-Instruct"),
        Column("Held-out bits", "bits_per_byte", "bits/byte", lower_is_better=True),
    ]


def realistic() -> Card:
    draw = random.Random(0)
    scores: dict[tuple[str, str], Score] = {}
    for place, model in enumerate(MODELS):
        for key, (n, chances) in SHARES.items():
            items = {f"{key}/{i}": float(draw.random() < chances[place]) for i in range(n)}
            scores[model, key] = score(items, (lambda i: SUBJECTS[i % 57]) if key == "mmlu" else None)
        grades = {
            f"{i}/{turn}": min(10.0, max(1.0, round(draw.gauss(4 + place, 1.5)))) for i in range(80) for turn in (0, 1)
        }
        turns = {name: measure(list(grades.values())[turn::2]) for turn, name in enumerate(TURNS)}
        scores[model, "mt_bench"] = score(grades, lambda i: CATEGORIES[i // 20], unreadable=place, turns=turns)
        losses = {str(i): 2.5 - 0.2 * place + draw.gauss(0, 0.3) for i in range(256)}
        scores[model, "reference_loss"] = score(losses)
        scores[model, "bits_per_byte"] = score({id: loss / 3 for id, loss in losses.items()})
        if model != "Self-Instruct":
            wins = {str(i): min(1.0, max(0.0, draw.gauss((0.2, 0, 0.56, 0.62)[place], 0.3))) for i in range(805)}
            notes = ["no length control: too few models"] if place == 0 else ["selected on the first 256"]
            scores[model, "alpaca_eval"] = score(wins, unreadable=3 * place, notes=notes)
            scores[model, "alpaca_eval_lc"] = score({id: 0.9 * win for id, win in wins.items()})
    del scores["No fine-tuning", "gpqa"]
    return Card(
        "suite-paper", "paper-1a2b3c4d", MODELS, columns(), scores, "Self-Instruct",
        duels=[
            Duel("Montessori iteration 2", "Self-Instruct", 412, 203, 190),
            Duel("Montessori iteration 1", "Self-Instruct", 380, 215, 210),
            Duel("Montessori iteration 2", "Montessori iteration 1", 301, 260, 240, unreadable=4),
            Duel("No fine-tuning", "Self-Instruct", 20, 45, 740),
        ],
        examples=[
            Example(
                "alpaca_eval", "Why blue?", MODELS[3], "Light scatters. " * 40, MODELS[1], "It is.", 0.97, "A",
                MODELS[3],
            ),
            Example("alpaca_eval", "Name a colour.", MODELS[3], "Perhaps.", MODELS[1], "Red.", 0.02, "A", MODELS[1]),
            Example("mt_bench", "Write a haiku.", MODELS[2], "…", "", "", 2.0, "Rating: [[2]]"),
        ],
        overlaps=[
            Overlap("AlpacaEval", 805, 256, 135, ["how do i wrap a present neatly"], "iteration 1"),
            Overlap("GSM8K", 1319, 0, 10, ["and there are 7 days in a week so she eats 3 7"], "iteration 1"),
        ],
        ability=JudgeAbility("gpt-4o", Measure(0.712, 0.0143, 981), 0.7512, 104, 12),
        judge="gpt-4o",
        warnings=["256 of AlpacaEval's instructions are the reference set that the students were selected on."],
        published="8B",
        settings_yaml="name: paper\nseed: 0\n",
        command="montessori evaluate paper.yaml --model models/a --model models/b",
        versions={"montessori": "0.1.0", "lm_eval": "0.4.13"},
        usage={
            "the models": {"seconds": 90_000.0},
            "the judge": {
                "prompts": 6420, "prompt_tokens": 5_000_000, "completion_tokens": 100_000,
                "usd": 12.5, "seconds": 4210,
            },
        },
        missing={("No fine-tuning", "gpqa"): "all items are longer than its context"},
    )  # fmt: skip


def hostile() -> Card:
    """Every text of it is `HOSTILE`, and there is hardly anything to show."""
    items = {"a": 1.0, "b": 0.0, "c": 1.0}
    other = HOSTILE + "2"
    column = Column(HOSTILE, HOSTILE, HOSTILE, protocol=HOSTILE)
    graded = Column("MT-Bench", "mt_bench", "1–10")
    return Card(
        HOSTILE, HOSTILE, [HOSTILE, other], [column, graded],
        {
            (HOSTILE, HOSTILE): score(items, lambda _: HOSTILE, notes=[HOSTILE]),
            (other, HOSTILE): score(items),
            (HOSTILE, "mt_bench"): score(items, lambda i: f"{HOSTILE}{i}"),
        },
        HOSTILE, [Duel(HOSTILE, other, 1, 0, 0)], [Example(HOSTILE, *[HOSTILE * 10] * 5, 0.5, HOSTILE)],
        [Overlap(HOSTILE, 3, 1, 1, [HOSTILE], HOSTILE)], JudgeAbility(HOSTILE, Measure(0.5, 0.1, 3), None, 0, 0),
        HOSTILE, [HOSTILE], "8B", 0, HOSTILE, HOSTILE, {HOSTILE: HOSTILE}, {HOSTILE: {HOSTILE: 1.0}},
        {(other, "mt_bench"): HOSTILE},
    )  # fmt: skip
