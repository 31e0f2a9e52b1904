"""Run an estimator in one process, or in several that hold the shards of a student.

FSDP2 gathers weights in every forward and backward pass, so all ranks must run the same number of passes. Each rank
works on batches of its own (`map`, `waves`). A rank without one repeats the first rank's batch and drops the result. A
student without shards has one rank, and then nothing here costs time.
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
class Wave:
    """Hold the batches on which the ranks work at the same time, one each."""

    batches: list[Batch]  # at most one for each rank
    own: Batch  # this rank's batch
    is_spare: bool  # no batch is left for this rank: `own` is the first rank's, and its result is dropped


@dataclass(frozen=True)
class RankGroup:
    """Hold this process's rank among the processes with a model's shards."""

    rank: int = 0
    size: int = 1
    group: dist.ProcessGroup | None = None

    @classmethod
    def of(cls, model: nn.Module) -> Self:
        """Return the ranks of a model that `sharded.shard` has sharded. For any other model this process is alone."""
        for parameter in model.parameters():
            if isinstance(parameter, DTensor):
                mesh = parameter.device_mesh
                return cls(mesh.get_local_rank(), mesh.size(), mesh.get_group())
        return cls()

    def waves(self, batches: Sequence[Batch]) -> Iterator[Wave]:
        """Yield `batches` in order, one for each rank at a time."""
        for start in range(0, len(batches), self.size):
            wave = list(batches[start : start + self.size])
            is_spare = self.rank >= len(wave)
            yield Wave(wave, wave[0 if is_spare else self.rank], is_spare)

    def gather(self, value: T) -> list[T]:
        """Return every rank's `value`, on every rank."""
        if self.size == 1:
            return [value]
        values: list[T] = [value] * self.size
        dist.all_gather_object(values, value, self.group)
        return values

    def map(self, function: Callable[[Batch], T], batches: Sequence[Batch]) -> Iterator[T]:
        """Yield `function` of each batch, in order, on every rank. Each value is computed by one of them."""
        for wave in self.waves(batches):
            yield from self.gather(function(wave.own))[: len(wave.batches)]


def is_sharded(model: nn.Module) -> bool:
    """Return whether any parameter of the model is sharded."""
    return any(isinstance(p, DTensor) for p in model.parameters())


def gradients(model: nn.Module, loss: Tensor) -> Sequence[Tensor]:
    """Return ∂loss/∂parameter of each trainable parameter, in order.

    For a sharded model these are sharded gradients of the sum of all ranks' losses, and each rank has to call. They
    pass through `.grad`, which is None afterwards.
    """
    parameters = list(trainable_parameters(model).values())
    if not is_sharded(model):
        return torch.autograd.grad(loss, parameters, materialize_grads=True)
    loss.backward()
    summed = [torch.zeros_like(p, requires_grad=False) if p.grad is None else p.grad for p in parameters]
    for parameter in parameters:
        parameter.grad = None
    return summed


class _GatheredTensors(Mapping[str, Tensor]):
    """Gather sharded tensors on access, and keep only the last one.

    Every rank has to access the same names in the same order. Repeated access to one name needs no order.
    """

    def __init__(self, shards: Mapping[str, Tensor]):
        self._shards = shards
        self._last: tuple[str, Tensor] | None = None

    def __getitem__(self, name: str) -> Tensor:
        if self._last is None or self._last[0] != name:
            self._last = None  # free it before the next tensor is gathered
            shard = self._shards[name].detach()
            self._last = name, shard.full_tensor() if isinstance(shard, DTensor) else shard
        return self._last[1]

    def __iter__(self) -> Iterator[str]:
        return iter(self._shards)

    def __len__(self) -> int:
        return len(self._shards)


def unsharded(tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """Return `tensors` themselves, or if they are sharded a mapping that gathers one at a time."""
    return _GatheredTensors(tensors) if any(isinstance(t, DTensor) for t in tensors.values()) else tensors


def unsharded_step(step: Step) -> Step:
    """Return `step` with moments that are not sharded."""
    if isinstance(step, OptimizerState):
        return replace(step, exp_avg=unsharded(step.exp_avg), exp_avg_sq=unsharded(step.exp_avg_sq))
    return step
