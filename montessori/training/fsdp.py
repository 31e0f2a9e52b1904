"""Train in several processes (ranks), each with a part of the weights, gradients and moments: FSDP2 by accelerate.

The steps are those of one process: the ranks divide the same micro-batches of the same rows. Only the order of summing
gradients differs, and on GPUs the rounding to bfloat16 (see `precision`). Source: Zhao et al. 2023 (arXiv 2304.11277),
as `torch.distributed.fsdp.fully_shard`.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from typing import Any, Protocol

import torch
import torch.distributed as dist
from accelerate import DistributedType, PartialState
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer

IGNORED = -100  # torch's label of a token without loss

Batch = dict[str, Any]


def world_size() -> int:
    """Return the number of processes that train together, 1 for a single process."""
    return dist.get_world_size() if dist.is_initialized() else 1


def precision() -> MixedPrecisionPolicy:
    """Return the precision policy: weights and activations compute in bfloat16 on GPUs, and gradients add up in
    float32.

    accelerate's own policy would also round sums of gradients and log-probabilities. Autocast, used with one process,
    would keep a whole bfloat16 copy of the weights for the backward pass.
    """
    compute_dtype = torch.bfloat16 if torch.cuda.is_available() else None
    return MixedPrecisionPolicy(param_dtype=compute_dtype, reduce_dtype=torch.float32)


def trainer_arguments() -> dict[str, Any]:
    """Return the arguments of a trainer's configuration for FSDP2, with each layer and its gradients sharded."""
    return {
        "fsdp": True,
        "fsdp_config": {"version": 2, "auto_wrap_policy": "TRANSFORMER_BASED_WRAP", "reshard_after_forward": True},
        # Otherwise each rank would hold all gradients until the last micro-batch of a step.
        "accelerator_config": {"gradient_accumulation_kwargs": {"sync_each_batch": True}},
    }


def prepare_accelerate(plugin: dict[str, Any]) -> None:
    """Put our precision into accelerate's `plugin` arguments, and let it shard on CPUs too.

    For processes without GPUs accelerate 1.15 silently switches to DDP. Call this after the trainer's configuration is
    built.
    """
    plugin["mixed_precision_policy"] = precision()
    if not torch.cuda.is_available():
        PartialState._shared_state["distributed_type"] = DistributedType.MULTI_GPU


def shard_reference_model(model: nn.Module) -> None:
    """Shard a model that is only read, as DPO's reference, layer by layer.

    TRL would make one shard of the whole model, and so gather all of it at once.
    """
    layers: set[str] = set(getattr(model, "_no_split_modules", None) or ())
    for module in [m for m in model.modules() if type(m).__name__ in layers]:
        fully_shard(module, mp_policy=precision())
    fully_shard(model, mp_policy=precision(), reshard_after_forward=True)


class RowOrder(Sized, Iterable[int], Protocol):
    """Iterate over row numbers, in a new order each time."""


class RankBatches:
    """Iterate over this rank's micro-batches of an epoch. Every rank gets the same number, so that the ranks keep step.

    Besides its columns a micro-batch has a `weight`. The weighted mean over all ranks' micro-batches of a step equals
    the mean over those of one process. A rank without a micro-batch of its own gets a copy of the step's first one,
    with weight 0.
    """

    def __init__(
        self,
        order: RowOrder,
        rows: Sequence[Any],
        collate: Callable[[list[Any]], Batch],
        *,
        batch_size: int,
        per_device: int,
    ):
        """Divide `rows` in the order `order`, which must be the same on every rank."""
        self._order, self._rows, self._collate = order, rows, collate
        self._batch_size, self._per_device = batch_size, per_device
        self._rank, self._ranks = dist.get_rank(), dist.get_world_size()

    def __len__(self) -> int:
        wave = self._per_device * self._ranks
        steps, rest = divmod(len(self._order), self._batch_size)
        return steps * (self._batch_size // wave) + -(-rest // wave)

    def __iter__(self) -> Iterator[Batch]:
        order = list(self._order)
        for start in range(0, len(order), self._batch_size):
            step = order[start : start + self._batch_size]
            micro_batches = [step[at : at + self._per_device] for at in range(0, len(step), self._per_device)]
            waves = -(-len(micro_batches) // self._ranks)
            for wave in range(waves):
                index = wave * self._ranks + self._rank
                is_spare = index >= len(micro_batches)
                batch = self._collate([self._rows[row] for row in micro_batches[0 if is_spare else index]])
                if is_spare and "labels" in batch:
                    batch["labels"] = torch.full_like(batch["labels"], IGNORED)  # the loss must not count its tokens
                yield {**batch, "weight": 0.0 if is_spare else waves * self._ranks / len(micro_batches)}


class RankTrainer:
    """Adapt a TRL trainer to ranks. Mix it in before the trainer's class, with `order` and `batch_size` set."""

    order: RowOrder
    batch_size: int

    def get_train_dataloader(self: Any) -> RankBatches:
        """Return the rank's own micro-batches. accelerate would repeat rows of an epoch's start at its end."""
        rows = self._remove_unused_columns(self.train_dataset)
        per_device = self.args.per_device_train_batch_size
        return RankBatches(self.order, rows, self.data_collator, batch_size=self.batch_size, per_device=per_device)

    def compute_loss(
        self: Any, model: nn.Module, inputs: Batch, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Return the trainer's loss, weighted where it is a mean over the micro-batch.

        The logged means are weighted too.
        """
        weight = inputs.pop("weight")
        gather = self.accelerator.gather
        self.accelerator.gather = lambda value: gather(value.mean() * weight if value.ndim else value)
        try:
            loss = super().compute_loss(model, inputs, return_outputs, num_items_in_batch)  # type: ignore[misc]
        finally:
            self.accelerator.gather = gather
        return loss if num_items_in_batch is not None else loss * weight


def gather_on_first_rank(model: nn.Module, optimizer: Optimizer) -> None:
    """Gather the shards of `model` and of the state of `optimizer` onto the first rank's CPU.

    Every rank has to call. On the other ranks both have shapes without values afterwards.
    """
    assert isinstance(model, FSDPModule), "accelerate has not put the model into shards"
    gathered: dict[Tensor, nn.Parameter] = {}
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                if parameter not in gathered:  # tied parameters stay tied
                    gathered[parameter] = nn.Parameter(_unshard(parameter), parameter.requires_grad)
                module._parameters[name] = gathered[parameter]
        if isinstance(module, FSDPModule):
            module.__class__ = type(module).__mro__[module._orig_cls_mro_index]
    for group in optimizer.param_groups:
        group["params"] = [gathered[sharded] for sharded in group["params"]]
    for sharded in list(optimizer.state):
        state = optimizer.state.pop(sharded)
        optimizer.state[gathered[sharded]] = {key: _unshard(value) for key, value in state.items()}


def _unshard(tensor: Tensor) -> Tensor:
    """Return `tensor` without shards: on the first rank's CPU, elsewhere without values."""
    if not isinstance(tensor, DTensor):
        return tensor.detach().cpu()
    gathered: Tensor = tensor.detach().full_tensor()  # type: ignore[attr-defined]
    return gathered.cpu() if dist.get_rank() == 0 else gathered.to("meta")
