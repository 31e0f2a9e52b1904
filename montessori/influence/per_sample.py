"""The gradient of each point of a batch, one parameter at a time, handed over as the backward pass reaches it.

The batch shares one forward pass and one backward pass through the activations. A linear layer's gradient for point
i is then one product, (∂/∂output)ᵢᵀ · inputᵢ, over that point's own tokens: as many operations as the batch's summed
gradient, and no more memory than the largest layer's. An embedding's has rows only for the point's own tokens.
Other small modules (norms) are differentiated again by `torch.func`.

A model with trainable parameters elsewhere (experts in one tensor, say) or layers used twice gets its gradients
point by point from autograd: the same numbers, slower.
Source: Goodfellow 2015 (arXiv 1510.01799) for the linear layers.
"""

import itertools
import logging
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, vjp, vmap
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from montessori.data.chat import Example
from montessori.errors import InputError
from montessori.influence.adamw import trainable_parameters
from montessori.influence.batches import Padded
from montessori.influence.ranks import in_shards
from montessori.influence.reference import device_of, example_loss, padded_losses

log = logging.getLogger(__name__)

# (parameter's name, point's place in the batch, ∂ℓ/∂parameter, its rows if not all: `[n, …]`, `[n]`)
Consumer = Callable[[str, int, Tensor, Tensor | None], None]


class PerSampleGradients:
    """Knows which modules hold the trainable parameters of a model, and whether a batch can be shared."""

    def __init__(self, model: PreTrainedModel):
        self._model = model
        self._parameters = trainable_parameters(model)
        name_of = {id(p): n for n, p in self._parameters.items()}
        own = {module: _own(module, name_of) for module in model.modules()}
        self._owners = {module: names for module, names in own.items() if names}
        self.shared = all(_kind(module) for module in self._owners)

    def each(self, batch: Sequence[Example], consume: Consumer) -> list[float]:
        """Call `consume` once for each parameter and point; the losses ℓ(θ; x) in the order of `batch`.

        Every example needs an answer. What is consumed may be overwritten afterwards. A point that is not finite
        has gradients that are not, and touches no other.
        """
        if self.shared:
            try:
                return self._together(batch, consume)
            except _Unshareable as reason:
                log.info("gradients are taken point by point: %s", reason)
                self.shared = False
        if in_shards(self._model):
            raise InputError(
                "taylor scores a student in shards only where its trainable parameters are those of linear, embedding "
                "and norm layers, each used in the ordinary way; use directional or exact"
            )
        return [self._alone(i, example, consume) for i, example in enumerate(batch)]

    def _alone(self, place: int, example: Example, consume: Consumer) -> float:
        loss = example_loss(self._model, example)
        gradients = torch.autograd.grad(loss, list(self._parameters.values()), materialize_grads=True)
        for name, gradient in zip(self._parameters, gradients, strict=True):
            consume(name, place, gradient, None)
        return loss.item()

    def _together(self, batch: Sequence[Example], consume: Consumer) -> list[float]:
        padded = Padded.of(batch, device_of(self._model))
        backward = _Backward(padded, consume)
        embedding = self._model.get_input_embeddings()
        with self._frozen(), ExitStack() as hooks:
            hooks.enter_context(embedding.register_forward_hook(lambda *args: args[2].requires_grad_()))
            for module, names in self._owners.items():
                hooks.enter_context(module.register_forward_hook(backward.watch(names), with_kwargs=True))
            losses = padded_losses(self._model, padded)
            losses.sum().backward()
            backward.finish(self._parameters)
        found: list[float] = losses.tolist()
        return found

    @contextmanager
    def _frozen(self) -> Iterator[None]:
        """No parameter asks for a gradient inside the block: autograd goes through the activations alone."""
        for parameter in self._parameters.values():
            parameter.requires_grad_(False)
        try:
            yield
        finally:
            for parameter in self._parameters.values():
                parameter.requires_grad_(True)


class _Unshareable(Exception):
    """A module was called in a way that does not tell its points apart. Raised before anything is consumed."""


@dataclass(frozen=True)
class _Call:
    """One call of a module: its input, and the gradient of the summed losses with respect to its output."""

    module: Any
    input: Tensor
    gradient: Tensor


class _Backward:
    """One backward pass: takes each module's input and output gradient, and hands on gradients of its parameters."""

    def __init__(self, batch: Padded, consume: Consumer):
        self._batch, self._consume = batch, consume
        self._ends = list(itertools.accumulate(batch.counts))
        self._calls: Counter[str] = Counter()  # of the forward pass, by parameter
        self._held: defaultdict[str, list[_Call]] = defaultdict(list)  # until all calls of a parameter are there
        self._again = False  # a module is run again to be differentiated

    def watch(self, names: dict[str, str]) -> Callable[..., None]:
        """A forward hook for a module that owns the parameters `names` (its own name → the model's)."""

        def hook(module: nn.Module, inputs: tuple[Any, ...], keywords: dict[str, Any], output: object) -> None:
            if self._again:
                return
            if len(inputs) != 1 or keywords or not isinstance(output, Tensor) or not output.requires_grad:
                raise _Unshareable(f"a {type(module).__name__} takes more than one tensor")
            self._check_shape(module, inputs[0])
            self._calls.update(names.values())
            output.register_hook(lambda gradient: self._arrived(names, _Call(module, inputs[0].detach(), gradient)))

        return hook

    def _check_shape(self, module: nn.Module, x: Tensor) -> None:
        size, width = self._batch.input_ids.shape
        answers = len(self._batch.targets)
        fits = {
            "linear": x.shape[:-1] in ((size, width), (1, answers), (size * width,)),
            "embedding": x.shape == (size, width),
            "small": x.shape[0] == size,
        }
        if not fits[_kind(module)]:
            raise _Unshareable(f"a {type(module).__name__} sees points in the shape {list(x.shape)}")

    @torch.no_grad()
    def _arrived(self, names: dict[str, str], call: _Call) -> None:
        ready = {}
        for own, name in names.items():
            self._held[name].append(call)
            if len(self._held[name]) == self._calls[name]:
                ready[own] = name
        if not ready:
            return
        kind = _kind(call.module)
        small = self._small(call, ready) if kind == "small" else {}
        for own, name in ready.items():
            calls = self._held.pop(name)
            for i in range(len(self._batch.lengths)):
                if len(calls) > 1 or kind == "linear":
                    self._consume(name, i, self._whole(own, calls, i), None)
                elif kind == "small":
                    self._consume(name, i, small[own][i], None)
                else:
                    rows, gradient = self._rows(call, i)
                    self._consume(name, i, gradient, rows)

    @torch.no_grad()
    def finish(self, parameters: dict[str, nn.Parameter]) -> None:
        """Hand on zeros for parameters that the forward pass did not use: their step is momentum's alone."""
        for name, parameter in parameters.items():  # in one order on every rank
            for i in range(len(self._batch.lengths) if name not in self._calls else 0):
                zeros = torch.zeros(parameter.shape, dtype=parameter.dtype, device=parameter.device)
                self._consume(name, i, zeros, None)

    def _whole(self, own: str, calls: list[_Call], i: int) -> Tensor:
        """The gradient of point `i`, summed over `calls`."""
        total = None
        for call in sorted(calls, key=lambda call: _kind(call.module) == "embedding"):
            kind = _kind(call.module)
            if kind == "embedding":
                rows, part = self._rows(call, i)
                shape = (call.module.num_embeddings, call.module.embedding_dim)
                total = part.new_zeros(shape) if total is None else total
                total.index_add_(0, rows, part)
                continue
            part = self._small(call, {own: own})[own][i] if kind == "small" else self._linear(own, call, i)
            total = part if total is None else total + part
        assert total is not None
        return total

    def _linear(self, own: str, call: _Call, i: int) -> Tensor:
        x, dy = self._of_point(call.input, i), self._of_point(call.gradient, i)  # [tokens, in], [tokens, out]
        if own == "bias":
            return dy.sum(0)
        return x.T @ dy if isinstance(call.module, Conv1D) else dy.T @ x

    def _of_point(self, tensor: Tensor, i: int) -> Tensor:
        """The rows of point `i`, `[tokens, features]`, without padding."""
        size, width = self._batch.input_ids.shape
        if tensor.shape[:-1] == (1, len(self._batch.targets)) and size > 1:
            return tensor[0, self._ends[i] - self._batch.counts[i] : self._ends[i]]
        return tensor.view(size, width, -1)[i, : self._batch.lengths[i]] if size > 1 else tensor.flatten(0, -2)

    def _rows(self, call: _Call, i: int) -> tuple[Tensor, Tensor]:
        """The rows of an embedding's gradient that are not zero: which, `[n]`, and their values, `[n, hidden]`."""
        length = self._batch.lengths[i]
        ids, dy = call.input[i, :length], call.gradient[i, :length]
        rows, place = ids.unique(return_inverse=True)
        gradient = torch.zeros(len(rows), dy.shape[-1], dtype=dy.dtype, device=dy.device).index_add_(0, place, dy)
        if call.module.padding_idx is not None:  # torch gives that row no gradient
            gradient[rows == call.module.padding_idx] = 0
        return rows, gradient

    def _small(self, call: _Call, wanted: dict[str, str]) -> dict[str, Tensor]:
        """The gradients of all points, `[batch, …]`, by the module's own names."""
        own = {k: call.module._parameters[k].detach() for k in wanted}

        def of_one(x: Tensor, dy: Tensor) -> dict[str, Tensor]:
            pull_back: Any = vjp(lambda p: functional_call(call.module, p, (x.unsqueeze(0),)), own)[1]
            found: dict[str, Tensor] = pull_back(dy.unsqueeze(0))[0]
            return found

        self._again = True
        try:
            gradients: dict[str, Tensor] = vmap(of_one)(call.input, call.gradient)
        finally:
            self._again = False
        return gradients


def _own(module: nn.Module, name_of: dict[int, str]) -> dict[str, str]:
    """The trainable parameters that lie in `module` itself: its own names → the model's."""
    return {k: name_of[id(p)] for k, p in module._parameters.items() if p is not None and id(p) in name_of}


def _kind(module: Any) -> str:
    """How a module's gradients are told apart by point: linear, embedding, small, or "" where they are not."""
    forward = type(module).forward
    if forward in (nn.Linear.forward, Conv1D.forward):
        return "linear"
    if forward is nn.Embedding.forward and module.max_norm is None and not module.scale_grad_by_freq:
        return "embedding"
    vectors = all(p is None or p.ndim <= 1 for p in module._parameters.values())
    return "small" if vectors and not any(module.children()) else ""
