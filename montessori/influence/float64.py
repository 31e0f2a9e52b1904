"""A model that computes in float64 throughout, as the truth that estimators are measured against.

`model.double()` alone does not: transformers casts to float32 inside norms, softmax and rotary embeddings, which
*narrows* a float64 tensor. Inside `in_float64` such casts leave float64 alone.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

M = TypeVar("M", bound=nn.Module)


class _NeverNarrower(TorchFunctionMode):
    """Leaves out what would make a float64 tensor float32."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        del types
        kwargs = dict(kwargs or {})
        tensor = args[0] if args else None
        if isinstance(tensor, Tensor) and tensor.dtype == torch.float64:
            if func is Tensor.float or (func is Tensor.to and torch.float32 in args):
                return tensor
            if kwargs.get("dtype") is torch.float32:
                kwargs["dtype"] = torch.float64
        return func(*args, **kwargs)


@contextmanager
def in_float64(model: M) -> Iterator[M]:
    """`model` with its weights widened in place; what is computed inside the block stays in float64."""
    with _NeverNarrower():
        yield model.double()
