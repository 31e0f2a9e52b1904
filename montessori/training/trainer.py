"""Run a TRL trainer with our optimizer, learning rate schedule and row order, for both kinds of training.

A run changes nothing but the weights: it leaves no file, patched `forward`, logging level or random state. Three parts
are ours instead of the library's:

- The schedule. In transformers' own, `min_lr_ratio` also lifts the start of the warm-up. Without it the first step has
  rate zero, and the peak comes only after the warm-up, so never when the warm-up is the whole run.
- The optimizer. transformers exempts norms and biases from weight decay, and the paper's step does not.
- The order. Rows of one optimizer step are sorted by length, so that its micro-batches hold little padding.
"""

import math
import os
import random
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from huggingface_hub import constants
from peft import PeftModel
from torch import nn
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import Sampler
from transformers import PreTrainedModel, PreTrainedTokenizerBase, PrinterCallback, TrainerCallback
from transformers.utils import logging

from montessori import progress
from montessori.errors import InputError, StageError
from montessori.influence.adamw import trainable_parameters
from montessori.models.loading import torch_seed
from montessori.settings.training import Training
from montessori.training import fsdp

LogRow = dict[str, float]


def train(
    trainer_class: Any,
    config_class: Any,
    *,
    model: PreTrainedModel | PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    columns: dict[str, list[Any]],
    lengths: Sequence[int],
    settings: Training,
    seed: int,
    config: dict[str, Any],
    **parts: Any,
) -> tuple[list[LogRow], AdamW]:
    """Train `model` in place on tokenized `columns`, and return the log of every step and the optimizer.

    `lengths` are the tokens of each row. `config` and `parts` go unchanged to TRL's configuration and trainer.
    """
    steps = settings.epochs * math.ceil(len(lengths) / settings.batch_size)
    optimizer = AdamW(
        trainable_parameters(model).values(),
        lr=settings.learning_rate,
        weight_decay=settings.weight_decay,
        fused=True,
    )
    schedule = LambdaLR(optimizer, lambda step: learning_rate_factor(step, steps, settings))
    sampler = LengthSortedSampler(lengths, settings.batch_size, seed)
    on_gpu = torch.cuda.is_available()
    if settings.stop < 1:
        config = config | {"max_steps": math.ceil(settings.stop * steps)}
    # The rows are tokenized by montessori.data.chat and ordered by the sampler, so TRL's own preparation is skipped.
    ours: dict[str, Any] = {
        "_prepare_dataset": lambda _, dataset, *__: dataset,
        "_get_train_sampler": lambda *_: sampler,
    }
    bases: tuple[Any, ...] = (trainer_class,)
    if in_ranks := fsdp.world_size() > 1:
        bases = (fsdp.RankTrainer, trainer_class)
        ours |= {"order": sampler, "batch_size": settings.batch_size}
        config = config | fsdp.trainer_arguments()
    with tempfile.TemporaryDirectory() as scratch, _restore_afterwards(model), torch_seed(seed):
        arguments = config_class(
            output_dir=scratch,
            num_train_epochs=settings.epochs,
            per_device_train_batch_size=settings.per_device_batch_size,
            gradient_accumulation_steps=_gradient_accumulation_steps(settings),
            max_grad_norm=settings.max_gradient_norm,
            activation_checkpointing=settings.gradient_checkpointing,
            seed=seed,
            use_cpu=not on_gpu,
            bf16=on_gpu,
            dataloader_pin_memory=on_gpu,
            max_length=None,
            use_cache=model.config.use_cache,
            logging_steps=1,
            logging_nan_inf_filter=False,
            log_level="error",
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            **config,
        )
        if in_ranks:
            fsdp.prepare_accelerate(arguments.fsdp_plugin_args)
        trainer = type(trainer_class.__name__, bases, ours)(
            model=model,
            args=arguments,
            train_dataset=Dataset.from_dict(columns),
            processing_class=tokenizer,
            callbacks=[_progress_callback()],
            **parts,
        )
        trainer.optimizer, trainer.lr_scheduler = optimizer, schedule  # with FSDP the constructor refuses them
        trainer.remove_callback(PrinterCallback)
        trainer.train()
        if in_ranks:
            fsdp.gather_on_first_rank(model, optimizer)
    return [row for row in trainer.state.log_history if "loss" in row], optimizer


def widen_trainable_parameters(model: nn.Module) -> None:
    """Make the trainable parameters float32, because rounding to bfloat16 loses a step of 5e-6.

    On a GPU the forward pass still runs in bfloat16, by autocast.
    """
    for parameter in trainable_parameters(model).values():
        parameter.data = parameter.data.float()


def learning_rate_factor(step: int, steps: int, settings: Training) -> float:
    """Return the share of the peak rate at `step` (from 0) of `steps`: linear warm-up, stable, cosine decay.

    The last warm-up step has the peak itself, the last decay step the peak times `min_learning_rate_ratio`.
    """
    warm_up = round(steps * settings.warm_up_share)
    decay = min(round(steps * settings.decay_share), steps - warm_up)
    if step < warm_up:
        return (step + 1) / warm_up
    decayed = min(step + 1 - (steps - decay), decay)
    if decayed <= 0:
        return 1.0
    lowest = settings.min_learning_rate_ratio
    return lowest + (1 - lowest) * (1 + math.cos(math.pi * decayed / decay)) / 2


class LengthSortedSampler(Sampler[int]):
    """Yield row numbers in a new torch_seed order every epoch, with the rows of one optimizer step sorted by length.

    Which rows share a step is random. Only their micro-batches depend on the length.
    """

    def __init__(self, lengths: Sequence[int], batch_size: int, seed: int):
        self.lengths = lengths
        self.batch_size = batch_size
        self._random = random.Random(seed)

    def __len__(self) -> int:
        return len(self.lengths)

    def __iter__(self) -> Iterator[int]:
        order = list(range(len(self.lengths)))
        self._random.shuffle(order)
        for start in range(0, len(order), self.batch_size):
            yield from sorted(order[start : start + self.batch_size], key=lambda row: self.lengths[row])


def _gradient_accumulation_steps(settings: Training) -> int:
    """Return the micro-batches of one process in an optimizer step. Raises InputError when they do not add up."""
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    at_once = settings.per_device_batch_size * processes
    if settings.batch_size % at_once:
        raise InputError(
            f"batch_size ({settings.batch_size}) must be a multiple of per_device_batch_size times the "
            f"processes ({settings.per_device_batch_size} x {processes})"
        )
    return settings.batch_size // at_once


def _progress_callback() -> Any:
    """Return a callback that reports each step and stops a training whose loss is not finite."""

    def begin(_arguments: Any, state: Any, _control: Any, **_: Any) -> None:
        progress.report(0, state.max_steps, "steps")

    def log(_arguments: Any, state: Any, _control: Any, logs: LogRow, **_: Any) -> None:
        if "loss" not in logs:
            return  # TRL's summary after the last step
        if not math.isfinite(logs["loss"]):
            raise StageError(
                f"the loss is {logs['loss']} at step {state.global_step} of {state.max_steps}: "
                "lower learning_rate, or raise warm_up_share"
            )
        progress.report(state.global_step, state.max_steps, "steps", f"loss {logs['loss']:.4g}")

    callback = TrainerCallback()
    callback.on_train_begin = begin
    callback.on_log = log
    return callback


@contextmanager
def _restore_afterwards(model: PreTrainedModel | PeftModel) -> Iterator[None]:
    """Undo the changes of a TRL run to the model and the process. The model ends in evaluation mode."""
    modules = [model, model.get_base_model()] if isinstance(model, PeftModel) else [model]
    attributes = [dict(vars(module)) for module in modules]
    verbosity, telemetry = logging.get_verbosity(), constants.HF_HUB_DISABLE_TELEMETRY
    constants.HF_HUB_DISABLE_TELEMETRY = True  # TRL sends a report when a trainer is built
    python_state, numpy_state = random.getstate(), np.random.get_state()
    try:
        with warnings.catch_warnings():
            # TRL still calls it by its old name.
            warnings.filterwarnings("ignore", "`is_gradient_checkpointing`", FutureWarning)
            yield
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)
        constants.HF_HUB_DISABLE_TELEMETRY = telemetry
        logging.set_verbosity(verbosity)
        modules[-1].activation_checkpointing_disable()
        modules[-1].disable_input_require_grads()
        for module, before in zip(modules, attributes, strict=True):
            # TRL patches the head and accelerate the autocast. A copy of a patched model would run the original's code.
            for name in vars(module).keys() - before.keys():
                del vars(module)[name]
            if "forward" in before:
                vars(module)["forward"] = before["forward"]
        model.zero_grad(set_to_none=True)
        model.eval()
