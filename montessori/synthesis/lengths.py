"""How long prompts and texts will be, before any is written: the teacher's tokenizer on prompts made of the seeds.

In: settings and seeds.  Out: mean tokens of a prompt and of a text, and what of it is assumed. What the teacher will
write is taken to be as long as the seeds and their answers are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import TYPE_CHECKING, TypeVar

from montessori.data import rows
from montessori.data.chat import Message, render_prompt, user
from montessori.data.rows import Row
from montessori.settings.schema import Scratch, Settings
from montessori.synthesis.instructions import prompt_for
from montessori.synthesis.parsing import instruction_of
from montessori.synthesis.prompts import teacher_output

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

T = TypeVar("T")
SAMPLED = 64  # prompts, seeds and answers looked at
CHARACTERS_A_TOKEN = 4.0  # of English text with a large vocabulary
TEMPLATE_TOKENS = 8  # what a chat template adds to a prompt
RATIONALE = "It trains to explain in plain words how two things that look alike differ from each other."
ANSWER_SHARE = 0.25  # of max_tokens, where no seed has an answer


@dataclass(frozen=True)
class Lengths:
    """Mean tokens, as the teacher counts them."""

    prompt: float  # few-shot
    text: float  # a rationale and an instruction
    instruction: float  # as a prompt
    response: float
    assumed: tuple[str, ...] = ()  # in words


@dataclass(frozen=True)
class _Reader:
    """The teacher's tokenizer, or what stands for it, and texts like those that the teacher will write."""

    text: Callable[[str], float]
    chat: Callable[[Sequence[Message]], float]
    texts: list[str]
    answers: list[str]
    assumed: str | None = None


def expected(settings: Settings) -> Lengths:
    """The lengths to expect under `settings`."""
    asked, assumed = settings.instructions, []
    seeds = _seeds(settings)
    if not seeds:
        seeds = [{"id": str(n), "instruction": "x" * 60, "response": "x" * 240} for n in range(SAMPLED)]
        assumed.append("seeds of 60 characters with answers of 240: the hub was not asked")
    reader = _reader(settings, seeds)
    if reader.assumed:
        assumed.append(reader.assumed)
    prompts = [prompt_for(f"estimate-{n}", seeds, [], asked)["messages"] for n in range(SAMPLED)]
    answers = [1 + reader.text(text) for text in _some(reader.answers)]  # and the token that ends it
    most = settings.responses.sampling.max_tokens
    if not answers:
        assumed.append(f"answers of {ANSWER_SHARE:.0%} of responses.sampling.max_tokens: the seeds have none")
        answers = [ANSWER_SHARE * most]
    return Lengths(
        prompt=mean(reader.chat(prompt) for prompt in prompts),
        text=mean(min(asked.sampling.max_tokens, 1 + reader.text(text)) for text in _some(reader.texts)),
        instruction=mean(reader.chat(user(row["instruction"])) for row in _some(seeds)),
        response=mean(min(most, tokens) for tokens in answers),
        assumed=tuple(assumed),
    )


def _some(items: list[T]) -> list[T]:
    return items[:: -(-len(items) // SAMPLED) or 1]


def _seeds(settings: Settings) -> list[Row]:
    if settings.seeds.source == "pocket":
        from montessori.pocket import world

        return world.seeds(settings.pocket.seeds, settings.seed)
    return rows.read(settings.seeds, "seeds") if rows.is_file(settings.seeds) else []


def _reader(settings: Settings, seeds: list[Row]) -> _Reader:
    teacher = settings.teacher
    texts = [teacher_output(RATIONALE, row["instruction"]) for row in seeds]
    answers = [row["response"] for row in seeds if row["response"]]
    if teacher and teacher.scratch and settings.generation.engine != "openai":
        return _scratch_reader(teacher.scratch, settings, seeds)
    if teacher and (folder := Path(teacher.source).expanduser()).is_dir():
        from montessori.models.loading import load_tokenizer

        return _by(load_tokenizer(folder, teacher.trust_remote_code), texts, answers)
    return _Reader(
        lambda text: len(text) / CHARACTERS_A_TOKEN,
        lambda chat: TEMPLATE_TOKENS + sum(len(message["content"]) for message in chat) / CHARACTERS_A_TOKEN,
        texts,
        answers,
        f"{CHARACTERS_A_TOKEN:g} characters a token",
    )


def _scratch_reader(shape: Scratch, settings: Settings, seeds: list[Row]) -> _Reader:
    """The vocabulary that a teacher from nothing will learn, and what it will learn to write."""
    from montessori.pocket import scratch, world

    if settings.seeds.source == "pocket":
        conversations = world.teacher_conversations(scratch.conversations_seen(shape), settings.seed)
    else:
        conversations = scratch.alpaca_teacher_conversations(seeds, shape.steps * shape.batch_size, settings.seed)
    _, tokenizer = scratch.build(conversations, shape, settings.seed)
    written = [conversation[-1]["content"] for conversation in conversations]
    texts = [text for text in written if instruction_of(text)]
    return _by(tokenizer, texts, [text for text in written if not instruction_of(text)])


def _by(tokenizer: PreTrainedTokenizerBase, texts: list[str], answers: list[str]) -> _Reader:
    def count(text: str) -> float:
        return len(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])

    return _Reader(count, lambda chat: count(render_prompt(tokenizer, chat)), texts, answers)
