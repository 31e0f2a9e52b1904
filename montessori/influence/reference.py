"""Compute the losses behind influence: ℓ(θ; x) of a point, L(θ) of the reference set, and the gradient ∇L(θ).

In: a causal language model and `chat.Example`s.  Out: mean negative log-likelihoods in nats per answer token. L is the
mean over examples of their own means, so it depends neither on the batch size nor on sharding. Source:
Montessori-Instruct (arXiv 2410.14208), section 3.2.
"""

import json
import math
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from montessori.data.chat import Example
from montessori.errors import InputError, StageError
from montessori.influence.adamw import Gradients, load_tensors, trainable_parameters
from montessori.influence.batches import TOKEN_BUDGET, Batch, PaddedBatch, make_batches
from montessori.influence.distributed import RankGroup, gradients
from montessori.models.families import share_a_batch

TENSORS = "gradient.safetensors"
SCALARS = "gradient.json"


def example_loss(model: nn.Module, example: Example) -> Tensor:
    """Return ℓ(θ; x), the mean negative log-likelihood of the answer's tokens, as a float64 scalar with its graph.

    NaN for an example without answer tokens.
    """
    return example_losses(model, [example])[0]


def example_losses(model: nn.Module, examples: Sequence[Example]) -> Tensor:
    """Return ℓ(θ; x) of each example, `[batch]`, float64, from one forward pass where the model allows it."""
    parts = together(model, examples)
    return torch.cat([batch_losses(model, PaddedBatch.of(part, device_of(model))) for part in parts])


def together(model: nn.Module, examples: Sequence[Example]) -> list[Sequence[Example]]:
    """Return `examples` in the batches of one forward pass each: one batch, or one for each example.

    The examples stay apart where the model is not known to compute each one's loss in a batch as it does alone.
    """
    if len(examples) == 1 or share_a_batch(model, [len(example.input_ids) for example in examples]):
        return [examples]
    return [[example] for example in examples]


def batch_losses(model: nn.Module, batch: PaddedBatch) -> Tensor:
    """Return ℓ(θ; x) of each example of `batch`, `[batch]`, float64."""
    logits = answer_logits(model, batch)
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    each = nn.functional.cross_entropy(logits, batch.targets, reduction="none").double()  # [answers]
    sums = torch.zeros(len(batch.counts), dtype=torch.float64, device=each.device).index_add(0, batch.rows, each)
    return sums / torch.tensor(batch.counts, device=each.device)


def answer_logits(model: nn.Module, batch: PaddedBatch) -> Tensor:
    """Return the logits that predict answer tokens, `[answers, vocabulary]`. No other logits are computed."""
    head: nn.Module | None = getattr(model, "get_output_embeddings", lambda: None)()

    def select(_: nn.Module, inputs: tuple[Any, ...]) -> tuple[Tensor, ...]:
        """Keep the hidden states before answer tokens, as one row `[1, answers, hidden]`."""
        return (inputs[0][batch.rows, batch.columns].unsqueeze(0),)

    with head.register_forward_pre_hook(select) if head is not None else nullcontext():
        logits: Tensor = model(input_ids=batch.input_ids, use_cache=False).logits
    return logits[0] if head is not None else logits[batch.rows, batch.columns]


def device_of(model: nn.Module) -> torch.device:
    """Return the device for the model's inputs."""
    return next(model.parameters()).device


@torch.no_grad()
def reference_loss(
    model: nn.Module, examples: Sequence[Example], token_budget: int = TOKEN_BUDGET
) -> tuple[float, list[float]]:
    """Return L(θ) and the loss of each example, in the order given. Leaves the model in evaluation mode.

    Raises InputError when there are no examples.
    """
    require_examples(examples)
    model.eval()
    loss_of: dict[int, float] = {}

    def losses_of(batch: Batch) -> list[float]:
        return [float(loss) for loss in example_losses(model, batch).tolist()]

    batches = make_batches(examples, token_budget)
    for batch, batch_losses in zip(batches, RankGroup.of(model).map(losses_of, batches), strict=True):
        loss_of |= zip(map(id, batch), batch_losses, strict=True)
    losses = [loss_of[id(example)] for example in examples]
    return math.fsum(losses) / len(losses), losses


def reference_gradient(
    model: nn.Module, examples: Sequence[Example], token_budget: int = TOKEN_BUDGET
) -> tuple[Gradients, float]:
    """Return ∇L(θ) by trainable parameter, in float32 or wider, and L(θ). Leaves the model in evaluation mode.

    Raises InputError when there are no examples, StageError when the loss of one of them is not finite.
    """
    require_examples(examples)
    model.eval()
    parameters = trainable_parameters(model)
    gradient = {
        n: torch.zeros_like(p, dtype=torch.promote_types(p.dtype, torch.float32), requires_grad=False)
        for n, p in parameters.items()
    }
    losses: list[float] = []
    group = RankGroup.of(model)
    for wave in group.waves(make_batches(examples, token_budget)):
        loss = example_losses(model, wave.own)
        for batch, batch_losses in zip(wave.batches, group.gather(loss.tolist()), strict=False):
            require_finite(batch, batch_losses)
            losses += batch_losses
        mean = loss.sum() / len(examples)
        for total, part in zip(gradient.values(), gradients(model, mean * 0 if wave.is_spare else mean), strict=True):
            total += part
    return gradient, math.fsum(losses) / len(losses)


def require_examples(examples: Sequence[Example]) -> None:
    """Raise InputError when the reference set is empty."""
    if not examples:
        raise InputError("the reference set is empty: give at least one example that has an answer")


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
    """Hold ∇L(θ) as an artifact stores it: computed once for a student and read by every shard."""

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
    def load(cls, folder: Path, device: torch.device | str = "cpu", dtype: torch.dtype | None = None) -> Self:
        """Read a gradient that `save` wrote, with its tensors on `device` and in `dtype` (default: unchanged)."""
        tensors = load_tensors(folder / TENSORS, device, dtype)
        return cls(tensors, **json.loads((folder / SCALARS).read_text()))
