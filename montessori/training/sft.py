"""Supervised fine-tuning of a student, by TRL's SFTTrainer.

In: a model, tokenized examples.  Out: the model, trained in place, its log, and the optimiser state after it.
The loss of a step is TRL's: the negative log-likelihood summed over the answer tokens of its whole batch,
divided by their number. It does not depend on how the batch is cut into micro-batches.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from peft import PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from trl import SFTConfig, SFTTrainer

from montessori.data.chat import Example
from montessori.errors import StageError
from montessori.influence.adamw import OptimizerState
from montessori.settings.schema import Training
from montessori.training.fsdp import IGNORED
from montessori.training.trainer import Row, hold_in_float32, train


@dataclass(frozen=True)
class SftResult:
    """What a fine-tuning leaves besides the weights."""

    log: list[Row]  # a row a step: step, loss, learning_rate
    optimizer: OptimizerState  # after the last step


def fine_tune(
    model: PreTrainedModel | PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    examples: Sequence[Example],
    settings: Training,
    seed: int,
) -> SftResult:
    """Train `model` in place on the answers of `examples`; of a PEFT model, only the adapters.

    The state's learning rate is the peak, so that the next step is as large as the schedule allows.
    """
    if not examples:
        raise StageError("no example to train on: every answer is empty, or max_length is too short for the prompts")
    hold_in_float32(model)
    labels = [
        [token if counts else IGNORED for token, counts in zip(e.input_ids, e.completion_mask, strict=True)]
        for e in examples
    ]
    log, optimizer = train(
        SFTTrainer,
        SFTConfig,
        model,
        tokenizer,
        {"input_ids": [e.input_ids for e in examples], "labels": labels},
        [len(e.input_ids) for e in examples],
        settings,
        seed,
        config={},
    )
    state = replace(OptimizerState.of(optimizer, model), learning_rate=settings.learning_rate)
    return SftResult([{key: row[key] for key in ("step", "loss", "learning_rate")} for row in log], state)
