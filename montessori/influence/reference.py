"""Losses that influence is made of: ℓ(θ; x) of a point, L(θ) of the reference set, and the gradient ∇L(θ).

In: a causal language model and `chat.Example`s.  Out: mean negative log-likelihoods in nats per answer token.
L is the mean over examples of their own means, so neither batch size nor sharding changes what it means.
Source: Montessori-Instruct (arXiv 2410.14208), section 3.2.
"""

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from montessori.chat import Example
from montessori.errors import InputError, StageError
from montessori.influence.adamw import Gradients, trainable_parameters

TENSORS = "gradient.safetensors"
SCALARS = "gradient.json"
MAX_PADDED_TOKENS = 2048  # of a reference batch
IGNORED = -100


def example_loss(model: nn.Module, example: Example) -> Tensor:
    """ℓ(θ; x), the mean negative log-likelihood of the answer's tokens, float64 scalar with its graph.

    NaN for an example without answer tokens.
    """
    return example_losses(model, [example])[0]


def example_losses(model: nn.Module, examples: Sequence[Example]) -> Tensor:
    """ℓ(θ; x) of each example from one forward pass, `[batch]`, float64."""
    device = next(model.parameters()).device
    width = max(len(e.input_ids) for e in examples)
    first = min(_first_answer_token(e) for e in examples)
    # Padding on the right needs no mask: causal attention never looks there. A row is padded with its own
    # last token, so that an embedding gone NaN harms only the examples that have it.
    ids = [e.input_ids + e.input_ids[-1:] * (width - len(e.input_ids)) for e in examples]
    labels = torch.full((len(examples), width), IGNORED)
    for row, e in zip(labels, examples, strict=True):
        row[_first_answer_token(e) : len(e.input_ids)] = torch.tensor(e.input_ids[_first_answer_token(e) :])
    labels = labels[:, first:].to(device)  # [batch, kept]
    logits = model(
        input_ids=torch.tensor(ids, device=device), use_cache=False, logits_to_keep=width - first + 1
    ).logits[:, :-1]  # [batch, kept, vocabulary]; position i predicts token i + 1
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    losses = nn.functional.cross_entropy(
        logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORED, reduction="none"
    ).view_as(labels)
    return losses.double().sum(1) / (labels != IGNORED).sum(1)


def answer_tokens(example: Example) -> int:
    """How many tokens the example's loss is the mean of."""
    return max(0, len(example.input_ids) - _first_answer_token(example))


@torch.no_grad()
def reference_loss(model: nn.Module, examples: Sequence[Example]) -> tuple[float, list[float]]:
    """L(θ) and the loss of each example, in the order given. Leaves the model in evaluation mode.

    Raises InputError when there are no examples.
    """
    model.eval()
    losses = [0.0] * len(examples)
    for batch in _batches(examples):
        found = example_losses(model, [examples[i] for i in batch]).tolist()
        for i, loss in zip(batch, found, strict=True):
            losses[i] = loss
    return math.fsum(losses) / len(losses), losses


def reference_gradient(model: nn.Module, examples: Sequence[Example]) -> tuple[Gradients, float]:
    """∇L(θ) by trainable parameter, in float32 or wider, and L(θ). Leaves the model in evaluation mode.

    Raises InputError when there are no examples, StageError when the loss of one of them is not finite.
    """
    model.eval()
    parameters = trainable_parameters(model)
    gradient = {
        n: torch.zeros_like(p, dtype=torch.promote_types(p.dtype, torch.float32), requires_grad=False)
        for n, p in parameters.items()
    }
    losses: list[float] = []
    for batch in _batches(examples):
        loss = example_losses(model, [examples[i] for i in batch])
        require_finite([examples[i] for i in batch], loss.tolist())
        losses += loss.tolist()
        parts = torch.autograd.grad(loss.sum() / len(examples), list(parameters.values()), materialize_grads=True)
        for total, part in zip(gradient.values(), parts, strict=True):
            total += part
    return gradient, math.fsum(losses) / len(losses)


def require_finite(examples: Sequence[Example], losses: Sequence[float]) -> None:
    """Raise StageError, naming the example, when a loss on the reference set is not finite."""
    for example, loss in zip(examples, losses, strict=True):
        if not math.isfinite(loss):
            raise StageError(
                f"the student's loss on reference example {example.id} is {loss}, so nothing can be scored: "
                "its weights are not finite, or the example has no answer"
            )


@dataclass(frozen=True)
class ReferenceGradient:
    """∇L(θ) as it lies in an artifact, computed once for a student and read by every shard."""

    gradient: Gradients
    loss: float  # L(θ), nats
    n: int  # reference examples
    momentum_influence: float  # I(∅), nats: the influence of the step with g = 0

    def save(self, folder: Path) -> None:
        """Write `gradient.safetensors` and `gradient.json` into `folder`."""
        save_file({n: t.cpu().contiguous() for n, t in self.gradient.items()}, folder / TENSORS)
        scalars = {"loss": self.loss, "n": self.n, "momentum_influence": self.momentum_influence}
        (folder / SCALARS).write_text(json.dumps(scalars, indent=2) + "\n")

    @classmethod
    def load(cls, folder: Path, device: torch.device | str = "cpu") -> Self:
        """What `save` wrote, its tensors on `device`."""
        tensors = load_file(folder / TENSORS, device=str(device))
        return cls(tensors, **json.loads((folder / SCALARS).read_text()))


def _first_answer_token(example: Example) -> int:
    return max(1, example.prompt_length)  # nothing predicts the very first token


def _batches(examples: Sequence[Example]) -> Iterator[list[int]]:
    """Indices of examples of like length, the padded batch at most MAX_PADDED_TOKENS (or one example)."""
    if not examples:
        raise InputError("the reference set is empty: give at least one example that has an answer")
    batch: list[int] = []
    for i in sorted(range(len(examples)), key=lambda i: len(examples[i].input_ids)):
        if batch and len(examples[i].input_ids) * (len(batch) + 1) > MAX_PADDED_TOKENS:
            yield batch
            batch = []
        batch.append(i)
    yield batch
