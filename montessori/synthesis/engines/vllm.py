"""Generate with vLLM: the engine for GPUs and for thousands of prompts. Runs in vLLM's own environment.

All prompts are queued at once. vLLM batches them continuously, and reads a shared prefix once.
"""

import os
from collections.abc import Collection, Iterator, Sequence

# Set before vllm is imported. The engine runs in this process, so nothing outlives it and its memory is freed with it.
for _name, _value in {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",  # otherwise every engine binds itself to the same cores
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

from montessori.data.chat import Endings, Message, endings
from montessori.errors import InputError
from montessori.models.loading import hub_revision
from montessori.settings.generation import Sampling
from montessori.synthesis.engines import Answer, Generation, MayStart, merge_by_text, no_limit
from montessori.synthesis.engines.prompts import encode_prompts

WINDOW = 1024  # prompts in vLLM's queue: more than it runs at the same time
CPU_MEMORY_SHARE = 0.3  # with the default, vLLM counts other processes' memory as its own and fails


class VllmEngine:
    """Generate with a model that vLLM has loaded."""

    def __init__(
        self,
        source: str,
        tokenizer: PreTrainedTokenizerBase,
        *,
        dtype: str,
        trust_remote_code: bool,
        context: int | None,
        gpu_memory_utilization: float,
        block: str = "generation.",
    ):
        """Load the model. `block` is the settings block of `context` and `vllm`, for error messages; "" has no context.

        Raises InputError when vLLM cannot serve the model.
        """
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
                    generation_config="vllm",  # ignore the model's own generation settings
                    enable_prefix_caching=True,
                    gpu_memory_utilization=CPU_MEMORY_SHARE if cpu else gpu_memory_utilization,
                    enforce_eager=cpu,  # compiling takes 30 s on a CPU, longer than a small round
                    enable_chunked_prefill=not cpu,  # on a CPU vLLM 0.32 fails on a seeded request read in chunks
                    disable_log_stats=True,
                )
            )
        except ValueError as error:
            reason = " ".join(str(error).split())[:400]
            raise InputError(
                f"{source}: vLLM cannot serve it ({reason}); where memory is short, "
                f"{f'lower {block}context, or ' if block else ''}set {block}vllm.gpu_memory_utilization to what is free"
            ) from error
        self._tokenizer = tokenizer
        self._context = int(self._engine.model_config.max_model_len)
        self._requests = 0

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
        """Yield each answer when its last sample has ended, see `Engine`."""
        encoded = encode_prompts(self._tokenizer, prompts, self._context, sampling)
        ends = endings(self._tokenizer, prompts[0]) if prompts else Endings(frozenset(), ())
        waiting = [i for i in reversed(range(len(encoded))) if i not in done]
        running: dict[str, int] = {}
        try:
            while True:
                while waiting and len(running) < WINDOW and may_start(len(running)):
                    i = waiting.pop()
                    self._requests += 1
                    parameters = _parameters(sampling, samples, seeds[i], ends)
                    self._engine.add_request(str(self._requests), {"prompt_token_ids": encoded[i].ids}, parameters)
                    running[str(self._requests)] = i
                if not running:
                    return
                for output in self._engine.step():
                    if output.finished:
                        i = running.pop(output.request_id)
                        outputs = sorted(output.outputs, key=lambda output: output.index)
                        texts = [_generation(sample, sampling.top_logprobs) for sample in outputs]
                        if not sampling.temperature:
                            texts *= samples  # greedy: one text was generated, and all samples equal it
                        yield i, Answer(texts, len(encoded[i].ids), encoded[i].cut)
        finally:
            self._engine.abort_request(list(running))


def _parameters(sampling: Sampling, samples: int, seed: int, ends: Endings) -> SamplingParams:
    return SamplingParams(
        n=1 if sampling.temperature == 0 else samples,
        temperature=sampling.temperature,
        top_p=sampling.top_p if sampling.temperature else 1.0,
        presence_penalty=sampling.presence_penalty,
        frequency_penalty=sampling.frequency_penalty,
        repetition_penalty=sampling.repetition_penalty,
        max_tokens=sampling.max_tokens,
        stop=[*sampling.stop, *ends.texts],
        stop_token_ids=sorted(ends.ids),
        logprobs=sampling.top_logprobs or None,  # before sampling settings: vLLM's default since its V1 engine
        seed=seed,
        output_kind=RequestOutputKind.FINAL_ONLY,
    )


def _generation(output: CompletionOutput, top_logprobs: int) -> Generation:
    first = None
    if output.logprobs:  # vLLM always includes the sampled token, likely or not
        likely = sorted(output.logprobs[0].values(), key=lambda token: token.logprob, reverse=True)[:top_logprobs]
        first = merge_by_text((token.decoded_token or "", token.logprob) for token in likely)
    return Generation(output.text, output.finish_reason or "stop", len(output.token_ids), first)
