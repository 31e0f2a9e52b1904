"""Generation with vLLM: the engine for GPUs and for thousands of prompts. Runs in vLLM's own environment.

All prompts are handed over at once; vLLM batches them as they come and go, and reads a head that they share once.
"""

import os
from collections.abc import Collection, Iterator, Sequence

# Before vllm is imported. In this process: nothing outlives it, and its memory comes back with it.
for _name, _value in {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",  # or every engine binds itself to the same cores
    "VLLM_CPU_KVCACHE_SPACE": "1",  # GiB
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
}.items():
    os.environ.setdefault(_name, _value)

import torch
from transformers import PreTrainedTokenizerBase
from vllm import SamplingParams
from vllm.engine.arg_utils import EngineArgs
from vllm.outputs import CompletionOutput
from vllm.sampling_params import RequestOutputKind
from vllm.v1.engine.llm_engine import LLMEngine

from montessori.data.chat import Message
from montessori.errors import InputError
from montessori.models.loading import hub_revision
from montessori.settings.schema import Sampling
from montessori.synthesis.engines import Answer, Generation, MayAsk, always, by_text
from montessori.synthesis.engines.tokens import encode

WINDOW = 1024  # prompts handed over at once: more than vLLM runs side by side
CPU_MEMORY_SHARE = 0.3  # the default counts what other processes use as its own, and fails


class VllmEngine:
    """A model loaded by vLLM."""

    def __init__(
        self,
        source: str,
        tokenizer: PreTrainedTokenizerBase,
        dtype: str,
        trust_remote_code: bool,
        context: int | None,
        gpu_memory_utilization: float,
        block: str = "generation.",
    ):
        """`block` is where the settings have `context` and `vllm`, for the errors; "" has no context."""
        name, revision = hub_revision(source)
        cpu = not torch.cuda.is_available()
        try:
            self._engine = LLMEngine.from_engine_args(
                EngineArgs(
                    model=name,
                    revision=revision,
                    tokenizer_revision=revision,
                    dtype=dtype,
                    trust_remote_code=trust_remote_code,
                    max_model_len=context,
                    load_format="safetensors",
                    generation_config="vllm",  # not what the model's own generation settings say
                    enable_prefix_caching=True,
                    gpu_memory_utilization=CPU_MEMORY_SHARE if cpu else gpu_memory_utilization,
                    enforce_eager=cpu,  # compiling takes 30 s there, longer than a small round
                    enable_chunked_prefill=not cpu,  # there vLLM 0.32 fails on a seeded request that it reads in parts
                    disable_log_stats=True,
                )
            )
        except ValueError as error:
            said = " ".join(str(error).split())[:400]
            raise InputError(
                f"{source}: vLLM cannot serve it ({said}); where memory is short, "
                f"{f'lower {block}context, or ' if block else ''}set {block}vllm.gpu_memory_utilization to what is free"
            ) from error
        self._tokenizer = tokenizer
        self._context = int(self._engine.model_config.max_model_len)
        self._asked = 0

    def generate(
        self,
        prompts: Sequence[Sequence[Message]],
        sampling: Sampling,
        samples: int,
        seeds: Sequence[int],
        done: Collection[int] = (),
        may_ask: MayAsk = always,
    ) -> Iterator[tuple[int, Answer]]:
        """Each answer when its last sample has ended; see `Engine`."""
        read = encode(self._tokenizer, prompts, self._context, sampling)
        waiting = [i for i in reversed(range(len(read))) if i not in done]
        under_way: dict[str, int] = {}
        try:
            while True:
                while waiting and len(under_way) < WINDOW and may_ask(len(under_way)):
                    i = waiting.pop()
                    self._asked += 1
                    parameters = _parameters(sampling, samples, seeds[i])
                    self._engine.add_request(str(self._asked), {"prompt_token_ids": read[i].ids}, parameters)
                    under_way[str(self._asked)] = i
                if not under_way:
                    return
                for output in self._engine.step():
                    if output.finished:
                        i = under_way.pop(output.request_id)
                        outputs = sorted(output.outputs, key=lambda one: one.index)
                        texts = [_generation(one, sampling.top_logprobs) for one in outputs]
                        every = texts if sampling.temperature else texts * samples  # greedy: all would be the same
                        yield i, Answer(every, len(read[i].ids), read[i].cut)
        finally:
            self._engine.abort_request(list(under_way))


def _parameters(sampling: Sampling, samples: int, seed: int) -> SamplingParams:
    return SamplingParams(
        n=1 if sampling.temperature == 0 else samples,
        temperature=sampling.temperature,
        top_p=sampling.top_p if sampling.temperature else 1.0,
        presence_penalty=sampling.presence_penalty,
        frequency_penalty=sampling.frequency_penalty,
        repetition_penalty=sampling.repetition_penalty,
        max_tokens=sampling.max_tokens,
        stop=list(sampling.stop),
        logprobs=sampling.top_logprobs or None,  # raw ones: vLLM's default since its V1 engine
        seed=seed,
        output_kind=RequestOutputKind.FINAL_ONLY,
    )


def _generation(output: CompletionOutput, top_logprobs: int) -> Generation:
    first = None
    if output.logprobs:  # the token that was drawn is always there, likely or not
        likely = sorted(output.logprobs[0].values(), key=lambda one: one.logprob, reverse=True)[:top_logprobs]
        first = by_text((one.decoded_token or "", one.logprob) for one in likely)
    return Generation(output.text, output.finish_reason or "stop", len(output.token_ids), first)
