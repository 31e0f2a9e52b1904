"""Say which models may run several texts at once, and how.

`make families` compares each model type of the two lists with every text alone, and writes the table of
docs/reference/models-and-data.md. A type that is in neither list runs one text at a time: slower, and never wrong.
"""

import sys
from collections.abc import Sequence
from typing import Any, Literal


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Attention alone, and nothing else remembers a text. Prompts are padded on the left, with a cache of fixed size.
PADDED = _names("""
    afmoe apertus arcee aria_text biogpt bitnet codegen cohere cohere2 cohere2_moe cwm deepseek_v2 deepseek_v3
    diffllama dots1 ernie4_5 ernie4_5_moe exaone4 exaone_moe flex_olmo gemma gemma2 gemma3 gemma3_text glm glm4
    glm4_moe glm4_moe_lite gpt2 gpt_bigcode gpt_neox gpt_oss gptj granite granite_swa granitemoe granitemoeshared
    helium hunyuan_v1_dense hunyuan_v1_moe hy_v3 hyperclovax internlm3 jais2 llama minicpm3 minimax_m2 ministral
    ministral3 mistral mixtral nanochat nemotron olmo olmo2 olmo3 olmoe opt persimmon phi phi3 phimoe qwen2
    qwen2_moe qwen3 qwen3_moe seed_oss smollm3 solar_open stablelm starcoder2 vaultgemma
""")
# A state, a convolution, a window of their own or distances in place of positions: prompts of one length share a batch.
EQUAL_LENGTHS = _names("""
    bamba bloom falcon falcon_h1 falcon_mamba gemma4 gemma4_text gpt_neo granitemoehybrid jamba lfm2 lfm2_moe
    llama4_text mamba mamba2 mpt nemotron_h olmo_hybrid qwen3_5_moe_text qwen3_5_text qwen3_next
    recurrent_gemma zamba zamba2
""")
LAYERS = {"full_attention", "sliding_attention"}  # of a type in PADDED; a setting may add others
LIMITS = ("max_position_embeddings", "n_positions", "max_seq_len", "model_max_length")  # names of a context's length

Batching = Literal["padded", "equal lengths", "alone"]


def batching(model: Any) -> Batching:
    """Return how `model` may generate for several prompts at once, so that each answer is as for its prompt alone."""
    config = text_config(model)
    if config is None or not _is_transformers_own(model):
        return "alone"
    kind = model.config.model_type  # of the whole model: around a known part for text, a shell may do more
    if kind in PADDED and set(getattr(config, "layer_types", None) or LAYERS) <= LAYERS:
        return "padded"
    return "equal lengths" if kind in PADDED | EQUAL_LENGTHS else "alone"


def share_a_batch(model: Any, lengths: Sequence[int]) -> bool:
    """Return whether texts of `lengths` tokens, padded on the right, give the same numbers together as alone."""
    if batching(model) == "alone":
        return False
    turn = rotation_change(model)
    return max(lengths) <= turn or min(lengths) > turn


def rotation_change(model: Any) -> int:
    """Return the length in tokens up to which the rotations of positions are the same in every batch.

    Some models rotate a long text otherwise, and transformers then does so for the whole batch.
    """
    config = text_config(model)
    rope = getattr(config, "rope_parameters", None) or {}
    kinds = [kind for kind in (rope, *rope.values()) if isinstance(kind, dict)]
    changes = [
        kind.get("original_max_position_embeddings") or config.max_position_embeddings
        for kind in kinds
        if kind.get("rope_type") in ("longrope", "dynamic")
    ]
    return min(changes, default=sys.maxsize)


def context_of(model: Any) -> int:
    """Return the tokens that `model` has positions for. A model without positions has no limit."""
    return positions(getattr(model, "config", None)) or sys.maxsize


def positions(config: Any) -> int | None:
    """Return the number of positions in a model's configuration, or None where it sets no limit."""
    lengths = (getattr(_for_text(config), name, None) for name in LIMITS)
    return next((length for length in lengths if isinstance(length, int) and length > 0), None)


def text_config(model: Any) -> Any:
    """Return the configuration of the model that reads text. None for a module without one."""
    return _for_text(getattr(model, "config", None))


def _for_text(config: Any) -> Any:
    return config.get_text_config(decoder=True) if hasattr(config, "get_text_config") else None


def _is_transformers_own(model: Any) -> bool:
    """Return whether the code of `model` comes with transformers, in shards or under adapters too."""
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    own = next(kind for kind in type(base).__mro__ if not kind.__module__.startswith("torch."))
    return own.__module__.startswith("transformers.models.")
