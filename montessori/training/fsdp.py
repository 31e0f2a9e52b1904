"""Training in several processes (ranks), each with a part of the weights, gradients and moments: FSDP2 by accelerate.

The steps are those of one process: the same rows, cut into the same micro-batches, which the ranks share out. What
differs is the order in which gradients are added up, and on GPUs what is rounded to bfloat16 (see `precision`).
Source: Zhao et al. 2023 (arXiv 2304.11277), as `torch.distributed.fsdp.fully_shard`.
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


def ranks() -> int:
    """The processes that train together; 1 where there is one."""
    return dist.get_world_size() if dist.is_initialized() else 1


def precision() -> MixedPrecisionPolicy:
    """On GPUs weights and activations are bfloat16 at work; gradients are added up in float32, as everywhere.

    accelerate's own policy would round sums of gradients and log-probabilities too. Autocast, which one process uses,
    would keep a whole bfloat16 copy of the weights for the backward pass.
    """
    at_work = torch.bfloat16 if torch.cuda.is_available() else None
    return MixedPrecisionPolicy(param_dtype=at_work, reduce_dtype=torch.float32)


def arguments() -> dict[str, Any]:
    """What a trainer's configuration says of FSDP2: each layer in shards of its own, and gradients too, always."""
    return {
        "fsdp": True,
        "fsdp_config": {"version": 2, "auto_wrap_policy": "TRANSFORMER_BASED_WRAP", "reshard_after_forward": True},
        # Without it each rank would hold all gradients until the last micro-batch of a step.
        "accelerator_config": {"gradient_accumulation_kwargs": {"sync_each_batch": True}},
    }


def prepare_accelerate(plugin: dict[str, Any]) -> None:
    """Hand our precision to accelerate's `plugin` arguments, and let it shard on CPUs too.

    Of processes without GPUs accelerate 1.15 makes DDP, without a word. Call it when a trainer's configuration stands.
    """
    plugin["mixed_precision_policy"] = precision()
    if not torch.cuda.is_available():
        PartialState._shared_state["distributed_type"] = DistributedType.MULTI_GPU


def shard_frozen(model: nn.Module) -> None:
    """Put a model that only reads, as DPO's reference, into shards layer by layer.

    TRL would make one shard of it all, and so gather all of it at once.
    """
    layers: set[str] = set(getattr(model, "_no_split_modules", None) or ())
    for module in [m for m in model.modules() if type(m).__name__ in layers]:
        fully_shard(module, mp_policy=precision())
    fully_shard(model, mp_policy=precision(), reshard_after_forward=True)


class Order(Sized, Iterable[int], Protocol):
    """Numbers of rows, in a fresh order at each iteration."""


class Shares:
    """This rank's micro-batches of an epoch: as many on every rank, so that they keep step.

    A micro-batch has beside its columns a `weight`: with it, the mean over all ranks' micro-batches of a step is the
    mean over those of one process. It is 0 for one that stands in where there are too few, and that another rank has.
    """

    def __init__(
        self,
        order: Order,
        rows: Sequence[Any],
        collate: Callable[[list[Any]], Batch],
        batch_size: int,
        per_device: int,
    ):
        """`order` is of `rows`, and the same on every rank."""
        self._order, self._rows, self._collate = order, rows, collate
        self._batch_size, self._per_device = batch_size, per_device
        self._rank, self._ranks = dist.get_rank(), dist.get_world_size()

    def __len__(self) -> int:
        turn = self._per_device * self._ranks
        steps, rest = divmod(len(self._order), self._batch_size)
        return steps * (self._batch_size // turn) + -(-rest // turn)

    def __iter__(self) -> Iterator[Batch]:
        order = list(self._order)
        for start in range(0, len(order), self._batch_size):
            step = order[start : start + self._batch_size]
            cut = [step[at : at + self._per_device] for at in range(0, len(step), self._per_device)]
            turns = -(-len(cut) // self._ranks)
            for turn in range(turns):
                place = turn * self._ranks + self._rank
                spare = place >= len(cut)
                batch = self._collate([self._rows[row] for row in cut[0 if spare else place]])
                if spare and "labels" in batch:
                    batch["labels"] = torch.full_like(batch["labels"], IGNORED)  # its tokens are not to be counted
                yield {**batch, "weight": 0.0 if spare else turns * self._ranks / len(cut)}


class InRanks:
    """What a TRL trainer does differently in ranks: mixed in before its class, with `order` and `batch_size` set."""

    order: Order
    batch_size: int

    def get_train_dataloader(self: Any) -> Shares:
        """The rank's own micro-batches; accelerate would repeat rows of an epoch's start at its end."""
        rows = self._remove_unused_columns(self.train_dataset)
        return Shares(self.order, rows, self.data_collator, self.batch_size, self.args.per_device_train_batch_size)

    def compute_loss(
        self: Any, model: nn.Module, inputs: Batch, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """The trainer's own, weighted where it is a mean over the micro-batch; and so are the means that it logs."""
        weight = inputs.pop("weight")
        gather = self.accelerator.gather
        self.accelerator.gather = lambda value: gather(value.mean() * weight if value.ndim else value)
        try:
            loss = super().compute_loss(model, inputs, return_outputs, num_items_in_batch)  # type: ignore[misc]
        finally:
            self.accelerator.gather = gather
        return loss if num_items_in_batch is not None else loss * weight


def collect(model: nn.Module, optimizer: Optimizer) -> None:
    """Take the weights of `model` and the state of `optimizer` out of their shards, onto the first rank's CPU.

    Every rank has to call. On the others both have shapes and no values afterwards.
    """
    assert isinstance(model, FSDPModule), "accelerate has not put the model into shards"
    whole: dict[Tensor, nn.Parameter] = {}
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                if parameter not in whole:  # ties stay tied
                    whole[parameter] = nn.Parameter(_whole(parameter), parameter.requires_grad)
                module._parameters[name] = whole[parameter]
        if isinstance(module, FSDPModule):
            module.__class__ = type(module).__mro__[module._orig_cls_mro_index]
    for group in optimizer.param_groups:
        group["params"] = [whole[held] for held in group["params"]]
    for held in list(optimizer.state):
        state = optimizer.state.pop(held)
        optimizer.state[whole[held]] = {key: _whole(value) for key, value in state.items()}


def _whole(tensor: Tensor) -> Tensor:
    """`tensor` out of its shards."""
    if not isinstance(tensor, DTensor):
        return tensor.detach().cpu()
    gathered: Tensor = tensor.detach().full_tensor()  # type: ignore[attr-defined]
    return gathered.cpu() if dist.get_rank() == 0 else gathered.to("meta")
