"""Settings of the teacher's generation: the engine, sampling, instructions and responses."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from montessori.settings.base import NOT_IN_FINGERPRINT, Frozen
from montessori.settings.engines import MAX_FAILED, MaxFailed, OpenAI, Vllm


class Sampling(Frozen):
    """How a model draws its next token, as in vLLM.

    The presence and frequency penalties count generated tokens. The repetition penalty counts the prompt's too.
    """

    temperature: float = Field(1.0, ge=0, description="Temperature of the draw. 0 is greedy.")
    top_p: float = Field(0.9, gt=0, le=1, description="Probability of the tokens to draw from. Paper: 0.9.")
    presence_penalty: float = Field(
        1.0, ge=-2, le=2, description="Subtracted from the logit of each generated token. Paper: 1.0."
    )
    frequency_penalty: float = Field(
        0.0, ge=-2, le=2, description="Subtracted from a token's logit once for each time that it was generated."
    )
    repetition_penalty: float = Field(
        1.0, gt=0, description="Weakens tokens of the prompt and of the text so far. 1 is no penalty."
    )
    max_tokens: int = Field(1024, ge=1, description="Most tokens to generate for a prompt. Paper: 1024.")
    stop: tuple[Annotated[str, Field(min_length=1)], ...] = Field(
        (), description="Texts that end the generation. They are not part of it."
    )
    # Omitted from the dump when 0, so that older fingerprints stay valid.
    top_logprobs: int = Field(
        0,
        ge=0,
        le=20,
        exclude_if=lambda count: count == 0,
        description="Number of log probabilities to keep of the first token.",
    )


class InstructionSampling(Sampling):
    """How the teacher draws instructions."""

    repetition_penalty: float = Field(
        1.5, gt=0, description="Weakens tokens of the prompt and of the text so far. 1 is no penalty. Paper: 1.5."
    )


class ResponseSampling(Sampling):
    """How a model draws responses."""

    temperature: float = Field(0.6, ge=0, description="Temperature of the draw. 0 is greedy. Paper: 0.6.")


class Instructions(Frozen):
    """How the teacher generates new instructions from a few-shot prompt, and which are kept."""

    seed_shots: int = Field(6, ge=1, description="Few-shot examples from the seeds in a prompt. Paper: 6.")
    generated_shots: int = Field(
        2, ge=0, description="Few-shot examples from the instructions generated so far in a prompt. Paper: 2."
    )
    samples_per_prompt: int = Field(4, ge=1, description="Generations for each prompt. Paper: 4.")
    prompts_per_round: int = Field(
        256,
        ge=1,
        description="Most prompts in a round. The last round sends as many as the yield so far calls for.",
    )
    min_yield: float = Field(
        0.01,
        ge=0,
        lt=1,
        description="The task fails when the share of generations kept over the last three rounds is this small.",
    )
    sampling: InstructionSampling = Field(InstructionSampling(), description="How the teacher draws tokens.")
    min_characters: int = Field(
        6, ge=1, description="Shortest instruction to keep, in characters. Paper: those of five or fewer are dropped."
    )
    max_characters: int = Field(400, ge=1, description="Longest instruction to keep, in characters.")
    forbidden_words: tuple[str, ...] = Field(
        (
            "image", "images", "graph", "graphs", "picture", "pictures", "file", "files",
            "map", "maps", "draw", "plot", "go to",
        ),
        description="Instructions with one of these words are dropped, since a language model cannot follow them.",
    )  # fmt: skip
    max_rouge_l: float = Field(
        0.7,
        ge=0,
        le=1,
        description="Instructions with a higher ROUGE-L to an earlier one are dropped. Self-Instruct (arXiv "
        "2212.10560), section 2.2: 0.7.",
    )


class Responses(Frozen):
    """How the teacher answers its own instructions."""

    sampling: ResponseSampling = Field(ResponseSampling(), description="How the teacher draws tokens.")
    shards: int = Field(1, ge=1, description="Number of tasks that share the instructions.")
    samples: int = Field(
        4,
        ge=2,
        description="Answers to each instruction where a teacher learns to answer. Self-Reward (arXiv 2401.10020): 4.",
    )
    samples_temperature: float | None = Field(
        None, gt=0, description="Temperature of these answers. Null: sampling.temperature."
    )


class Generation(Frozen):
    """Which engine the teacher generates with."""

    engine: Literal["auto", "transformers", "vllm", "openai"] = Field(
        "auto",
        description="Engine of the teacher. `auto`: vLLM where there is a GPU and vLLM's environment, else "
        "Transformers.",
    )
    tuned_engine: Literal["auto", "transformers", "vllm"] = Field(
        "auto", description="Engine of the tuned teacher where `engine` is openai."
    )
    batch_size: int = Field(64, ge=1, description="Prompts in a batch of the Transformers engine.")
    context: int | None = Field(
        None, ge=16, description="Most tokens of a prompt and its answer together. Null: as many as the model allows."
    )
    remove_thinking: bool = Field(
        True, description="Remove `<think>…</think>` from generated texts, so that it is in no training data."
    )
    max_failed: MaxFailed = MAX_FAILED
    openai: OpenAI = Field(OpenAI(), description="The endpoint where `engine` is openai.")
    vllm: Annotated[Vllm, NOT_IN_FINGERPRINT] = Field(Vllm(), description="Settings of vLLM.")

    @model_validator(mode="after")
    def _openai_needs_a_model(self) -> Self:
        if self.engine == "openai" and not self.openai.model:
            raise ValueError("openai.model is missing: the name that the endpoint knows the model by")
        return self
