"""Fine-tune a student, with TRL's SFTTrainer.

In: a model and tokenized examples.  Out: the model, trained in place, its log, and the optimizer state after it. TRL's
loss of a step is the negative log-likelihood summed over the answer tokens of the whole batch, divided by their number.
It does not depend on the micro-batches.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from peft import PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from trl import SFTConfig, SFTTrainer

from montessori.data.chat import Example
from montessori.errors import StageError
from montessori.influence.adamw import OptimizerState
from montessori.settings.training import Training
from montessori.training.fsdp import IGNORED
from montessori.training.trainer import LogRow, train, widen_trainable_parameters


@dataclass(frozen=True)
class SftResult:
    """Hold the results of a fine-tuning besides the weights."""

    log: list[LogRow]  # one row for each step: step, loss, learning_rate
    optimizer: OptimizerState  # the state after the last step


def fine_tune(
    model: PreTrainedModel | PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    examples: Sequence[Example],
    settings: Training,
    *,
    seed: int,
) -> SftResult:
    """Train `model` in place on the answers of `examples`. Of a PEFT model only the adapters are trained.

    The returned state has the peak learning rate, so that the next step is as large as the schedule allows. Raises
    StageError when there is no example.
    """
    if not examples:
        raise StageError("no example to train on: every answer is empty, or max_length is too short for the prompts")
    widen_trainable_parameters(model)
    labels = [
        [token if counts else IGNORED for token, counts in zip(e.input_ids, e.completion_mask, strict=True)]
        for e in examples
    ]
    log, optimizer = train(
        SFTTrainer,
        SFTConfig,
        model=model,
        tokenizer=tokenizer,
        columns={"input_ids": [e.input_ids for e in examples], "labels": labels},
        lengths=[len(e.input_ids) for e in examples],
        settings=settings,
        seed=seed,
        config={},
    )
    state = replace(OptimizerState.of(optimizer, model), learning_rate=settings.learning_rate)
    return SftResult([{key: row[key] for key in ("step", "loss", "learning_rate")} for row in log], state)
