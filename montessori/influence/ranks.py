"""What the estimators need to know of other processes: one where the student is whole, several where it is sharded.

Ranks keep step, because FSDP2 gathers weights in every forward and backward pass: each runs as many passes as the
others, on batches of its own (`each`, `turns`), and a rank without one repeats another's and throws the result away.
Without shards there is one rank, and nothing here costs anything.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Self, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from montessori.influence.adamw import OptimizerState, trainable_parameters
from montessori.influence.batches import Batch
from montessori.influence.step import Step

T = TypeVar("T")


@dataclass(frozen=True)
class Turn:
    """Batches that the ranks work on at the same time, one each."""

    batches: list[Batch]  # at most as many as ranks
    mine: Batch
    spare: bool  # `mine` is another rank's too, and only the other's result counts


@dataclass(frozen=True)
class Ranks:
    """The processes that hold a model's shards, and which of them this is."""

    rank: int = 0
    size: int = 1
    group: dist.ProcessGroup | None = None

    @classmethod
    def of(cls, model: nn.Module) -> Self:
        """The ranks of a model that `sharded.shard` has sharded; of any other model, this process alone."""
        for parameter in model.parameters():
            if isinstance(parameter, DTensor):
                mesh = parameter.device_mesh
                return cls(mesh.get_local_rank(), mesh.size(), mesh.get_group())
        return cls()

    def turns(self, batches: Sequence[Batch]) -> Iterator[Turn]:
        """`batches` in order, as many at a time as there are ranks."""
        for start in range(0, len(batches), self.size):
            turn = list(batches[start : start + self.size])
            spare = self.rank >= len(turn)
            yield Turn(turn, turn[0 if spare else self.rank], spare)

    def gather(self, value: T) -> list[T]:
        """Every rank's `value`, on every rank."""
        if self.size == 1:
            return [value]
        values: list[T] = [value] * self.size
        dist.all_gather_object(values, value, self.group)
        return values

    def each(self, function: Callable[[Batch], T], batches: Sequence[Batch]) -> Iterator[T]:
        """`function` of each batch, in order, on every rank; each is computed by one of them."""
        for turn in self.turns(batches):
            yield from self.gather(function(turn.mine))[: len(turn.batches)]


def in_shards(model: nn.Module) -> bool:
    """Whether any of the model's parameters lies in shards."""
    return any(isinstance(p, DTensor) for p in model.parameters())


def gradients(model: nn.Module, loss: Tensor) -> Sequence[Tensor]:
    """∂loss/∂parameter of each trainable parameter, in order.

    Of a sharded model: the gradients of the sum of all ranks' losses, in shards; each rank has to call. There they
    pass through `.grad`, which is None afterwards.
    """
    parameters = list(trainable_parameters(model).values())
    if not in_shards(model):
        return torch.autograd.grad(loss, parameters, materialize_grads=True)
    loss.backward()
    found = [torch.zeros_like(p, requires_grad=False) if p.grad is None else p.grad for p in parameters]
    for parameter in parameters:
        parameter.grad = None
    return found


class _OneAtATime(Mapping[str, Tensor]):
    """Sharded tensors, gathered whole when asked for; only the last is held.

    Every rank has to ask for the same names in the same order, however often for one in a row.
    """

    def __init__(self, shards: Mapping[str, Tensor]):
        self._shards = shards
        self._held: tuple[str, Tensor] | None = None

    def __getitem__(self, name: str) -> Tensor:
        if self._held is None or self._held[0] != name:
            self._held = None  # freed before the next is there
            shard = self._shards[name].detach()
            self._held = name, shard.full_tensor() if isinstance(shard, DTensor) else shard
        return self._held[1]

    def __iter__(self) -> Iterator[str]:
        return iter(self._shards)

    def __len__(self) -> int:
        return len(self._shards)


def whole(tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """`tensors` without shards: themselves, or a view that gathers one at a time."""
    return _OneAtATime(tensors) if any(isinstance(t, DTensor) for t in tensors.values()) else tensors


def whole_step(step: Step) -> Step:
    """`step` with moments that are not in shards."""
    if isinstance(step, OptimizerState):
        return replace(step, exp_avg=whole(step.exp_avg), exp_avg_sq=whole(step.exp_avg_sq))
    return step
