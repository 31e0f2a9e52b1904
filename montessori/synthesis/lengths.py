"""Predict the lengths of prompts and texts before any is generated, with the teacher's tokenizer.

In: settings and seeds.  Out: mean tokens of a prompt and of a text, and the assumptions. The teacher's texts are
assumed to be as long as the seeds and their answers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import TYPE_CHECKING, TypeVar

from montessori.data import rows
from montessori.data.chat import Message, prompt_ids, user
from montessori.data.rows import Row
from montessori.extras import require
from montessori.settings.models import Scratch
from montessori.settings.run import Settings
from montessori.synthesis.instructions import build_prompt
from montessori.synthesis.prompts import parse_instruction, teacher_output

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

T = TypeVar("T")
SAMPLE_SIZE = 64  # prompts, seeds and answers to measure
CHARACTERS_PER_TOKEN = 4.0  # in English text with a large vocabulary
TEMPLATE_TOKENS = 8  # tokens that a chat template adds to a prompt
RATIONALE = "It trains to explain in plain words how two things that look alike differ from each other."
ANSWER_SHARE = 0.25  # mean answer as a share of max_tokens, when no seed has an answer


@dataclass(frozen=True)
class Lengths:
    """Hold mean numbers of tokens, as the teacher's tokenizer counts them."""

    prompt: float  # few-shot
    text: float  # a rationale and an instruction
    instruction: float  # as a prompt
    response: float
    assumed: tuple[str, ...] = ()  # each assumption, as text for the user


@dataclass(frozen=True)
class _Sample:
    """Hold the teacher's tokenizer, or an approximation, and texts like those that the teacher will generate."""

    tokens_in_text: Callable[[str], float]
    tokens_in_chat: Callable[[Sequence[Message]], float]
    texts: list[str]
    answers: list[str]
    assumed: str | None = None


def expected_lengths(settings: Settings) -> Lengths:
    """Return the expected lengths under `settings`."""
    assumed = []
    seeds = _seeds(settings)
    if not seeds:
        seeds = [{"id": str(n), "instruction": "x" * 60, "response": "x" * 240} for n in range(SAMPLE_SIZE)]
        assumed.append("seeds of 60 characters with answers of 240: the hub was not asked")
    sample = _sample_texts(settings, seeds)
    if sample.assumed:
        assumed.append(sample.assumed)
    prompts = [build_prompt(f"estimate-{n}", seeds, [], settings.instructions)["messages"] for n in range(SAMPLE_SIZE)]
    answers = [1 + sample.tokens_in_text(text) for text in _spread(sample.answers)]  # plus the end token
    most = settings.responses.sampling.max_tokens
    if not answers:
        assumed.append(f"answers of {ANSWER_SHARE:.0%} of responses.sampling.max_tokens: the seeds have none")
        answers = [ANSWER_SHARE * most]
    return Lengths(
        prompt=mean(sample.tokens_in_chat(prompt) for prompt in prompts),
        text=mean(
            min(settings.instructions.sampling.max_tokens, 1 + sample.tokens_in_text(text))
            for text in _spread(sample.texts)
        ),
        instruction=mean(sample.tokens_in_chat(user(row["instruction"])) for row in _spread(seeds)),
        response=mean(min(most, tokens) for tokens in answers),
        assumed=tuple(assumed),
    )


def _spread(items: list[T]) -> list[T]:
    return items[:: -(-len(items) // SAMPLE_SIZE) or 1]


def _seeds(settings: Settings) -> list[Row]:
    if settings.seeds.source == "pocket":
        from montessori.pocket import world

        return world.seeds(settings.pocket.seeds, settings.seed)
    return rows.read(settings.seeds, "seeds", "optional") if rows.is_file(settings.seeds) else []


def _sample_texts(settings: Settings, seeds: list[Row]) -> _Sample:
    teacher = settings.teacher
    texts = [teacher_output(RATIONALE, row["instruction"]) for row in seeds]
    answers = [row["response"] for row in seeds if row["response"]]
    if teacher and teacher.scratch and settings.generation.engine != "openai":
        return _scratch_sample(teacher.scratch, settings, seeds)
    if teacher and (folder := Path(teacher.source).expanduser()).is_dir():
        require("score", purpose=f"the tokenizer of {teacher.source}")
        from montessori.models.loading import load_tokenizer

        return _tokenizer_sample(load_tokenizer(folder, teacher.trust_remote_code, teacher.chat), texts, answers)
    return _Sample(
        tokens_in_text=lambda text: len(text) / CHARACTERS_PER_TOKEN,
        tokens_in_chat=lambda chat: (
            TEMPLATE_TOKENS + sum(len(message["content"]) for message in chat) / CHARACTERS_PER_TOKEN
        ),
        texts=texts,
        answers=answers,
        assumed=f"{CHARACTERS_PER_TOKEN:g} characters a token",
    )


def _scratch_sample(shape: Scratch, settings: Settings, seeds: list[Row]) -> _Sample:
    """Build the vocabulary and the training texts of a teacher trained from scratch."""
    require("score", purpose="the tokenizer of a teacher from scratch")
    from montessori.pocket import scratch, world

    if settings.seeds.source == "pocket":
        conversations = world.teacher_conversations(scratch.conversation_count(shape), settings.seed)
    else:
        conversations = scratch.alpaca_teacher_conversations(seeds, shape.steps * shape.batch_size, settings.seed)
    _, tokenizer = scratch.build(conversations, shape, settings.seed)
    outputs = [conversation[-1]["content"] for conversation in conversations]
    texts = [text for text in outputs if parse_instruction(text)]
    return _tokenizer_sample(tokenizer, texts, [text for text in outputs if not parse_instruction(text)])


def _tokenizer_sample(tokenizer: PreTrainedTokenizerBase, texts: list[str], answers: list[str]) -> _Sample:
    def count(text: str) -> float:
        return len(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])

    return _Sample(count, lambda chat: len(prompt_ids(tokenizer, [chat])[0]), texts, answers)
