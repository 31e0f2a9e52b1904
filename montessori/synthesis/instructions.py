"""The teacher writes new instructions: rounds of few-shot prompts until there are enough that pass.

A round hands the engine all of its prompts at once. The generated shots of a prompt come from the rounds before, and
its choice of shots is drawn from its own id, so results do not depend on the order in which answers arrive.
"""

import hashlib
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from montessori.config import Instructions
from montessori.data import Row
from montessori.errors import InputError, StageError
from montessori.synthesis import prompts
from montessori.synthesis.dedup import NearDuplicates
from montessori.synthesis.engines.transformers import TransformersEngine
from montessori.synthesis.parsing import instruction_of, reason_to_reject

SAMPLES_KEPT = 5  # of each reason to reject, for the report


@dataclass
class Written:
    """Accepted instructions in order, and why the others were not."""

    rows: list[Row] = field(default_factory=list)  # id, prompt_id, prompt, raw, instruction, seed_ids, tokens
    rejected: Counter[str] = field(default_factory=Counter)
    samples: dict[str, list[str]] = field(default_factory=dict)
    rounds: int = 0

    def reject(self, reason: str, raw: str) -> None:
        """Count a rejection and keep a few of each reason."""
        self.rejected[reason] += 1
        if len(kept := self.samples.setdefault(reason, [])) < SAMPLES_KEPT:
            kept.append(raw[:500])


def write(engine: TransformersEngine, seeds: Sequence[Row], settings: Instructions, target: int, seed: int) -> Written:
    """`target` new instructions from few-shot prompts over `seeds` (rows with `id`, `instruction`).

    Raises StageError when `settings.max_rounds` rounds do not give as many: a teacher that only repeats itself.
    """
    if len(seeds) < (shown := settings.seed_shots + settings.generated_shots):
        raise InputError(f"seeds: {len(seeds)} rows, but a prompt shows {shown}; add seeds")
    written = Written()
    near = NearDuplicates(settings.max_rouge_l)
    while len(written.rows) < target:
        if written.rounds == settings.max_rounds:
            raise StageError(_too_few(written, target))
        earlier = [row["instruction"] for row in written.rows]
        asked = [
            _ask(f"{seed}-{written.rounds}-{number}", seeds, earlier, settings)
            for number in range(settings.prompts_per_round)
        ]
        answers = engine.generate(
            [prompt["messages"] for prompt in asked],
            settings.sampling,
            settings.samples_per_prompt,
            [number_from(prompt["id"]) for prompt in asked],
        )
        for prompt, generations in zip(asked, answers, strict=True):
            for number, generation in enumerate(generations):
                if len(written.rows) < target:
                    _consider(written, near, prompt, number, generation.text, generation.tokens, settings)
        written.rounds += 1
    return written


def number_from(text: str) -> int:
    """A seed of 48 bits from `text`, the same on every machine."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:6], "big")


def _ask(id: str, seeds: Sequence[Row], earlier: list[str], settings: Instructions) -> dict[str, Any]:
    """One prompt: `seed_shots` seeds and `generated_shots` earlier instructions, or seeds alone at first."""
    draw = random.Random(id)
    generated = settings.generated_shots if len(earlier) >= settings.generated_shots else 0
    chosen = draw.sample(list(seeds), settings.seed_shots + settings.generated_shots - generated)
    shots = [row["instruction"] for row in chosen] + draw.sample(earlier, generated)
    draw.shuffle(shots)
    return {
        "id": id,
        "messages": prompts.few_shot(shots),
        "seed_ids": [row["id"] for row in chosen],
        "seeds": [row["instruction"] for row in chosen],
    }


def _consider(
    written: Written,
    near: NearDuplicates,
    prompt: dict[str, Any],
    number: int,
    raw: str,
    tokens: int,
    settings: Instructions,
) -> None:
    instruction = instruction_of(raw)
    if instruction is None:
        return written.reject("no tagged instruction", raw)
    if reason := reason_to_reject(instruction, settings):
        return written.reject(reason, raw)
    if not near.admit(instruction, also_against=prompt["seeds"]):
        return written.reject("near-duplicate", raw)
    written.rows.append(
        {
            "id": f"{prompt['id']}-{number}",
            "prompt_id": prompt["id"],
            "prompt": prompt["messages"],
            "raw": raw,
            "instruction": instruction,
            "seed_ids": prompt["seed_ids"],
            "tokens": tokens,
        }
    )
    return None


def _too_few(written: Written, target: int) -> str:
    reasons = ", ".join(f"{count} {reason}" for reason, count in written.rejected.most_common())
    return (
        f"only {len(written.rows)} of {target} instructions after {written.rounds} rounds; rejected: {reasons}. "
        "Raise instructions.max_rounds or instructions.max_rouge_l, or lower dpo.learning_rate if it repeats itself"
    )
