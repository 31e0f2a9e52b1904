"""Put points of similar length into batches. A batch has as many points as a token budget holds, with little padding.

In: examples in any order.  Out: batches that depend on the set of examples and not on their order. A shard takes whole
batches, so every number of shards computes the same bits.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from montessori.data.chat import Example

TOKEN_BUDGET = 2048  # padded tokens in a batch; benchmarks/influence.py measures the speed
LONGEST_TO_SHORTEST = 1.15  # the largest ratio of lengths in one batch, so that padding stays below a sixth
SLACK_TOKENS = 8  # added to the ratio's limit, so that short examples still share a batch

Batch = list[Example]


def make_batches(examples: Sequence[Example], token_budget: int = TOKEN_BUDGET) -> list[Batch]:
    """Return batches that hold each example once, sorted by length.

    A batch has at most `token_budget` padded tokens, or one example. The result is the same for any order of
    `examples`, provided that their ids differ.
    """
    batches: list[Batch] = []
    batch: Batch = []
    for example in sorted(examples, key=lambda e: (len(e.input_ids), e.id, e.input_ids)):
        length = len(example.input_ids)
        if batch and (
            length * (len(batch) + 1) > token_budget
            or length > LONGEST_TO_SHORTEST * len(batch[0].input_ids) + SLACK_TOKENS
        ):
            batches.append(batch)
            batch = []
        batch.append(example)
    return [*batches, batch] if batch else batches


@dataclass(frozen=True)
class PaddedBatch:
    """Hold a batch as tensors, with the positions of its answers."""

    input_ids: Tensor  # [batch, width]
    lengths: list[int]  # tokens of each example, without padding
    rows: Tensor  # [answers], the example of each answer token
    columns: Tensor  # [answers], the position that predicts it
    targets: Tensor  # [answers], the token itself
    counts: list[int]  # answer tokens of each example

    @classmethod
    def of(cls, examples: Sequence[Example], device: torch.device | str = "cpu") -> Self:
        """Return `examples` padded on the right, without an attention mask.

        Causal attention never reads the padding. Each row is padded with its own last token. So an embedding that is
        NaN harms only the examples that contain its token.
        """
        lengths = [len(e.input_ids) for e in examples]
        width = max(lengths)
        ids = torch.tensor([e.input_ids + e.input_ids[-1:] * (width - len(e.input_ids)) for e in examples])
        starts = [first_answer_token(e) for e in examples]
        counts = [max(0, length - start) for length, start in zip(lengths, starts, strict=True)]
        rows = torch.repeat_interleave(torch.arange(len(examples)), torch.tensor(counts))
        columns = torch.cat([torch.arange(s - 1, s - 1 + n) for s, n in zip(starts, counts, strict=True)])
        on_device = (t.to(device) for t in (ids, rows, columns, ids[rows, columns + 1]))
        input_ids, rows, columns, targets = on_device
        return cls(input_ids, lengths, rows=rows, columns=columns, targets=targets, counts=counts)


def first_answer_token(example: Example) -> int:
    """Return the position of the first token that the loss counts.

    It is at least 1, because nothing predicts the first token of a text.
    """
    return max(1, example.prompt_length)


def answer_tokens(example: Example) -> int:
    """Return the number of answer tokens. The example's loss is the mean over them."""
    return max(0, len(example.input_ids) - first_answer_token(example))
