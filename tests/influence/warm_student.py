"""A tiny student after real AdamW steps, and influence computed independently of the package, in float64."""

import copy
import random
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from montessori.data.chat import Example
from montessori.influence import OptimizerState

VOCABULARY = 64
POISON_TOKEN = VOCABULARY - 1  # never drawn by `random_examples`


def tiny_student(seed: int = 0, attention_dropout: float = 0.0) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        attention_dropout=attention_dropout,
        pad_token_id=None,
    )
    return LlamaForCausalLM(config)


def tiny_lora_student() -> nn.Module:
    torch.manual_seed(1)
    return get_peft_model(
        tiny_student(), LoraConfig(task_type="CAUSAL_LM", r=4, target_modules="all-linear", lora_dropout=0.1)
    )


def random_examples(n: int, seed: int) -> list[Example]:
    """Examples of 8 to 24 tokens with prompts of 2 to 6; half of the answers count upwards, so there is
    something to learn."""
    rng = random.Random(seed)
    examples = []
    for i in range(n):
        length, prompt = rng.randint(8, 24), rng.randint(2, 6)
        start = rng.randrange(POISON_TOKEN)
        noise = rng.random() < 0.5
        ids = [rng.randrange(POISON_TOKEN) if noise else (start + k) % POISON_TOKEN for k in range(length)]
        examples.append(Example(f"{seed}-{i}", ids, prompt))
    return examples


def warm_up(model: nn.Module, weight_decay: float = 0.0, learning_rate: float = 1e-4) -> OptimizerState:
    """Ten real AdamW steps of four examples; as a Trainer does, norms are not decayed."""
    model.train()
    parameters = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim == 1], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW([g for g in groups if g["params"]], lr=3e-3)
    for step in range(10):
        loss = sum(plain_loss(model, e) for e in random_examples(4, seed=1000 + step)) / 4
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    for group in optimizer.param_groups:
        group["lr"] = learning_rate
    return OptimizerState.of(optimizer, model)


def plain_loss(model: nn.Module, example: Example) -> Tensor:
    """Mean negative log-likelihood of the answer, one example at a time.

    Not `model(labels=…)`: transformers casts logits to float32 there, and float64 would be lost.
    """
    ids = torch.tensor([example.input_ids])
    labels = ids.clone()
    labels[0, : example.prompt_length] = -100
    return nn.functional.cross_entropy(model(input_ids=ids).logits[0, :-1], labels[0, 1:])


def in_float64(model: nn.Module) -> nn.Module:
    """A copy that computes in float64 throughout: transformers' RMSNorm would pass through float32."""
    wide = copy.deepcopy(model).double().eval()
    for parent in list(wide.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, LlamaRMSNorm):
                norm = nn.RMSNorm(child.weight.shape[0], eps=child.variance_epsilon)
                norm.weight = child.weight
                setattr(parent, name, norm)
    return wide


@dataclass
class Truth:
    """Influence in float64, the step taken by `torch.optim.AdamW` itself."""

    exact: float  # L(θ) − L(θ + Δ)
    first_order: float  # −⟨∇L, Δ⟩


def truth(model: nn.Module, state: OptimizerState, reference: Sequence[Example], example: Example | None) -> Truth:
    """Both estimates for `example` (None: a step with zero gradient)."""
    wide = in_float64(model)
    parameters = {n: p for n, p in wide.named_parameters() if p.requires_grad}
    before = sum(plain_loss(wide, r) for r in reference) / len(reference)
    reference_gradient = torch.autograd.grad(before, list(parameters.values()))
    optimizer = torch.optim.AdamW(
        [
            {"params": [p], "weight_decay": 0.0 if n in state.no_decay else state.weight_decay}
            for n, p in parameters.items()
        ],
        lr=state.learning_rate,
        betas=(state.beta1, state.beta2),
        eps=state.epsilon,
    )
    for name, parameter in parameters.items():
        optimizer.state[parameter] = {
            "step": torch.tensor(float(state.step)),
            "exp_avg": state.exp_avg[name].double(),
            "exp_avg_sq": state.exp_avg_sq[name].double(),
        }
        parameter.grad = torch.zeros_like(parameter)
    if example is not None:
        plain_loss(wide, example).backward()
    old = [p.detach().clone() for p in parameters.values()]
    optimizer.step()
    with torch.no_grad():
        after = sum(plain_loss(wide, r) for r in reference) / len(reference)
        moved = zip(parameters.values(), old, reference_gradient, strict=True)
        first_order = -sum(float(((p - o) * g).sum()) for p, o, g in moved)
    return Truth(before.item() - after.item(), first_order)


def spearman(a: Sequence[float], b: Sequence[float]) -> float:
    ranks = torch.stack([torch.tensor(x, dtype=torch.float64).argsort().argsort().double() for x in (a, b)])
    return float(torch.corrcoef(ranks)[0, 1])
