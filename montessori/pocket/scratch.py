"""Build and train a Llama from scratch on a few thousand conversations, in a minute on one core.

In: conversations and `Scratch` settings.  Out: a model with its own byte-level BPE tokenizer, and its training log.
"""

import math
import random
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from montessori import progress
from montessori.data.chat import Example, Message, encode, prompt_of
from montessori.errors import InputError, StageError
from montessori.pocket.muon import Muon
from montessori.settings.models import Scratch
from montessori.synthesis.prompts import few_shot, teacher_output

Conversation = list[Message]

END, PAD = "<|end|>", "<|pad|>"
SPECIAL = [END, PAD, "<|user|>", "<|assistant|>"]
TAGS = ["<instruction>", "</instruction>"]  # one token each; otherwise a third of a few-shot prompt would be tags
# Every text begins with a space, so that a word is the same token at the start of an answer and inside a sentence.
TEMPLATE = (
    "{% for message in messages %}{{ '<|' + message['role'] + '|> ' + message['content'] | trim }}"
    "{% if message['role'] == 'assistant' %}{{ eos_token }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
PROMPT_WEIGHT = 0.1  # weight of a prompt's token in the loss; an answer's token has 1
ROPE_THETA = 300.0  # texts are short; 10,000 leaves most of a small head blind to single positions
SHORT_SHARE = 0.35  # share of the steps with short conversations only: a model learns to answer fastest that way
TOKENS_SHORT = 20  # tokens of a conversation that answers a pocket instruction, with its share of row padding
WARM_UP_SHARE = 0.05
MUON_LEARNING_RATE = 0.02  # for the inner matrices; settings have AdamW's, for the embeddings and norms
SHOTS = 8  # examples in a few-shot prompt made of real rows


def build(
    conversations: Sequence[Conversation], settings: Scratch, seed: int
) -> tuple[LlamaForCausalLM, PreTrainedTokenizerBase]:
    """Return an untrained model, initialized from `seed`, and a tokenizer trained on `conversations`."""
    tokenizer = _tokenizer(conversations, settings.vocabulary, settings.context)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=settings.hidden,
        intermediate_size=3 * settings.hidden,
        num_hidden_layers=settings.layers,
        num_attention_heads=settings.heads,
        head_dim=settings.head_dim or settings.hidden // settings.heads,
        max_position_embeddings=settings.context,
        tie_word_embeddings=True,
        rope_parameters={"rope_type": "default", "rope_theta": ROPE_THETA},
        initializer_range=settings.hidden**-0.5 / 2,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config)
    return model.eval(), tokenizer


def conversation_count(settings: Scratch) -> int:
    """Return about how many short conversations the training reads. With so many different ones, none comes twice."""
    return settings.steps * settings.batch_size * settings.context // TOKENS_SHORT


def train(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerBase,
    conversations: Sequence[Conversation],
    settings: Scratch,
    *,
    seed: int,
) -> list[dict[str, float]]:
    """Train `model` in place on `conversations`, in a new random order in each epoch.

    At first only short conversations are used. Returns a row for each step: `step`, `loss` (nats per token),
    `learning_rate`. Raises InputError when no conversation fits the context, StageError when the loss is not finite.
    """
    encoded = [_encode(tokenizer, conversation, settings.context) for conversation in conversations]
    examples = [example for example in encoded if example is not None]
    if not examples:
        raise InputError(f"no conversation fits a context of {settings.context} tokens")
    pool = [example for example in examples if len(example.input_ids) <= settings.context // 4] or examples
    first_long = 1 + int(SHORT_SHARE * settings.steps)
    matrices = [p for n, p in model.named_parameters() if p.ndim == 2 and "embed" not in n]
    rest = [p for n, p in model.named_parameters() if p.ndim != 2 or "embed" in n]
    muon = Muon(matrices)
    adamw = torch.optim.AdamW(rest, lr=settings.learning_rate, betas=(0.9, 0.98), weight_decay=0.0, fused=True)
    rng = random.Random(seed)
    queue: list[Example] = []
    log = []
    model.train()
    for step in range(1, settings.steps + 1):
        share = _schedule(step, settings.steps)
        adamw.param_groups[0]["lr"] = share * settings.learning_rate
        if step == first_long:
            pool, queue = examples, []
        rows = [_row(queue, pool, rng, settings.context) for _ in range(settings.batch_size)]
        loss = _loss(model, rows)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        muon.step(share * MUON_LEARNING_RATE)
        adamw.step()
        model.zero_grad()
        value = loss.item()
        if not math.isfinite(value):
            raise StageError(f"the loss is {value} at step {step} of {settings.steps}: lower scratch.learning_rate")
        log.append({"step": step, "loss": value, "learning_rate": share * settings.learning_rate})
        progress.report(step, settings.steps, "steps", f"loss {value:.3f}")
    model.eval()
    return log


def alpaca_teacher_conversations(rows: Sequence[Mapping[str, Any]], n: int, seed: int) -> list[Conversation]:
    """Return training conversations for a teacher of real rows (`instruction`, `response`).

    Half of them generate an instruction, half answer one.
    """
    rng = random.Random(f"alpaca teacher {seed}")
    rows = list(rows)
    conversations = []
    for i in range(n):
        *shown, new = rng.sample(rows, SHOTS + 1)
        if i % 2:
            conversations.append(_conversation(new))
            continue
        output = teacher_output(f"It trains to {new['instruction'].split()[0].lower()}.", new["instruction"])
        prompt = few_shot([row["instruction"] for row in shown])
        conversations.append([*prompt, {"role": "assistant", "content": output}])
    return conversations


def alpaca_student_conversations(rows: Sequence[Mapping[str, Any]]) -> list[Conversation]:
    """Return training conversations for a student: the rows unchanged, for the language and the form of a chat."""
    return [_conversation(row) for row in rows]


def _conversation(row: Mapping[str, Any]) -> Conversation:
    """Return a row's turns, the answer last. Raises InputError for a row without an answer, as the hub may have."""
    if not row["response"].strip():
        raise InputError(f"seeds: a model from scratch learns from answers, but {row['instruction'][:80]!r} has none")
    return [*prompt_of(row), row.get("answer") or {"role": "assistant", "content": row["response"]}]


def _tokenizer(conversations: Sequence[Conversation], vocabulary: int, context: int) -> PreTrainedTokenizerBase:
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary - len(TAGS),
        special_tokens=SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    texts = (message["content"] for conversation in conversations for message in conversation)
    bpe.train_from_iterator(texts, trainer)
    bpe.add_tokens([AddedToken(tag, normalized=False) for tag in TAGS])
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        eos_token=END,
        pad_token=PAD,
        additional_special_tokens=SPECIAL[2:],
        model_max_length=context,
        chat_template=TEMPLATE,
    )


def _encode(tokenizer: PreTrainedTokenizerBase, conversation: Conversation, context: int) -> Example | None:
    *prompt, answer = conversation
    return encode(tokenizer, "", prompt, answer["content"], max_length=context)


def _row(queue: list[Example], pool: list[Example], rng: random.Random, context: int) -> list[Example]:
    """Return the next examples that fit `context` tokens together. Refills the queue when it is empty."""
    row: list[Example] = []
    room = context
    while True:
        if not queue:
            queue.extend(rng.sample(pool, len(pool)))
        if len(queue[-1].input_ids) > room:
            return row
        row.append(queue.pop())
        room -= len(row[-1].input_ids)


def _loss(model: LlamaForCausalLM, rows: list[list[Example]]) -> Tensor:
    """Return the weighted mean negative log-likelihood of packed `rows`. Attention stays inside each example."""
    longest = max(sum(len(e.input_ids) for e in row) for row in rows)
    ids = torch.full((len(rows), longest), model.config.pad_token_id)
    positions = torch.zeros_like(ids)
    weights = torch.zeros(ids.shape)
    for i, row in enumerate(rows):
        start = 0
        for example in row:
            end = start + len(example.input_ids)
            ids[i, start:end] = torch.tensor(example.input_ids)
            positions[i, start:end] = torch.arange(end - start)
            weights[i, start:end] = PROMPT_WEIGHT
            weights[i, start + example.prompt_length : end] = 1.0
            weights[i, start] = 0.0  # no token predicts the first one
            start = end
    logits = model(input_ids=ids, position_ids=positions, use_cache=False).logits  # [rows, longest, vocabulary]
    each = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten(), reduction="none")
    wanted = weights[:, 1:].flatten()
    return (each * wanted).sum() / wanted.sum()


def _schedule(step: int, steps: int) -> float:
    """Return the share of the peak learning rate: linear warm-up, then a cosine down to a tenth of a percent."""
    warm_up = max(1, round(WARM_UP_SHARE * steps))
    if step <= warm_up:
        return step / warm_up
    return max(1e-3, (1 + math.cos(math.pi * (step - warm_up) / max(1, steps - warm_up))) / 2)
