"""Train the teacher by direct preference optimization, with TRL's DPOTrainer.

In: a model and preference pairs.  Out: the model, trained in place, and a log of its drift from the reference. The loss
of a pair is −log σ(β·[log π(chosen)/π_ref(chosen) − log π(rejected)/π_ref(rejected)]), with log-probabilities summed
over an answer's tokens. The loss of a step is the mean of its micro-batches' means, so pairs in a smaller last
micro-batch weigh more. Source: Rafailov et al. 2023 (arXiv 2305.18290).
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from peft import PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from trl import DPOConfig, DPOTrainer

from montessori.data.chat import Example, common_start, encode
from montessori.errors import StageError
from montessori.settings.training import Dpo
from montessori.training import fsdp
from montessori.training.trainer import LogRow, train, widen_trainable_parameters

COLUMNS = {  # column of the log → TRL's name for it
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
REFERENCE = "ref"  # TRL's name for the adapter with a PEFT model's initial weights


@dataclass(frozen=True)
class DpoResult:
    """Hold the results of a preference optimization besides the weights."""

    log: list[LogRow]  # one row for each step, see COLUMNS
    trained: int  # pairs in the training
    dropped: int  # pairs without a token to learn from: the prompt fills the maximum length, or an answer is empty
    truncated: int  # pairs in the training with an answer cut at the maximum length


def train_dpo(
    model: PreTrainedModel | PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    pairs: Sequence[dict[str, Any]],
    settings: Dpo,
    *,
    max_length: int,
    seed: int,
) -> DpoResult:
    """Train `model` in place to prefer `chosen` to `rejected` after `prompt` (chat messages).

    The reference is a frozen copy of the model at the start. For a PEFT model it is a copy of its adapters. Raises
    StageError when there is no pair, or when none fits into `max_length` tokens.
    """
    if not pairs:
        raise StageError(
            "no preference pair to train on: no prompt has an output on each side of the split; "
            "set preferences.split to prompt_mean, or raise instructions.samples_per_prompt"
        )
    encoded = [
        (
            encode(tokenizer, "chosen", pair["prompt"], pair["chosen"], max_length=max_length),
            encode(tokenizer, "rejected", pair["prompt"], pair["rejected"], max_length=max_length),
        )
        for pair in pairs
    ]
    # Done here because TRL drops prompts of max_length tokens and cuts answers without counting either.
    usable = [(chosen, rejected) for chosen, rejected in encoded if chosen and rejected]
    if not usable:
        raise StageError(
            f"none of the {len(pairs)} preference pairs fits into {max_length} tokens: "
            "raise teacher.max_length, or lower instructions.seed_shots"
        )
    prompts = [_shared_prompt(chosen, rejected) for chosen, rejected in usable]
    widen_trainable_parameters(model)
    is_peft = isinstance(model, PeftModel)
    reference = None if is_peft else copy.deepcopy(model).requires_grad_(False)
    if reference is not None and fsdp.world_size() > 1:
        fsdp.shard_reference_model(reference)
    try:
        log, _ = train(
            DPOTrainer,
            DPOConfig,
            model=model,
            tokenizer=tokenizer,
            columns={
                "prompt_ids": [c.input_ids[:n] for (c, _), n in zip(usable, prompts, strict=True)],
                "chosen_ids": [c.input_ids[n:] for (c, _), n in zip(usable, prompts, strict=True)],
                "rejected_ids": [r.input_ids[n:] for (_, r), n in zip(usable, prompts, strict=True)],
            },
            lengths=[max(len(c.input_ids), len(r.input_ids)) for c, r in usable],
            settings=settings,
            seed=seed,
            config={"beta": settings.beta},
            ref_model=reference,
        )
    finally:
        if is_peft and REFERENCE in model.peft_config:
            model.delete_adapter(REFERENCE)
    return DpoResult(
        log=[{ours: row[theirs] for ours, theirs in COLUMNS.items()} for row in log],
        trained=len(usable),
        dropped=len(pairs) - len(usable),
        truncated=sum(c.truncated or r.truncated for c, r in usable),
    )


def _shared_prompt(chosen: Example, rejected: Example) -> int:
    """Return the number of prompt tokens that the answers of a pair share.

    It is smaller than a prompt where the tokenizer joins its last characters with one answer and not with the other.
    """
    return common_start(chosen.input_ids[: chosen.prompt_length], rejected.input_ids[: rejected.prompt_length])
