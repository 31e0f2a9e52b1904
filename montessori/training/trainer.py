"""What both trainings share: the optimiser, its schedule, the order of the rows, and a run of a TRL trainer.

A run leaves nothing behind but trained weights: no file, patched `forward`, logging level or random state.
Ours instead of the library's, and why:
- the schedule: in transformers' own, `min_lr_ratio` also lifts the start of the warm-up; without it the first
  step has rate zero, and the peak comes only after the warm-up, so never when that is the whole run;
- the optimiser: transformers keeps norms and biases out of the weight decay, the step of the method does not;
- the order: rows of one optimiser step are sorted by length, so that its micro-batches hold little padding.
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
from montessori.models.loading import seeded
from montessori.settings.schema import Training
from montessori.training import fsdp

Row = dict[str, float]


def train(
    trainer_class: Any,
    config_class: Any,
    model: PreTrainedModel | PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    columns: dict[str, list[Any]],
    lengths: Sequence[int],
    settings: Training,
    seed: int,
    config: dict[str, Any],
    **parts: Any,
) -> tuple[list[Row], AdamW]:
    """Train `model` in place on tokenized `columns`; the log of every step, and the optimiser as it was left.

    `lengths` are the tokens of each row; `config` and `parts` go to TRL's config and trainer as they are.
    """
    steps = settings.epochs * math.ceil(len(lengths) / settings.batch_size)
    optimizer = AdamW(
        trainable_parameters(model).values(),
        lr=settings.learning_rate,
        weight_decay=settings.weight_decay,
        fused=True,
    )
    schedule = LambdaLR(optimizer, lambda step: learning_rate_factor(step, steps, settings))
    sampler = ByLength(lengths, settings.batch_size, seed)
    on_gpu = torch.cuda.is_available()
    if settings.stop < 1:
        config = config | {"max_steps": math.ceil(settings.stop * steps)}
    # What TRL would prepare is prepared: the rows are montessori.data.chat's tokens, in the sampler's order.
    ours: dict[str, Any] = {
        "_prepare_dataset": lambda _, dataset, *__: dataset,
        "_get_train_sampler": lambda *_: sampler,
    }
    bases: tuple[Any, ...] = (trainer_class,)
    if in_ranks := fsdp.ranks() > 1:
        bases = (fsdp.InRanks, trainer_class)
        ours |= {"order": sampler, "batch_size": settings.batch_size}
        config = config | fsdp.arguments()
    with tempfile.TemporaryDirectory() as scratch, _left_as_found(model), seeded(seed):
        arguments = config_class(
            output_dir=scratch,
            num_train_epochs=settings.epochs,
            per_device_train_batch_size=settings.per_device_batch_size,
            gradient_accumulation_steps=_accumulation(settings),
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
            callbacks=[_reporter()],
            **parts,
        )
        trainer.optimizer, trainer.lr_scheduler = optimizer, schedule  # which with FSDP cannot be given above
        trainer.remove_callback(PrinterCallback)
        trainer.train()
        if in_ranks:
            fsdp.collect(model, optimizer)
    return [row for row in trainer.state.log_history if "loss" in row], optimizer


def hold_in_float32(model: nn.Module) -> None:
    """Make the parameters that train float32: in bfloat16 a step of 5e-6 is lost in rounding.

    On a GPU the forward pass still runs in bfloat16, by autocast.
    """
    for parameter in trainable_parameters(model).values():
        parameter.data = parameter.data.float()


def learning_rate_factor(step: int, steps: int, settings: Training) -> float:
    """The share of the peak rate at `step` (from 0) of `steps`: linear warm-up, stable, cosine decay.

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


class ByLength(Sampler[int]):
    """Row numbers in a fresh seeded order every epoch, those of one optimiser step sorted by length.

    Which rows share a step is random; only which of them share a micro-batch is not.
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


def _accumulation(settings: Training) -> int:
    """Micro-batches of one process in an optimiser step."""
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    at_once = settings.per_device_batch_size * processes
    if settings.batch_size % at_once:
        raise InputError(
            f"batch_size ({settings.batch_size}) must be a multiple of per_device_batch_size times the "
            f"processes ({settings.per_device_batch_size} x {processes})"
        )
    return settings.batch_size // at_once


def _reporter() -> Any:
    """A callback that reports each step and ends a training that diverged."""

    def begin(_arguments: Any, state: Any, _control: Any, **_: Any) -> None:
        progress.report(0, state.max_steps, "steps")

    def log(_arguments: Any, state: Any, _control: Any, logs: Row, **_: Any) -> None:
        if "loss" not in logs:
            return  # the summary at the end
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
def _left_as_found(model: PreTrainedModel | PeftModel) -> Iterator[None]:
    """Undo what a TRL run leaves on the model and in the process; the model comes back in evaluation mode."""
    modules = [model, model.get_base_model()] if isinstance(model, PeftModel) else [model]
    attributes = [dict(vars(module)) for module in modules]
    verbosity, telemetry = logging.get_verbosity(), constants.HF_HUB_DISABLE_TELEMETRY
    constants.HF_HUB_DISABLE_TELEMETRY = True  # TRL reports every trainer that is built
    python_state, numpy_state = random.getstate(), np.random.get_state()
    try:
        with warnings.catch_warnings():
            # TRL still asks by the old name.
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
            # TRL's fused head, accelerate's autocast: a copy of a patched model would run the original's.
            for name in vars(module).keys() - before.keys():
                del vars(module)[name]
            if "forward" in before:
                vars(module)["forward"] = before["forward"]
        model.zero_grad(set_to_none=True)
        model.eval()
