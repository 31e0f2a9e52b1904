"""Direct preference optimisation of the teacher, by TRL's DPOTrainer.

In: a model, preference pairs.  Out: the model, trained in place, and a log of its drift from the reference.
Loss of a pair: −log σ(β·[log π(chosen)/π_ref(chosen) − log π(rejected)/π_ref(rejected)]), log-probabilities
summed over an answer's tokens. Of a step: the mean of its micro-batches' means, so that pairs of a smaller
last micro-batch weigh more.
Source: Rafailov et al. 2023 (arXiv 2305.18290).
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from peft import PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from trl import DPOConfig, DPOTrainer

from montessori.data.chat import encode
from montessori.errors import StageError
from montessori.settings.schema import Dpo
from montessori.training import fsdp
from montessori.training.trainer import Row, hold_in_float32, train

COLUMNS = {  # of the log, and TRL's names for them
    "step": "step",
    "loss": "loss",
    "learning_rate": "learning_rate",
    "reward_accuracy": "rewards/accuracies",  # share of pairs whose chosen answer has the larger reward
    "reward_margin": "rewards/margins",
    "chosen_reward": "rewards/chosen",  # β·(log π − log π_ref): the drift from the reference
    "rejected_reward": "rewards/rejected",
    "chosen_logp": "logps/chosen",
    "rejected_logp": "logps/rejected",
}
REFERENCE = "ref"  # the adapter in which TRL keeps a PEFT model's initial weights


@dataclass(frozen=True)
class DpoResult:
    """What a preference optimisation leaves besides the weights."""

    log: list[Row]  # a row a step, see COLUMNS
    trained: int  # pairs
    dropped: int  # pairs without a token to learn from: the prompt fills the maximum length, or an answer is empty
    truncated: int  # trained pairs of which an answer was cut at the maximum length


def optimise(
    model: PreTrainedModel | PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    pairs: Sequence[dict[str, Any]],
    settings: Dpo,
    max_length: int,
    seed: int,
) -> DpoResult:
    """Train `model` in place to prefer `chosen` to `rejected` after `prompt` (chat messages).

    The reference is the model as it came: a frozen copy, or of a PEFT model a copy of its adapters.
    """
    if not pairs:
        raise StageError(
            "no preference pair to train on: no prompt has an output on each side of the split; "
            "set preferences.split to prompt_mean, or raise instructions.samples_per_prompt"
        )
    encoded = [
        (
            encode(tokenizer, "chosen", pair["prompt"], pair["chosen"], max_length),
            encode(tokenizer, "rejected", pair["prompt"], pair["rejected"], max_length),
        )
        for pair in pairs
    ]
    # TRL would drop only prompts of max_length tokens or more, and cut answers, both without a word.
    kept = [(chosen, rejected) for chosen, rejected in encoded if chosen and rejected]
    if not kept:
        raise StageError(
            f"none of the {len(pairs)} preference pairs fits into {max_length} tokens: "
            "raise teacher.max_length, or lower instructions.seed_shots"
        )
    hold_in_float32(model)
    is_peft = isinstance(model, PeftModel)
    reference = None if is_peft else copy.deepcopy(model).requires_grad_(False)
    if reference is not None and fsdp.ranks() > 1:
        fsdp.shard_frozen(reference)
    try:
        log, _ = train(
            DPOTrainer,
            DPOConfig,
            model,
            tokenizer,
            {
                "prompt_ids": [c.input_ids[: c.prompt_length] for c, _ in kept],
                "chosen_ids": [c.input_ids[c.prompt_length :] for c, _ in kept],
                "rejected_ids": [r.input_ids[r.prompt_length :] for _, r in kept],
            },
            [max(len(c.input_ids), len(r.input_ids)) for c, r in kept],
            settings,
            seed,
            config={"beta": settings.beta},
            ref_model=reference,
        )
    finally:
        if is_peft and REFERENCE in model.peft_config:
            model.delete_adapter(REFERENCE)
    return DpoResult(
        log=[{ours: row[theirs] for ours, theirs in COLUMNS.items()} for row in log],
        trained=len(kept),
        dropped=len(pairs) - len(kept),
        truncated=sum(c.truncated or r.truncated for c, r in kept),
    )
