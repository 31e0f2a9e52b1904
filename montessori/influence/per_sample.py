"""Compute the gradient of each point of a batch, one parameter at a time, as the backward pass reaches it.

The batch shares one forward pass and one backward pass through the activations. A linear layer's gradient for point i
is then one product, (∂/∂output)ᵢᵀ · inputᵢ, over that point's own tokens. This takes as many operations as the batch's
summed gradient, and the memory of the largest layer. An embedding's gradient has rows only for the point's own tokens.
`torch.func` differentiates other small modules (norms) again.

Some models have trainable parameters elsewhere (such as experts in one tensor), or read a layer's weights without the
layer. They get their gradients point by point from autograd: the same numbers, slower. Source: Goodfellow 2015
(arXiv 1510.01799) for the linear layers.
"""

import itertools
import logging
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.func import functional_call, vjp, vmap
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from montessori.data.chat import Example
from montessori.errors import InputError
from montessori.influence.adamw import trainable_parameters
from montessori.influence.batches import PaddedBatch
from montessori.influence.distributed import is_sharded
from montessori.influence.reference import batch_losses, device_of, example_loss, together

log = logging.getLogger(__name__)

# Arguments: the parameter's name, the point's index in the batch, ∂ℓ/∂parameter, and `[n]` row numbers. With row
# numbers the gradient holds only those rows, `[n, …]`; None means that it has the parameter's shape.
Consumer = Callable[[str, int, Tensor, Tensor | None], None]


class PerSampleGradients:
    """Compute the gradient of every point of a batch for every trainable parameter."""

    def __init__(self, model: PreTrainedModel):
        self._model = model
        self._parameters = trainable_parameters(model)
        name_of = {id(p): n for n, p in self._parameters.items()}
        own = {module: _own_parameters(module, name_of) for module in model.modules()}
        self._owners = {module: names for module, names in own.items() if names}
        self.one_pass = all(_kind(module) for module in self._owners)

    def for_each(self, batch: Sequence[Example], consume: Consumer) -> list[float]:
        """Call `consume` once for each parameter and point, and return the losses ℓ(θ; x) in the order of `batch`.

        Every example needs an answer. A gradient may be overwritten after `consume` returns. A point that is not finite
        gets gradients that are not finite, and changes no other point's. Raises InputError where a sharded model needs
        gradients point by point.
        """
        if self.one_pass:
            try:
                return self._backward_passes(batch, consume)
            except _Unshareable as reason:
                log.info("gradients are taken point by point: %s", reason)
                self.one_pass = False
        if is_sharded(self._model):
            raise InputError(
                "taylor scores a student in shards only where its trainable parameters are those of linear, embedding "
                "and norm layers, each used in the ordinary way; use directional or exact"
            )
        return [self._own_backward_pass(i, example, consume) for i, example in enumerate(batch)]

    def _own_backward_pass(self, index: int, example: Example, consume: Consumer) -> float:
        loss = example_loss(self._model, example)
        gradients = torch.autograd.grad(loss, list(self._parameters.values()), materialize_grads=True)
        for name, gradient in zip(self._parameters, gradients, strict=True):
            consume(name, index, gradient, None)
        return loss.item()

    def _backward_passes(self, batch: Sequence[Example], consume: Consumer) -> list[float]:
        losses: list[float] = []
        for part in together(self._model, batch):

            def consume_part(
                name: str, i: int, gradient: Tensor, rows: Tensor | None, start: int = len(losses)
            ) -> None:
                consume(name, start + i, gradient, rows)

            losses += self._one_backward_pass(part, consume_part)
        return losses

    def _one_backward_pass(self, batch: Sequence[Example], consume: Consumer) -> list[float]:
        padded = PaddedBatch.of(batch, device_of(self._model))
        backward = _Backward(padded, consume)
        embedding = self._model.get_input_embeddings()
        with self._frozen(), ExitStack() as hooks:
            # A copy, because some models scale their embeddings in place.
            hooks.enter_context(embedding.register_forward_hook(lambda *args: args[2].requires_grad_().clone()))
            for module, names in self._owners.items():
                hooks.enter_context(module.register_forward_hook(backward.watch(names), with_kwargs=True))
            with nullcontext() if is_sharded(self._model) else _OwnersOnly(self._owners, self._parameters):
                losses = batch_losses(self._model, padded)
            losses.sum().backward()
            backward.finish(self._parameters)
        return [float(loss) for loss in losses.tolist()]

    @contextmanager
    def _frozen(self) -> Iterator[None]:
        """Stop all parameters from asking for a gradient, so that autograd goes through the activations alone."""
        for parameter in self._parameters.values():
            parameter.requires_grad_(False)
        try:
            yield
        finally:
            for parameter in self._parameters.values():
                parameter.requires_grad_(True)


class _Unshareable(Exception):
    """Report a module call that mixes its points. Raised before any gradient is consumed."""


class _OwnersOnly(TorchFunctionMode):
    """Raise _Unshareable where an operation reads a parameter outside of the modules that own it.

    No hook sees such an operation, so its share of the gradient would be missing.
    """

    def __init__(self, owners: dict[nn.Module, dict[str, str]], parameters: dict[str, nn.Parameter]):
        super().__init__()
        self._names_of = {module: set(names.values()) for module, names in owners.items()}
        self._name_of = {id(p): name for name, p in parameters.items()}
        self._running: list[nn.Module] = []
        self._hooks = ExitStack()

    def __enter__(self) -> Self:
        for module in self._names_of:
            self._hooks.enter_context(module.register_forward_pre_hook(lambda m, _: self._running.append(m)))
            self._hooks.enter_context(module.register_forward_hook(lambda *_: self._leave(), prepend=True))
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)  # type: ignore[no-untyped-call]
        self._hooks.close()

    def _leave(self) -> None:
        self._running.pop()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        own = self._names_of[self._running[-1]] if self._running else set()
        used = {self._name_of[id(x)] for x in tree_leaves((args, kwargs)) if id(x) in self._name_of} - own
        if used and any(isinstance(x, Tensor) for x in tree_leaves(result)):
            raise _Unshareable(f"{min(used)} is read outside of its module")
        return result


@dataclass(frozen=True)
class _Call:
    """Hold one call of a module: its input, and the gradient of the summed losses with respect to its output."""

    module: Any
    input: Tensor
    gradient: Tensor


class _Backward:
    """Turn the input and output gradient of each module call of one backward pass into gradients of its parameters."""

    def __init__(self, batch: PaddedBatch, consume: Consumer):
        self._batch, self._consume = batch, consume
        self._ends = list(itertools.accumulate(batch.counts))
        self._calls: Counter[str] = Counter()  # calls in the forward pass, by parameter
        self._waiting: defaultdict[str, list[_Call]] = defaultdict(list)  # calls of parameters with more to come
        self._again = False  # `torch.func` is running a module again, so the hook must not count it

    def watch(self, names: dict[str, str]) -> Callable[..., None]:
        """Return a forward hook for a module that owns the parameters `names` (its own name → the model's)."""

        def hook(module: nn.Module, inputs: tuple[Any, ...], keywords: dict[str, Any], output: object) -> None:
            if self._again:
                return
            if len(inputs) != 1 or keywords or not isinstance(output, Tensor) or not output.requires_grad:
                raise _Unshareable(f"a {type(module).__name__} takes more than one tensor")
            self._check_shape(module, inputs[0])
            self._calls.update(names.values())
            output.register_hook(lambda gradient: self._on_gradient(names, _Call(module, inputs[0].detach(), gradient)))

        return hook

    def _check_shape(self, module: nn.Module, x: Tensor) -> None:
        size, width = self._batch.input_ids.shape
        answers = len(self._batch.targets)
        fits = {
            "linear": x.shape[:-1] in ((size, width), (1, answers), (size * width,)),
            "embedding": x.shape == (size, width),
            "vector": x.shape[0] == size,
        }
        if not fits[_kind(module)]:
            raise _Unshareable(f"a {type(module).__name__} sees points in the shape {list(x.shape)}")

    @torch.no_grad()
    def _on_gradient(self, names: dict[str, str], call: _Call) -> None:
        ready = {}
        for own, name in names.items():
            self._waiting[name].append(call)
            if len(self._waiting[name]) == self._calls[name]:
                ready[own] = name
        if not ready:
            return
        kind = _kind(call.module)
        vectors = self._vectors(call, ready) if kind == "vector" else {}
        for own, name in ready.items():
            calls = self._waiting.pop(name)
            for i in range(len(self._batch.lengths)):
                if len(calls) > 1 or kind == "linear":
                    self._consume(name, i, self._of_point_summed(own, calls, i), None)
                elif kind == "vector":
                    self._consume(name, i, vectors[own][i], None)
                else:
                    rows, gradient = self._embedding_rows(call, i)
                    self._consume(name, i, gradient, rows)

    @torch.no_grad()
    def finish(self, parameters: dict[str, nn.Parameter]) -> None:
        """Consume zeros for parameters that the forward pass did not use: their step comes from momentum alone."""
        for name, parameter in parameters.items():  # the same order on every rank, as collectives require
            for i in range(len(self._batch.lengths) if name not in self._calls else 0):
                zeros = torch.zeros(parameter.shape, dtype=parameter.dtype, device=parameter.device)
                self._consume(name, i, zeros, None)

    def _of_point_summed(self, own: str, calls: list[_Call], i: int) -> Tensor:
        """Return the gradient of point `i`, summed over `calls`."""
        total = None
        for call in sorted(calls, key=lambda call: _kind(call.module) == "embedding"):
            kind = _kind(call.module)
            if kind == "embedding":
                rows, part = self._embedding_rows(call, i)
                shape = (call.module.num_embeddings, call.module.embedding_dim)
                total = part.new_zeros(shape) if total is None else total
                total.index_add_(0, rows, part)
                continue
            part = self._vectors(call, {own: own})[own][i] if kind == "vector" else self._linear(own, call, i)
            total = part if total is None else total + part
        assert total is not None
        return total

    def _linear(self, own: str, call: _Call, i: int) -> Tensor:
        x, dy = self._of_point(call.input, i), self._of_point(call.gradient, i)  # [tokens, in], [tokens, out]
        if own == "bias":
            return dy.sum(0)
        return x.T @ dy if isinstance(call.module, Conv1D) else dy.T @ x

    def _of_point(self, tensor: Tensor, i: int) -> Tensor:
        """Return the rows of point `i`, `[tokens, features]`, without padding."""
        size, width = self._batch.input_ids.shape
        if tensor.shape[:-1] == (1, len(self._batch.targets)) and size > 1:
            return tensor[0, self._ends[i] - self._batch.counts[i] : self._ends[i]]
        return tensor.view(size, width, -1)[i, : self._batch.lengths[i]] if size > 1 else tensor.flatten(0, -2)

    def _embedding_rows(self, call: _Call, i: int) -> tuple[Tensor, Tensor]:
        """Return the row numbers `[n]` and values `[n, hidden]` of an embedding's gradient where it is not zero."""
        length = self._batch.lengths[i]
        ids, dy = call.input[i, :length], call.gradient[i, :length]
        rows, inverse = ids.unique(return_inverse=True)
        gradient = torch.zeros(len(rows), dy.shape[-1], dtype=dy.dtype, device=dy.device).index_add_(0, inverse, dy)
        if call.module.padding_idx is not None:  # torch gives the padding row no gradient
            gradient[rows == call.module.padding_idx] = 0
        return rows, gradient

    def _vectors(self, call: _Call, wanted: dict[str, str]) -> dict[str, Tensor]:
        """Return the gradients of all points, `[batch, …]`, by the module's own names."""
        own = {k: call.module._parameters[k].detach() for k in wanted}

        def of_one(x: Tensor, dy: Tensor) -> dict[str, Tensor]:
            pull_back: Any = vjp(lambda p: functional_call(call.module, p, (x.unsqueeze(0),)), own)[1]
            gradient_of: dict[str, Tensor] = pull_back(dy.unsqueeze(0))[0]
            return gradient_of

        self._again = True
        try:
            gradients: dict[str, Tensor] = vmap(of_one)(call.input, call.gradient)
        finally:
            self._again = False
        return gradients


def _own_parameters(module: nn.Module, name_of: dict[int, str]) -> dict[str, str]:
    """Return the trainable parameters of `module` itself, without its children: its own names → the model's."""
    return {k: name_of[id(p)] for k, p in module._parameters.items() if p is not None and id(p) in name_of}


def _kind(module: Any) -> str:
    """Return the rule that separates a module's gradients by point.

    The rules are linear, embedding and vector. "" means that there is none.
    """
    forward = type(module).forward
    if forward in (nn.Linear.forward, Conv1D.forward):
        return "linear"
    if forward is nn.Embedding.forward and module.max_norm is None and not module.scale_grad_by_freq:
        return "embedding"
    vectors = all(p is None or p.ndim <= 1 for p in module._parameters.values())
    return "vector" if vectors and not any(module.children()) else ""
