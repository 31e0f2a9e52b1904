"""Generation with a transformers model: the engine for a CPU and for small models.

Prompts of like length run together; the samples of one prompt share its prefill. Every sample draws from a random
generator of its own, so a text does not depend on which others were in its batch (but for a rounding tie).
"""

from bisect import bisect_left
from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor
from transformers import (
    LogitsProcessor,
    LogitsProcessorList,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    RepetitionPenaltyLogitsProcessor,
    StaticCache,
    StoppingCriteriaList,
    StopStringCriteria,
    TemperatureLogitsWarper,
    TopPLogitsWarper,
)

from montessori.data.chat import Message
from montessori.settings.schema import Sampling
from montessori.synthesis.engines import Answer, Generation, MayAsk, always, by_text
from montessori.synthesis.engines.tokens import encode


class TransformersEngine:
    """A loaded model that answers chats."""

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        batch_size: int = 64,
        context: int | None = None,
    ):
        self.model, self.tokenizer, self.batch_size = model, tokenizer, batch_size
        self.context = min(context or model.config.max_position_embeddings, model.config.max_position_embeddings)

    def generate(
        self,
        prompts: Sequence[Sequence[Message]],
        sampling: Sampling,
        samples: int,
        seeds: Sequence[int],
        done: Collection[int] = (),
        may_ask: MayAsk = always,
    ) -> Iterator[tuple[int, Answer]]:
        """A batch after the other, the short prompts first; see `Engine`.

        Which prompts share a batch does not depend on `done`: a batch of which one is missing is run whole.
        """
        read = encode(self.tokenizer, prompts, self.context, sampling)
        order = sorted(range(len(read)), key=lambda i: len(read[i].ids))
        for start in range(0, len(order), self.batch_size):
            batch = order[start : start + self.batch_size]
            asked = [i for i in batch if i not in done]
            if not asked:
                continue
            if not may_ask(len(asked) - 1):
                return
            written = self._batch([read[i].ids for i in batch], sampling, samples, [seeds[i] for i in batch])
            yield from (
                (i, Answer(generations, len(read[i].ids), read[i].cut))
                for i, generations in zip(batch, written, strict=True)
                if i not in done
            )

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
        processors = _processors(
            sampling,
            longest,
            padding=(longest - mask.sum(-1)).repeat_interleave(samples),
            seeds=[seed * samples + number for seed in seeds for number in range(samples)],
        )
        first = _First(sampling.top_logprobs)
        if sampling.top_logprobs:
            processors.insert(0, first)
        out = self.model.generate(
            input_ids=input_ids.repeat_interleave(samples, 0),
            attention_mask=mask.repeat_interleave(samples, 0),
            past_key_values=cache,  # of fixed size: one that grows is copied at every token
            disable_compile=True,
            max_new_tokens=sampling.max_tokens,
            do_sample=False,  # the drawing is done by _Draw below
            repetition_penalty=1.0,  # this and the next: not what the model's own generation settings say
            no_repeat_ngram_size=0,
            logits_processor=processors,
            stopping_criteria=StoppingCriteriaList(
                [_Stopped(self.tokenizer, sampling.stop, longest)] if sampling.stop else []
            ),
            pad_token_id=pad,
            eos_token_id=self._ends(),
        )[:, longest:]
        likely = [self._texts(tokens) for tokens in first.found] if sampling.top_logprobs else [None] * len(out)
        for start in range(0, len(out), samples):
            end = start + samples
            yield [
                replace(self._generation(row, sampling), first=tokens)
                for row, tokens in zip(out[start:end].tolist(), likely[start:end], strict=True)
            ]

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

    def _texts(self, tokens: list[tuple[int, float]]) -> dict[str, float]:
        return by_text((str(self.tokenizer.decode([token])), logprob) for token, logprob in tokens)

    def _generation(self, row: list[int], sampling: Sampling) -> Generation:
        ends = set(self._ends())
        ended = next((i for i, token in enumerate(row) if token in ends), None)
        written = row[:ended]
        text = _text(self.tokenizer, written)
        if _stop_at(text, sampling.stop) is None:
            return Generation(text, "length" if ended is None else "stop", len(row) if ended is None else ended + 1)
        # What follows is padding, or was written before the stop text was seen.
        tokens = bisect_left(
            range(len(written)),
            True,
            key=lambda n: _stop_at(_text(self.tokenizer, written[:n]), sampling.stop) is not None,
        )
        text = _text(self.tokenizer, written[:tokens])
        return Generation(text[: _stop_at(text, sampling.stop)], "stop", tokens)


def _text(tokenizer: PreTrainedTokenizerBase, tokens: list[int]) -> str:
    return str(tokenizer.decode(tokens, skip_special_tokens=True))


def _stop_at(text: str, stop: tuple[str, ...]) -> int | None:
    """Where in `text` the first of the stop texts begins."""
    return min((at for one in stop if (at := text.find(one)) >= 0), default=None)


class _Stopped(StopStringCriteria):
    """Whether a stop text is there: transformers suspects it, and the answer's text as it will be read decides.

    Transformers alone would also stop for one that begins in the prompt, or that only a special token's name spells.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, stop: tuple[str, ...], prompt_length: int):
        super().__init__(tokenizer, list(stop))
        self.tokenizer, self.prompt_length = tokenizer, prompt_length

    def __call__(self, input_ids: Tensor, scores: Tensor, **_kwargs: object) -> Tensor:
        stopped: Tensor = super().__call__(input_ids, scores)
        for row in stopped.nonzero().flatten().tolist():
            text = _text(self.tokenizer, input_ids[row, self.prompt_length :].tolist())
            stopped[row] = _stop_at(text, self.stop_strings) is not None
        return stopped


def _processors(sampling: Sampling, prompt_length: int, padding: Tensor, seeds: list[int]) -> LogitsProcessorList:
    chain = LogitsProcessorList()
    if sampling.repetition_penalty != 1:  # counts the prompt too, as vLLM's does, but not its padding
        chain.append(RepetitionPenaltyLogitsProcessor(sampling.repetition_penalty, prompt_ignore_length=padding))
    if sampling.presence_penalty or sampling.frequency_penalty:
        chain.append(_Penalties(sampling.presence_penalty, sampling.frequency_penalty, prompt_length))
    if sampling.temperature > 0:
        if sampling.temperature != 1:
            chain.append(TemperatureLogitsWarper(sampling.temperature))
        if sampling.top_p < 1:
            chain.append(TopPLogitsWarper(sampling.top_p))
        chain.append(_Draw(seeds, padding.device))
    return chain


class _First(LogitsProcessor):
    """Keep each row's likeliest first tokens with their log probabilities. Stands before all that changes them."""

    def __init__(self, count: int):
        self.count = count
        self.found: list[list[tuple[int, float]]] = []

    def __call__(self, _input_ids: Tensor, scores: Tensor) -> Tensor:
        if not self.found:
            likely = scores.float().log_softmax(-1).topk(min(self.count, scores.shape[-1]))
            rows = zip(likely.indices.tolist(), likely.values.tolist(), strict=True)
            self.found = [list(zip(tokens, logprobs, strict=True)) for tokens, logprobs in rows]
        return scores


class _Penalties(LogitsProcessor):
    """Subtract from every token that has been generated, once and for each time, as the OpenAI API defines it."""

    def __init__(self, presence: float, frequency: float, prompt_length: int):
        self.presence, self.frequency, self.prompt_length = presence, frequency, prompt_length

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        written = input_ids[:, self.prompt_length :]
        times = torch.zeros_like(scores).scatter_add_(1, written, torch.ones_like(written, dtype=scores.dtype))
        return scores - self.presence * (times > 0).to(scores.dtype) - self.frequency * times


class _Draw(LogitsProcessor):
    """Add Gumbel noise from one generator a row: the largest sum is then a draw from the softmax (Gumbel 1954)."""

    def __init__(self, seeds: list[int], device: torch.device | str = "cpu"):
        self.device = device
        self.generators = [torch.Generator(device).manual_seed(seed % 2**63) for seed in seeds]

    def __call__(self, _input_ids: Tensor, scores: Tensor) -> Tensor:
        noise = torch.stack([torch.rand(scores.shape[1], generator=g, device=self.device) for g in self.generators])
        return scores - torch.log(-torch.log(noise.clamp_(1e-20, 1 - 1e-7))).to(scores.device)
