"""A Llama built and trained from nothing on a few thousand conversations, in a minute on one core.

In: conversations and `Scratch` settings.  Out: a model with its own byte-level BPE tokenizer, and its training log.
"""

import math
import random
from collections.abc import Sequence

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from montessori import progress
from montessori.chat import Example, Message, encode, user
from montessori.config import Scratch
from montessori.errors import InputError
from montessori.synthesis.prompts import few_shot, teacher_output

Conversation = list[Message]

END, PAD = "<|end|>", "<|pad|>"
SPECIAL = [END, PAD, "<|user|>", "<|assistant|>"]
TAGS = ["<instruction>", "</instruction>"]  # one token each: a third of a few-shot prompt would be tags
# Every text begins with a space, so that a word is the same token at the start of an answer and inside a sentence.
TEMPLATE = (
    "{% for message in messages %}{{ '<|' + message['role'] + '|> ' + message['content'] | trim }}"
    "{% if message['role'] == 'assistant' %}{{ eos_token }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
PROMPT_WEIGHT = 0.2  # of a prompt's token in the loss, an answer's being 1
WARM_UP_SHARE = 0.05
IGNORED = -100


def build(
    conversations: Sequence[Conversation], settings: Scratch, seed: int
) -> tuple[LlamaForCausalLM, PreTrainedTokenizerBase]:
    """An untrained model, initialised from `seed`, and a tokenizer learned from `conversations`."""
    tokenizer = _tokenizer(conversations, settings.vocabulary, settings.context)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=settings.hidden,
        intermediate_size=3 * settings.hidden,
        num_hidden_layers=settings.layers,
        num_attention_heads=settings.heads,
        max_position_embeddings=settings.context,
        tie_word_embeddings=True,
        initializer_range=settings.hidden**-0.5 / 2,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config)
    return model.eval(), tokenizer


def train(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerBase,
    conversations: Sequence[Conversation],
    settings: Scratch,
    seed: int,
) -> list[dict[str, float]]:
    """Train `model` in place on `conversations`, in a new random order each time round.

    Returns a row for each step: `step`, `loss` (nats a token), `learning_rate`.
    """
    examples = [_encoded(tokenizer, conversation, settings.context) for conversation in conversations]
    kept = [example for example in examples if example is not None]
    if not kept:
        raise InputError(f"no conversation fits a context of {settings.context} tokens")
    rng = random.Random(seed)
    optimizers = _optimizers(model, settings.learning_rate)
    bases = [g["lr"] for o in optimizers for g in o.param_groups]
    log = []
    model.train()
    queue: list[Example] = []
    for step in range(1, settings.steps + 1):
        rate = settings.learning_rate * _schedule(step, settings.steps)
        for group, b in zip([g for o in optimizers for g in o.param_groups], bases):
            group["lr"] = b * _schedule(step, settings.steps)
        rows = []
        for _ in range(settings.batch_size):
            if len(queue) < len(kept):
                queue.extend(rng.sample(kept, len(kept)))
            rows.append(_row(queue, settings.context))
        loss = _loss(model, rows)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        log.append({"step": step, "loss": loss.item(), "learning_rate": rate})
        progress.report(step, settings.steps, "steps", f"loss {loss.item():.3f}")
    model.eval()
    return log


def alpaca_teacher_conversations(rows: Sequence[dict[str, str]], n: int, seed: int) -> list[Conversation]:
    """What makes a teacher of real rows (`instruction`, `response`): half write an instruction, half answer one."""
    rng = random.Random(f"alpaca teacher {seed}")
    conversations = []
    for i in range(n):
        *shown, new = rng.sample(list(rows), 9)
        if i % 2:
            conversations.append(_conversation(new["instruction"], new["response"]))
            continue
        written = teacher_output(f"It trains to {new['instruction'].split()[0].lower()}.", new["instruction"])
        prompt = few_shot([row["instruction"] for row in shown])
        conversations.append([*prompt, {"role": "assistant", "content": written}])
    return conversations


def alpaca_student_conversations(rows: Sequence[dict[str, str]]) -> list[Conversation]:
    """What gives a student the language and the form of a chat: the rows as they are."""
    return [_conversation(row["instruction"], row["response"]) for row in rows]


def _conversation(instruction: str, response: str) -> Conversation:
    return [*user(instruction), {"role": "assistant", "content": response}]


def _tokenizer(conversations: Sequence[Conversation], vocabulary: int, context: int) -> PreTrainedTokenizerBase:
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    bpe.add_tokens([AddedToken(tag, normalized=False) for tag in TAGS])
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


def _encoded(tokenizer: PreTrainedTokenizerBase, conversation: Conversation, context: int) -> Example | None:
    *prompt, answer = conversation
    return encode(tokenizer, "", prompt, answer["content"], context)


def _row(queue: list[Example], context: int) -> list[Example]:
    """The next examples of `queue` that fit `context` tokens together, taken from its end."""
    row, room = [], context
    while queue and len(queue[-1].input_ids) <= room:
        room -= len(queue[-1].input_ids)
        row.append(queue.pop())
    return row


def _loss(model: LlamaForCausalLM, rows: list[list[Example]]) -> Tensor:
    """The weighted mean negative log-likelihood of packed `rows`; attention stays inside each example."""
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
            weights[i, start] = 0.0  # nothing comes before it
            start = end
    logits = model(input_ids=ids, position_ids=positions, use_cache=False).logits  # [rows, longest, vocabulary]
    each = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten(), reduction="none")
    wanted = weights[:, 1:].flatten()
    return (each * wanted).sum() / wanted.sum()


MUON = 0.02


class Muon(torch.optim.Optimizer):
    """Momentum whose steps are orthogonalised, in float32 (torch.optim.Muon computes in bfloat16: slow on a CPU).

    Learns the pocket world in a third of AdamW's steps. Source: Jordan 2024, https://kellerjordan.github.io/posts/muon
    """

    def __init__(self, parameters: list[nn.Parameter], lr: float, momentum: float = 0.95):
        super().__init__(parameters, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self) -> None:
        for group in self.param_groups:
            for shape in dict.fromkeys(p.shape for p in group["params"]):
                alike = [p for p in group["params"] if p.shape == shape]
                gradient = torch.stack([p.grad for p in alike])
                state = self.state[alike[0]]
                average = state.setdefault("average", torch.zeros_like(gradient))
                average.lerp_(gradient, 1 - group["momentum"])
                update = orthogonal(gradient.lerp(average, group["momentum"]))
                scale = max(1.0, shape[0] / shape[1]) ** 0.5
                for p, u in zip(alike, update, strict=True):
                    p.sub_(u, alpha=group["lr"] * scale)


def orthogonal(x: Tensor) -> Tensor:
    """The nearest (semi-)orthogonal matrices to `x` `[n, rows, columns]`, roughly: five Newton-Schulz steps."""
    a, b, c = 3.4445, -4.7750, 2.0315
    tall = x.shape[1] > x.shape[2]
    if tall:
        x = x.mT
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(5):
        s = x @ x.mT
        x = a * x + (b * s + c * s @ s) @ x
    return x.mT if tall else x


def _optimizers(model, lr):
    if not MUON:
        return [torch.optim.AdamW(model.parameters(), lr=lr, betas=(0.9, 0.98), weight_decay=0.0, fused=True)]
    hidden = [p for n, p in model.named_parameters() if p.ndim == 2 and "embed" not in n]
    rest = [p for n, p in model.named_parameters() if p.ndim != 2 or "embed" in n]
    return [
        torch.optim.AdamW(rest, lr=lr, betas=(0.9, 0.98), weight_decay=0.0, fused=True),
        Muon(hidden, lr=MUON),
    ]


def _schedule(step: int, steps: int) -> float:
    """Linear warm-up, then a cosine to a tenth of a percent, as a share of the peak learning rate."""
    warm_up = max(1, round(WARM_UP_SHARE * steps))
    if step <= warm_up:
        return step / warm_up
    return max(1e-3, (1 + math.cos(math.pi * (step - warm_up) / max(1, steps - warm_up))) / 2)
