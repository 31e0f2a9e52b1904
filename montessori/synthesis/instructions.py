"""The teacher writes new instructions: rounds of few-shot prompts until there are enough that pass.

A round hands the engine all of its prompts at once. The generated shots of a prompt come from the rounds before, and
its choice of shots is drawn from its own id, so results do not depend on the order in which answers arrive.
"""

import hashlib
import logging
import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from montessori.data.chat import Message
from montessori.data.rows import Row
from montessori.errors import InputError, StageError
from montessori.settings.schema import Instructions, Sampling
from montessori.synthesis import prompts
from montessori.synthesis.dedup import NearDuplicates
from montessori.synthesis.engines import Answer, Generation
from montessori.synthesis.parsing import instruction_of, reason_to_reject

SAMPLES_KEPT = 5  # of each reason to reject, for the report
ROUNDS_WATCHED = 3  # full ones, for a yield that has collapsed
FORECAST_SLACK = 1.05
UNANSWERED = {"content_filter": "refused by a content filter", "too_long": "prompt too long"}

Ask = Callable[[Sequence[Sequence[Message]], Sampling, int, Sequence[int]], list[Answer]]
log = logging.getLogger(__name__)


@dataclass
class Written:
    """Accepted instructions in order, and why the others were not."""

    # id, prompt_id, round, sample, seed, prompt, raw, instruction, seed_ids, finish_reason, prompt_tokens, tokens
    rows: list[Row] = field(default_factory=list)
    rejected: Counter[str] = field(default_factory=Counter)
    samples: dict[str, list[str]] = field(default_factory=dict)
    rounds: list[tuple[int, int, int]] = field(default_factory=list)  # of each: prompts, texts written, texts kept
    prompts_cut: int = 0

    def reject(self, reason: str, raw: str) -> None:
        """Count a rejection and keep a few of each reason."""
        self.rejected[reason] += 1
        if len(kept := self.samples.setdefault(reason, [])) < SAMPLES_KEPT:
            kept.append(raw[:500])


def write(ask: Ask, seeds: Sequence[Row], settings: Instructions, target: int, seed: int) -> Written:
    """`target` new instructions from few-shot prompts over `seeds` (rows with `id`, `instruction`).

    Raises StageError when hardly anything new comes any more: a teacher that only repeats itself.
    """
    if len(seeds) < (shown := settings.seed_shots + settings.generated_shots):
        raise InputError(f"seeds: {len(seeds)} rows, but a prompt shows {shown}; add seeds")
    written = Written()
    near = NearDuplicates(settings.max_rouge_l)
    while (missing := target - len(written.rows)) > 0:
        if (recent := _recent(written, settings)) and recent[1] <= settings.min_yield * recent[0]:
            raise StageError(_too_few(written, target, *recent))
        number = len(written.rounds)
        earlier = [row["instruction"] for row in written.rows]
        asked = [
            prompt_for(f"{seed}-{number}-{n}", seeds, earlier, settings)
            for n in range(size(written, missing, settings))
        ]
        answers = ask(
            [prompt["messages"] for prompt in asked],
            settings.sampling,
            settings.samples_per_prompt,
            [number_from(prompt["id"]) for prompt in asked],
        )
        for prompt, answer in zip(asked, answers, strict=True):
            written.prompts_cut += answer.cut
            for sample, generation in enumerate(answer.generations):
                if len(written.rows) < target:
                    row = {"round": number, "sample": sample, "prompt_tokens": answer.prompt_tokens}
                    _consider(written, near, prompt, generation, row, settings)
        texts = sum(len(answer.generations) for answer in answers)
        written.rounds.append((len(asked), texts, len(written.rows) - len(earlier)))
        log.info("round %d: %d prompts, %d texts, %d kept", number + 1, *written.rounds[-1])
    return written


def size(written: Written, missing: int, settings: Instructions) -> int:
    """How many prompts the next round has: as many as it will take, if the last round is a forecast."""
    if not written.rounds:
        return min(settings.prompts_per_round, -(-missing // settings.samples_per_prompt))
    prompts, _, kept = written.rounds[-1]
    forecast = 1 + int(FORECAST_SLACK * missing * prompts / kept) if kept else settings.prompts_per_round
    return min(settings.prompts_per_round, forecast)


def _recent(written: Written, settings: Instructions) -> tuple[int, int] | None:
    """Of the last rounds, as many texts as three full ones have: how many, and how many were kept; None before that."""
    enough = ROUNDS_WATCHED * settings.prompts_per_round * settings.samples_per_prompt
    texts = kept = 0
    for _, wrote, new in reversed(written.rounds):
        texts, kept = texts + wrote, kept + new
        if texts >= enough:
            return texts, kept
    return None


def number_from(text: str) -> int:
    """A seed of 48 bits from `text`, the same on every machine."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:6], "big")


def prompt_for(id: str, seeds: Sequence[Row], earlier: list[str], settings: Instructions) -> dict[str, Any]:
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
    generation: Generation,
    row: Row,
    settings: Instructions,
) -> None:
    raw = generation.text
    if generation.finish_reason in UNANSWERED:
        return written.reject(UNANSWERED[generation.finish_reason], raw)
    instruction = instruction_of(raw)
    if instruction is None:
        return written.reject("no tagged instruction", raw)
    if reason := reason_to_reject(instruction, settings):
        return written.reject(reason, raw)
    if not near.admit(instruction, also_against=prompt["seeds"]):
        return written.reject("near-duplicate", raw)
    written.rows.append(
        {
            "id": f"{prompt['id']}-{row['sample']}",
            "prompt_id": prompt["id"],
            "seed": number_from(prompt["id"]),
            **row,
            "prompt": prompt["messages"],
            "raw": raw,
            "instruction": instruction,
            "seed_ids": prompt["seed_ids"],
            "finish_reason": generation.finish_reason,
            "tokens": generation.tokens,
        }
    )
    return None


def _too_few(written: Written, target: int, texts: int, kept: int) -> str:
    reasons = ", ".join(f"{count} {reason}" for reason, count in written.rejected.most_common())
    return (
        f"only {len(written.rows)} of {target} instructions after {len(written.rounds)} rounds, and of the last "
        f"{texts} texts {kept} were kept: the teacher repeats itself. Rejected: {reasons}. "
        "Raise instructions.max_rouge_l or add seeds, or lower dpo.learning_rate if it came with the update"
    )
