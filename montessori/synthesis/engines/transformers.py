"""Generation with a transformers model: the engine for a CPU and for small models.

Prompts of like length run together; the samples of one prompt share its prefill. Every sample draws from a random
generator of its own, so a text does not depend on which others were in its batch (but for a rounding tie).
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from transformers import (
    LogitsProcessor,
    LogitsProcessorList,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    RepetitionPenaltyLogitsProcessor,
    StaticCache,
    TemperatureLogitsWarper,
    TopPLogitsWarper,
)

from montessori import progress
from montessori.chat import Message, render_prompt
from montessori.config import Sampling
from montessori.errors import InputError
from montessori.synthesis.engines import Generation


class TransformersEngine:
    """A loaded model that answers chats."""

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, batch_size: int = 64):
        self.model, self.tokenizer, self.batch_size = model, tokenizer, batch_size
        self.prompts_cut = 0  # so far, for want of room in the model's context

    def generate(
        self, prompts: Sequence[Sequence[Message]], sampling: Sampling, samples: int, seeds: Sequence[int]
    ) -> list[list[Generation]]:
        """`samples` answers to each prompt; `seeds[i]` makes those to `prompts[i]`. At temperature 0: the greedy one.

        A prompt is cut at its start to what the model's context leaves beside `sampling.max_tokens`, and counted.
        """
        context = self.model.config.max_position_embeddings
        if (room := context - sampling.max_tokens) < 1:
            raise InputError(
                f"sampling.max_tokens = {sampling.max_tokens}: leaves no room for a prompt in the model's context "
                f"of {context} tokens"
            )
        texts = [render_prompt(self.tokenizer, prompt) for prompt in prompts]
        whole = [self.tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]
        self.prompts_cut += sum(len(i) > room for i in whole)
        ids = [i[-room:] for i in whole]
        order = sorted(range(len(ids)), key=lambda i: len(ids[i]))
        batches = [order[i : i + self.batch_size] for i in range(0, len(order), self.batch_size)]
        done: dict[int, list[Generation]] = {}
        for batch in progress.track(batches, len(prompts), "prompts", size=len):
            answers = self._batch([ids[i] for i in batch], sampling, samples, [seeds[i] for i in batch])
            done |= {i: list(t) for i, t in zip(batch, answers, strict=True)}
        return [done[i] for i in range(len(prompts))]

    @torch.inference_mode()
    def _batch(
        self, ids: list[list[int]], sampling: Sampling, samples: int, seeds: list[int]
    ) -> Iterator[list[Generation]]:
        device, longest = self.model.device, max(map(len, ids))
        pad = self.tokenizer.pad_token_id
        input_ids = torch.tensor([[pad] * (longest - len(i)) + i for i in ids], device=device)
        mask = torch.tensor([[0] * (longest - len(i)) + [1] * len(i) for i in ids], device=device)
        cache = StaticCache(self.model.config, max_cache_len=longest + sampling.max_tokens)
        if longest > 1:
            self._prefill(cache, input_ids[:, :-1], mask[:, :-1], samples)
        out = self.model.generate(
            input_ids=input_ids.repeat_interleave(samples, 0),
            attention_mask=mask.repeat_interleave(samples, 0),
            past_key_values=cache,  # of fixed size: one that grows is copied at every token
            disable_compile=True,
            max_new_tokens=sampling.max_tokens,
            do_sample=False,  # the drawing is done by _Draw below
            repetition_penalty=1.0,  # this and the next: not what the model's own generation settings say
            no_repeat_ngram_size=0,
            logits_processor=_processors(
                sampling,
                longest,
                padding=(longest - mask.sum(-1)).repeat_interleave(samples),
                seeds=[seed * samples + number for seed in seeds for number in range(samples)],
            ),
            pad_token_id=pad,
            eos_token_id=self._ends(),
        )[:, longest:]
        for start in range(0, len(out), samples):
            yield [self._generation(row) for row in out[start : start + samples].tolist()]

    def _prefill(self, cache: StaticCache, input_ids: Tensor, mask: Tensor, samples: int) -> None:
        """Read each prompt (`[batch, seq]`) once and hand its keys and values to all of its samples."""
        self.model(
            input_ids=input_ids,
            attention_mask=mask,
            position_ids=(mask.cumsum(-1) - 1).clamp(min=0),
            past_key_values=cache,
            logits_to_keep=1,
        )
        for layer in cache.layers:
            layer.keys = layer.keys.repeat_interleave(samples, 0)
            layer.values = layer.values.repeat_interleave(samples, 0)

    def _ends(self) -> list[int]:
        """The tokens that end an answer: the tokenizer's, and those of the model's generation settings."""
        ends = self.model.generation_config.eos_token_id
        ends = ends if isinstance(ends, list) else [ends]
        return sorted({e for e in [*ends, self.tokenizer.eos_token_id] if e is not None})

    def _generation(self, row: list[int]) -> Generation:
        ends = set(self._ends())
        stop = next((i for i, token in enumerate(row) if token in ends), None)
        tokens = row if stop is None else row[:stop]
        text = self.tokenizer.decode(tokens, skip_special_tokens=True)
        return Generation(text, "length" if stop is None else "stop", len(tokens))


def _processors(sampling: Sampling, prompt_length: int, padding: Tensor, seeds: list[int]) -> LogitsProcessorList:
    chain = LogitsProcessorList()
    if sampling.repetition_penalty != 1:  # counts the prompt too, as vLLM's does, but not its padding
        chain.append(RepetitionPenaltyLogitsProcessor(sampling.repetition_penalty, prompt_ignore_length=padding))
    if sampling.presence_penalty:
        chain.append(_PresencePenalty(sampling.presence_penalty, prompt_length))
    if sampling.temperature > 0:
        if sampling.temperature != 1:
            chain.append(TemperatureLogitsWarper(sampling.temperature))
        if sampling.top_p < 1:
            chain.append(TopPLogitsWarper(sampling.top_p))
        chain.append(_Draw(seeds, padding.device))
    return chain


class _PresencePenalty(LogitsProcessor):
    """Subtract `penalty` from every token that has been generated, as the OpenAI API defines it."""

    def __init__(self, penalty: float, prompt_length: int):
        self.penalty, self.prompt_length = penalty, prompt_length

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        seen = torch.zeros_like(scores)
        seen.scatter_(1, input_ids[:, self.prompt_length :], 1.0)
        return scores - self.penalty * seen


class _Draw(LogitsProcessor):
    """Add Gumbel noise from one generator a row: the largest sum is then a draw from the softmax (Gumbel 1954)."""

    def __init__(self, seeds: list[int], device: torch.device | str = "cpu"):
        self.device = device
        self.generators = [torch.Generator(device).manual_seed(seed % 2**63) for seed in seeds]

    def __call__(self, _input_ids: Tensor, scores: Tensor) -> Tensor:
        noise = torch.stack([torch.rand(scores.shape[1], generator=g, device=self.device) for g in self.generators])
        return scores - torch.log(-torch.log(noise.clamp_(1e-20, 1 - 1e-7))).to(scores.device)
