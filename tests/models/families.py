"""Build a tiny model of every causal language model that transformers knows."""

from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PretrainedConfig, PreTrainedModel
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

VOCABULARY, WINDOW, CONTEXT = 96, 12, 256
# Sizes by the names that configurations use. A name that a configuration does not have is left out.
SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "d_model": 64,
    "n_embd": 64,
    "intermediate_size": 96,
    "ffn_dim": 96,
    "n_inner": 96,
    "num_hidden_layers": 2,
    "num_layers": 2,
    "n_layer": 2,
    "n_layers": 2,
    "decoder_layers": 2,
    "num_attention_heads": 4,
    "n_head": 4,
    "n_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": CONTEXT,
    "n_positions": CONTEXT,
    "max_seq_len": CONTEXT,
    "model_max_length": CONTEXT,
    "sliding_window": WINDOW,
    "window_size": WINDOW,
    "attention_window_size": WINDOW,
    "attention_chunk_size": WINDOW,
    "moe_intermediate_size": 32,
    "num_experts": 4,
    "num_local_experts": 4,
    "n_routed_experts": 4,
    "moe_num_experts": 4,
    "num_experts_per_tok": 2,
    "num_experts_per_token": 2,
    "moe_topk": 2,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "tie_word_embeddings": False,
    "qk_rope_head_dim": 16,
    "qk_nope_head_dim": 16,
    "v_head_dim": 16,
    "q_lora_rank": 32,
    "kv_lora_rank": 32,
    "n_group": 1,
    "topk_group": 1,
    "num_expert_group": 1,
    "index_topk": 8,
    "index_head_dim": 16,
    "index_n_heads": 2,
    "rotary_dim": 8,
    "linear_num_heads": 2,
    "linear_head_dim": 16,
    "linear_key_head_dim": 16,
    "linear_value_head_dim": 16,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "mamba_n_heads": 4,
    "mamba_d_head": 32,
    "mamba_d_state": 8,
    "mamba_num_heads": 4,
    "mamba_head_dim": 32,
    "ssm_state_size": 8,
    "state_size": 8,
    "chunk_size": 8,
    "mamba_chunk_size": 8,
}
# Settings of single families: a layer of each kind, and sizes by their own names.
OWN: dict[str, dict[str, Any]] = {
    "bamba": {"attn_layer_indices": [1]},
    "dory": {"n_input_layers": 1, "n_recurrent_layers": 1, "n_output_layers": 1, "num_hidden_layers": 3},
    "dots1": {"n_shared_experts": 1},
    "ernie4_5_moe": {"moe_k": 2},
    "falcon_h1": {"mamba_d_ssm": 128},
    "falcon_mamba": {"state_size": 8},
    "gemma4_text": {"hidden_size_per_layer_input": 16, "vocab_size_per_layer_input": VOCABULARY},
    "gpt_neo": {"attention_types": [[["global", "local"], 1]], "attention_layers": ["global", "local"]},
    "granitemoehybrid": {"layer_types": ["mamba", "attention"], "shared_intermediate_size": 32},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1, "mamba_dt_rank": 4},
    "lfm2": {"layer_types": ["conv", "full_attention"]},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"], "num_dense_layers": 1},
    "longcat_flash": {"expert_ffn_hidden_size": 32, "ffn_hidden_size": 64, "zero_expert_num": 2},
    "mamba2": {"num_heads": 4, "head_dim": 32, "n_groups": 2},
    "nemotron_h": {"layers_block_type": ["mamba", "attention", "moe"], "n_groups": 1},
    "recurrent_gemma": {"num_hidden_layers": 3, "lru_width": 64},
    "zamba": {"layers_block_type": ["mamba", "hybrid"], "attn_layer_period": 2, "attn_layer_offset": 1},
    "zaya": {"num_experts_per_tok": 1},
}
COMPUTED = {"falcon_h1", "jamba", "recurrent_gemma", "zamba", "zamba2", "nemotron_h"}  # set their layers' kinds themselves


def sized(kind: type[PretrainedConfig]) -> dict[str, Any]:
    """Return the small sizes that the configuration `kind` has names for."""
    default = kind()
    names = default.to_dict().keys() | getattr(kind, "__dataclass_fields__", {}).keys()
    settings = {k: v for k, v in SIZES.items() if k in names}
    if "kv_lora_rank" in settings:  # such an attention has as many keys as queries
        settings["num_key_value_heads"] = settings["num_attention_heads"]
    kinds = list(dict.fromkeys(getattr(default, "layer_types", None) or ()))
    if len(kinds) > 1 and kind.model_type not in COMPUTED:  # a layer of each kind
        settings |= {"layer_types": kinds, "num_hidden_layers": len(kinds)}
    return settings | OWN.get(kind.model_type, {})


def build(model_type: str) -> PreTrainedModel:
    """Return a model of two or three layers, float32, with the same weights at every call."""
    kind = CONFIG_MAPPING[model_type]
    settings = sized(kind)
    if text := getattr(kind, "sub_configs", {}).get("text_config"):
        settings = {"text_config": sized(text)}
    config = AutoConfig.for_model(model_type, **settings)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config, experts_implementation="eager").eval()
        with torch.no_grad():  # initial weights leave some paths at zero, and hide a wrong mask or position
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.2)
    return model
