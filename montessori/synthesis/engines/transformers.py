"""Generate with a transformers model: the engine for a CPU and for small models.

Every sample has a random generator of its own, so its text does not depend on the rest of its batch (except for a
rounding tie). At temperature 0 it is the text of `model.generate(do_sample=False)` for the prompt alone.

Prompts of similar length run together where the model takes padding (montessori.models.families), and the samples of
one prompt share its prefill. Elsewhere transformers' own cache serves prompts of one length, or one answer at a time.
"""

from bisect import bisect_left
from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from typing import Any

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

from montessori.data.chat import Message, endings
from montessori.models.families import batching, context_of, rotation_change
from montessori.settings.generation import Sampling
from montessori.synthesis.engines import Answer, Generation, MayStart, merge_by_text, no_limit
from montessori.synthesis.engines.prompts import encode_prompts


class TransformersEngine:
    """Generate with a loaded model."""

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        batch_size: int = 64,
        context: int | None = None,
    ):
        self.model, self.tokenizer, self.batch_size = model, tokenizer, batch_size
        self.context = min(context or context_of(model), context_of(model))
        self.batching = batching(model)

    def generate(
        self,
        prompts: Sequence[Sequence[Message]],
        sampling: Sampling,
        samples: int,
        seeds: Sequence[int],
        *,
        done: Collection[int] = (),
        may_start: MayStart = no_limit,
    ) -> Iterator[tuple[int, Answer]]:
        """Yield the answers batch by batch, short prompts first, see `Engine`.

        The batches do not depend on `done`: a batch with a missing prompt is run whole.
        """
        encoded = encode_prompts(self.tokenizer, prompts, self.context, sampling)
        if prompts:
            self._endings = endings(self.tokenizer, prompts[0])
            sampling = sampling.model_copy(update={"stop": (*sampling.stop, *self._endings.texts)})
        for batch in self._batches([len(prompt.ids) for prompt in encoded], sampling):
            missing = [i for i in batch if i not in done]
            if not missing:
                continue
            if not may_start(len(missing) - 1):
                return
            answers = self._answers([encoded[i].ids for i in batch], sampling, samples, [seeds[i] for i in batch])
            yield from (
                (i, Answer(generations, len(encoded[i].ids), encoded[i].cut))
                for i, generations in zip(batch, answers, strict=True)
                if i not in done
            )

    def _batches(self, lengths: list[int], sampling: Sampling) -> Iterator[list[int]]:
        """Yield the numbers of the prompts that run together, short prompts first."""
        size = 1 if self.batching == "alone" else self.batch_size
        batch: list[int] = []
        for i in sorted(range(len(lengths)), key=lengths.__getitem__):
            fits = self._may_pad(lengths[i], sampling) or lengths[i] == lengths[(batch or [i])[0]]
            if len(batch) == size or not fits:
                yield batch
                batch = []
            batch.append(i)
        if batch:
            yield batch

    def _may_pad(self, length: int, sampling: Sampling) -> bool:
        """Return whether shorter prompts may be padded to `length` tokens."""
        return self.batching == "padded" and length + sampling.max_tokens <= rotation_change(self.model)

    def _answers(
        self, ids: list[list[int]], sampling: Sampling, samples: int, seeds: list[int]
    ) -> Iterator[list[Generation]]:
        """Yield the generations for each prompt. Sample `number` of a prompt draws from `seed * samples + number`."""
        if self.batching != "alone":
            yield from self._batch(ids, sampling, samples, seeds)
            return
        for prompt, seed in zip(ids, seeds, strict=True):
            each = (self._batch([prompt], sampling, 1, [seed * samples + number]) for number in range(samples))
            yield [generation for ((generation,),) in each]

    @torch.inference_mode()
    def _batch(
        self, ids: list[list[int]], sampling: Sampling, samples: int, seeds: list[int]
    ) -> Iterator[list[Generation]]:
        device, longest = self.model.device, max(map(len, ids))
        pad = self.tokenizer.pad_token_id
        input_ids = torch.tensor([[pad] * (longest - len(i)) + i for i in ids], device=device)
        mask = torch.tensor([[0] * (longest - len(i)) + [1] * len(i) for i in ids], device=device)
        cache: dict[str, Any] = {}
        if self._may_pad(longest, sampling):  # of fixed size: a growing cache is copied at every token
            cache = {"past_key_values": StaticCache(self.model.config, max_cache_len=longest + sampling.max_tokens)}
            if longest > 1:
                self._prefill(cache["past_key_values"], input_ids[:, :-1], mask[:, :-1], samples)
        processors = _processors(
            sampling,
            longest,
            padding=(longest - mask.sum(-1)).repeat_interleave(samples),
            seeds=[seed * samples + number for seed in seeds for number in range(samples)],
        )
        first = _FirstTokens(sampling.top_logprobs)
        if sampling.top_logprobs:
            processors.insert(0, first)
        out = self.model.generate(
            input_ids=input_ids.repeat_interleave(samples, 0),
            attention_mask=mask.repeat_interleave(samples, 0),
            **cache,
            disable_compile=True,
            max_new_tokens=sampling.max_tokens,
            do_sample=False,  # _GumbelSampler below samples
            use_cache=True,  # this and the next four lines: ignore the model's own generation settings
            num_beams=1,
            min_length=0,
            repetition_penalty=1.0,
            no_repeat_ngram_size=0,
            logits_processor=processors,
            stopping_criteria=StoppingCriteriaList(
                [_StopText(self.tokenizer, sampling.stop, longest)] if sampling.stop else []
            ),
            pad_token_id=pad,
            eos_token_id=self._end_tokens(),
        )[:, longest:]
        likely = [self._texts(tokens) for tokens in first.likely] if sampling.top_logprobs else [None] * len(out)
        for start in range(0, len(out), samples):
            end = start + samples
            yield [
                replace(self._generation(row, sampling), first=tokens)
                for row, tokens in zip(out[start:end].tolist(), likely[start:end], strict=True)
            ]

    def _prefill(self, cache: StaticCache, input_ids: Tensor, mask: Tensor, samples: int) -> None:
        """Read each prompt (`[batch, seq]`) once, and copy its keys and values to all of its samples."""
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

    def _end_tokens(self) -> list[int]:
        """Return the tokens that end an answer, by the model's generation settings, the tokenizer and its template."""
        ends = self.model.generation_config.eos_token_id
        ends = ends if isinstance(ends, list) else [ends]
        return sorted({e for e in ends if e is not None} | self._endings.ids)

    def _texts(self, tokens: list[tuple[int, float]]) -> dict[str, float]:
        return merge_by_text((str(self.tokenizer.decode([token])), logprob) for token, logprob in tokens)

    def _generation(self, row: list[int], sampling: Sampling) -> Generation:
        ends = set(self._end_tokens())
        end = next((i for i, token in enumerate(row) if token in ends), None)
        answer = row[:end]
        text = _text(self.tokenizer, answer)
        if _find_stop(text, sampling.stop) is None:
            return Generation(text, "length" if end is None else "stop", len(row) if end is None else end + 1)
        # The tokens after the stop text are padding, or were generated before it was detected.
        tokens = bisect_left(
            range(len(answer)),
            True,
            key=lambda n: _find_stop(_text(self.tokenizer, answer[:n]), sampling.stop) is not None,
        )
        text = _text(self.tokenizer, answer[:tokens])
        return Generation(text[: _find_stop(text, sampling.stop)], "stop", tokens)


def _text(tokenizer: PreTrainedTokenizerBase, tokens: list[int]) -> str:
    return str(tokenizer.decode(tokens, skip_special_tokens=True))


def _find_stop(text: str, stop: tuple[str, ...]) -> int | None:
    """Return the position in `text` of the first stop text, or None."""
    return min((at for stop_text in stop if (at := text.find(stop_text)) >= 0), default=None)


class _StopText(StopStringCriteria):
    """Detect a stop text: transformers finds candidates, and the decoded answer decides.

    transformers alone would also stop for a stop text that begins in the prompt, or that only a special token's name
    contains.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, stop: tuple[str, ...], prompt_length: int):
        super().__init__(tokenizer, list(stop))
        self.tokenizer, self.prompt_length = tokenizer, prompt_length

    def __call__(self, input_ids: Tensor, scores: Tensor, **_kwargs: object) -> Tensor:
        stopped: Tensor = super().__call__(input_ids, scores)
        for row in stopped.nonzero().flatten().tolist():
            text = _text(self.tokenizer, input_ids[row, self.prompt_length :].tolist())
            stopped[row] = _find_stop(text, self.stop_strings) is not None
        return stopped


def _processors(sampling: Sampling, prompt_length: int, padding: Tensor, seeds: list[int]) -> LogitsProcessorList:
    chain = LogitsProcessorList()
    if sampling.repetition_penalty != 1:  # like vLLM's it counts the prompt too, but not its padding
        chain.append(RepetitionPenaltyLogitsProcessor(sampling.repetition_penalty, prompt_ignore_length=padding))
    if sampling.presence_penalty or sampling.frequency_penalty:
        chain.append(_Penalties(sampling.presence_penalty, sampling.frequency_penalty, prompt_length))
    if sampling.temperature > 0:
        if sampling.temperature != 1:
            chain.append(TemperatureLogitsWarper(sampling.temperature))
        if sampling.top_p < 1:
            chain.append(TopPLogitsWarper(sampling.top_p))
        chain.append(_GumbelSampler(seeds, padding.device))
    return chain


class _FirstTokens(LogitsProcessor):
    """Record each row's likeliest first tokens with their log probabilities. Runs before every other processor."""

    def __init__(self, count: int):
        self.count = count
        self.likely: list[list[tuple[int, float]]] = []

    def __call__(self, _input_ids: Tensor, scores: Tensor) -> Tensor:
        if not self.likely:
            top = scores.float().log_softmax(-1).topk(min(self.count, scores.shape[-1]))
            rows = zip(top.indices.tolist(), top.values.tolist(), strict=True)
            self.likely = [list(zip(tokens, logprobs, strict=True)) for tokens, logprobs in rows]
        return scores


class _Penalties(LogitsProcessor):
    """Subtract the presence and frequency penalties from generated tokens, as the OpenAI API defines them.

    The presence penalty counts once for a token, the frequency penalty once for each occurrence.
    """

    def __init__(self, presence: float, frequency: float, prompt_length: int):
        self.presence, self.frequency, self.prompt_length = presence, frequency, prompt_length

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        generated = input_ids[:, self.prompt_length :]
        times = torch.zeros_like(scores).scatter_add_(1, generated, torch.ones_like(generated, dtype=scores.dtype))
        return scores - self.presence * (times > 0).to(scores.dtype) - self.frequency * times


class _GumbelSampler(LogitsProcessor):
    """Add Gumbel noise from one generator per row: the largest sum is a sample from the softmax (Gumbel 1954)."""

    def __init__(self, seeds: list[int], device: torch.device | str = "cpu"):
        self.device = device
        self.generators = [torch.Generator(device).manual_seed(seed % 2**63) for seed in seeds]

    def __call__(self, _input_ids: Tensor, scores: Tensor) -> Tensor:
        noise = torch.stack([torch.rand(scores.shape[1], generator=g, device=self.device) for g in self.generators])
        return scores - torch.log(-torch.log(noise.clamp_(1e-20, 1 - 1e-7))).to(scores.device)
