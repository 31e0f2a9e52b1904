"""Generate new instructions with the teacher, in rounds of few-shot prompts, until enough of them pass the filters.

A round gives the engine all of its prompts at once. The generated shots of a prompt come from earlier rounds, and its
id is the seed of its choice of shots. So results do not depend on the order in which answers arrive.
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
from montessori.settings.generation import Instructions, Sampling
from montessori.synthesis import prompts
from montessori.synthesis.dedup import NearDuplicates
from montessori.synthesis.engines import Answer, Generation
from montessori.synthesis.filters import rejection_reason

SAMPLES_PER_REASON = 5  # rejected texts kept for the report, for each reason
YIELD_ROUNDS = 3  # full rounds over which the yield is measured
FORECAST_SLACK = 1.05  # a little more than the forecast, so that fewer targets need one more small round
UNANSWERED = {
    "content_filter": "refused by a content filter",
    "too_long": "prompt too long",
    "empty": "no text from the endpoint",
    "failed": "no answer from the endpoint",
}

Generate = Callable[[Sequence[Sequence[Message]], Sampling, int, Sequence[int]], list[Answer]]
log = logging.getLogger(__name__)


@dataclass
class GeneratedInstructions:
    """Hold the accepted instructions in order, and the reasons of the rejected ones."""

    # id, prompt_id, round, sample, seed, prompt, raw, instruction, seed_ids, finish_reason, prompt_tokens, tokens
    rows: list[Row] = field(default_factory=list)
    rejected: Counter[str] = field(default_factory=Counter)
    samples: dict[str, list[str]] = field(default_factory=dict)
    rounds: list[tuple[int, int, int]] = field(default_factory=list)  # prompts, texts, accepted texts
    prompts_cut: int = 0

    def reject(self, reason: str, raw: str) -> None:
        """Count a rejection, and keep a few examples of each reason."""
        self.rejected[reason] += 1
        if len(samples := self.samples.setdefault(reason, [])) < SAMPLES_PER_REASON:
            samples.append(raw[:500])


def generate_instructions(
    generate: Generate, seeds: Sequence[Row], settings: Instructions, *, target: int, seed: int
) -> GeneratedInstructions:
    """Generate `target` new instructions from few-shot prompts over `seeds` (rows with `id`, `instruction`).

    Raises InputError when there are too few seeds, StageError when the teacher repeats itself and hardly anything is
    accepted.
    """
    if len(seeds) < (shown := settings.seed_shots + settings.generated_shots):
        raise InputError(f"seeds: {len(seeds)} rows, but a prompt shows {shown}; add seeds")
    result = GeneratedInstructions()
    near = NearDuplicates(settings.max_rouge_l)
    while (missing := target - len(result.rows)) > 0:
        if (recent := _recent_yield(result, settings)) and recent[1] <= settings.min_yield * recent[0]:
            raise StageError(_collapse_message(result, target, *recent))
        number = len(result.rounds)
        accepted = [row["instruction"] for row in result.rows]
        batch = [
            build_prompt(f"{seed}-{number}-{n}", seeds, accepted, settings)
            for n in range(round_size(result, missing, settings))
        ]
        answers = generate(
            [prompt["messages"] for prompt in batch],
            settings.sampling,
            settings.samples_per_prompt,
            [stable_seed(prompt["id"]) for prompt in batch],
        )
        for prompt, answer in zip(batch, answers, strict=True):
            result.prompts_cut += answer.cut
            for sample, generation in enumerate(answer.generations):
                if len(result.rows) < target:
                    row = {"round": number, "sample": sample, "prompt_tokens": answer.prompt_tokens}
                    _add_or_reject(result, near, prompt, generation, row=row, settings=settings)
        texts = sum(len(answer.generations) for answer in answers)
        result.rounds.append((len(batch), texts, len(result.rows) - len(accepted)))
        log.info("round %d: %d prompts, %d texts, %d kept", number + 1, *result.rounds[-1])
    return result


def round_size(result: GeneratedInstructions, missing: int, settings: Instructions) -> int:
    """Return the number of prompts for the next round: enough to reach the target at the last round's yield."""
    if not result.rounds:
        return min(settings.prompts_per_round, -(-missing // settings.samples_per_prompt))
    prompts, _, accepted = result.rounds[-1]
    forecast = 1 + int(FORECAST_SLACK * missing * prompts / accepted) if accepted else settings.prompts_per_round
    return min(settings.prompts_per_round, forecast)


def _recent_yield(result: GeneratedInstructions, settings: Instructions) -> tuple[int, int] | None:
    """Return the texts and accepted texts of the last rounds, or None at first.

    The last rounds are those with as many texts as three full rounds.
    """
    enough = YIELD_ROUNDS * settings.prompts_per_round * settings.samples_per_prompt
    texts = accepted = 0
    for _, round_texts, round_accepted in reversed(result.rounds):
        texts, accepted = texts + round_texts, accepted + round_accepted
        if texts >= enough:
            return texts, accepted
    return None


def stable_seed(text: str) -> int:
    """Return a seed of 48 bits from `text`, the same on every machine."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:6], "big")


def build_prompt(id: str, seeds: Sequence[Row], earlier: list[str], settings: Instructions) -> dict[str, Any]:
    """Build a prompt with `seed_shots` seeds and `generated_shots` earlier instructions, at first with seeds alone."""
    rng = random.Random(id)
    generated = settings.generated_shots if len(earlier) >= settings.generated_shots else 0
    shown_seeds = rng.sample(list(seeds), settings.seed_shots + settings.generated_shots - generated)
    shots = [row["instruction"] for row in shown_seeds] + rng.sample(earlier, generated)
    rng.shuffle(shots)
    return {
        "id": id,
        "messages": prompts.few_shot(shots),
        "seed_ids": [row["id"] for row in shown_seeds],
        "seeds": [row["instruction"] for row in shown_seeds],
    }


def _add_or_reject(
    result: GeneratedInstructions,
    near: NearDuplicates,
    prompt: dict[str, Any],
    generation: Generation,
    *,
    row: Row,
    settings: Instructions,
) -> None:
    raw = generation.text
    if generation.finish_reason in UNANSWERED:
        return result.reject(UNANSWERED[generation.finish_reason], raw)
    instruction = prompts.parse_instruction(raw)
    if instruction is None:
        return result.reject("no tagged instruction", raw)
    if reason := rejection_reason(instruction, settings):
        return result.reject(reason, raw)
    if not near.admit(instruction, also_against=prompt["seeds"]):
        return result.reject("near-duplicate", raw)
    result.rows.append(
        {
            "id": f"{prompt['id']}-{row['sample']}",
            "prompt_id": prompt["id"],
            "seed": stable_seed(prompt["id"]),
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


def _collapse_message(result: GeneratedInstructions, target: int, texts: int, accepted: int) -> str:
    reasons = ", ".join(f"{count} {reason}" for reason, count in result.rejected.most_common())
    return (
        f"only {len(result.rows)} of {target} instructions after {len(result.rounds)} rounds, and of the last "
        f"{texts} texts {accepted} were kept: the teacher repeats itself. Rejected: {reasons}. "
        "Raise instructions.max_rouge_l or add seeds, or lower dpo.learning_rate if it came with the update"
    )
