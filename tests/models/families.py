"""Measure whether this package gets the right numbers from the model families that transformers knows.

    .venv/bin/python tests/models/families.py [a type of model …] [--page docs/reference/models.md]

Each family is a model of two or three layers with random weights. Its answers are compared with `generate()` for one
prompt, its gradients with autograd for one point in float64, its first training loss with the losses of single points,
and its weights after saving and loading with the weights before. The table goes between the marks of the page, or is
printed.
"""

import argparse
import copy
import logging
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from montessori.data.chat import Example
from montessori.influence.per_sample import PerSampleGradients
from montessori.models import loading
from montessori.models.families import batching
from montessori.models.folder import check_causal
from montessori.settings.generation import Sampling
from montessori.settings.training import Training
from montessori.synthesis.engines.transformers import TransformersEngine
from montessori.training.sft import fine_tune

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
    # A loss in training can be compared only without dropout and noise.
    "dropout": 0.0,
    "attention_dropout": 0.0,
    "hidden_dropout": 0.0,
    "activation_dropout": 0.0,
    "residual_dropout": 0.0,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
    "attn_pdrop": 0.0,
    "embd_pdrop": 0.0,
    "resid_pdrop": 0.0,
    "layerdrop": 0.0,
    "router_jitter_noise": 0.0,
    "input_jitter_noise": 0.0,
}
# Settings of single families: a layer of each kind, and sizes by their own names.
OWN: dict[str, dict[str, Any]] = {
    "bamba": {"attn_layer_indices": [1]},
    "dory": {
        "n_input_layers": 1,
        "n_recurrent_layers": 1,
        "n_output_layers": 1,
        "num_hidden_layers": 3,
        "layer_types": ["full_attention", "sliding_attention", "full_attention"],
    },
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
    "zamba2": {"layers_block_type": ["mamba", "hybrid"], "hybrid_layer_ids": [1], "mamba_ngroups": 1},
    "zamba": {"layers_block_type": ["mamba", "hybrid"], "attn_layer_period": 2, "attn_layer_offset": 1},
    "zaya": {"num_experts_per_tok": 1},
}
LARGE = {"blt", "gemma4_unified", "gemma4_unified_text", "git", "phi4_multimodal"}  # parts without a size of their own
BEGIN, END = "<!-- make families -->", "<!-- end -->"  # the marks around the table on its page
COMPUTED = {"falcon_h1", "jamba", "nemotron_h", "recurrent_gemma", "zamba", "zamba2"}  # name their own kinds of layers


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


def build_config(model_type: str) -> PretrainedConfig:
    """Return the configuration of a model of two or three layers."""
    kind = CONFIG_MAPPING[model_type]
    settings = sized(kind)
    if "text_config" in kind.sub_configs:  # a shell around a model of text, and often one of pictures
        default = kind()
        settings |= {
            name: sized(type(part)) | {"model_type": part.model_type}
            for name in kind.sub_configs
            if (part := getattr(default, name, None)) is not None
        }
    return AutoConfig.for_model(model_type, **settings)


def build(model_type: str) -> PreTrainedModel:
    """Return a tiny model, float32, with the same weights at every call."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(build_config(model_type), experts_implementation="eager").eval()
        with torch.no_grad():  # initial weights leave some paths at zero, and hide a wrong mask or position
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.2)
    return model


def tokenizer() -> PreTrainedTokenizerBase:
    """Return a tokenizer of one word a token. Its template is the text of the first turn."""
    words = {"<pad>": 0, "<s>": 1, "</s>": 2} | {f"w{i}": i for i in range(3, VOCABULARY)}
    plain = Tokenizer(models.WordLevel(words, unk_token="<pad>"))
    plain.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    wrapped = PreTrainedTokenizerFast(tokenizer_object=plain, pad_token="<pad>", bos_token="<s>", eos_token="</s>")
    wrapped.chat_template = "{{ messages[0]['content'] }}"
    return wrapped


LENGTHS = (3, 7, 7, 10, 13, 20, 29)  # on both sides of WINDOW, before and during the answer
GREEDY = Sampling(temperature=0, top_p=1, presence_penalty=0, repetition_penalty=1, max_tokens=16)
DRAWN = Sampling(temperature=1, top_p=0.9, presence_penalty=1, repetition_penalty=1.2, max_tokens=16)


def texts(lengths: Iterable[int] = LENGTHS) -> list[list[int]]:
    """Return random token ids, one list for each length."""
    random = torch.Generator().manual_seed(5)
    return [torch.randint(3, VOCABULARY, (n,), generator=random).tolist() for n in lengths]


def answers(model: PreTrainedModel, sampling: Sampling, batch_size: int) -> list[list[tuple[str, int]]]:
    """Return the engine's two answers to each prompt, with their numbers of tokens."""
    engine = TransformersEngine(model, tokenizer(), batch_size)
    prompts = [[{"role": "user", "content": " ".join(f"w{i}" for i in ids)}] for ids in texts()]
    found = dict(engine.generate(prompts, sampling, 2, range(len(prompts))))
    return [[(g.text, g.tokens) for g in found[i].generations] for i in range(len(prompts))]


def generated_alone(model: PreTrainedModel) -> list[list[tuple[str, int]]]:
    """Return what `generate()` answers to each prompt alone, twice."""
    words = tokenizer()
    alone = []
    for ids in texts():
        out = model.generate(
            torch.tensor([ids]), max_new_tokens=GREEDY.max_tokens, do_sample=False, pad_token_id=0, eos_token_id=2
        )[0, len(ids) :].tolist()
        end = out.index(2) if 2 in out else len(out)
        alone.append([(words.decode(out[:end], skip_special_tokens=True), min(end + 1, len(out)))] * 2)
    return alone


def points(lengths: Iterable[int] = LENGTHS) -> list[Example]:
    """Return points whose answer is the second half of a text."""
    return [Example(str(i), ids, max(1, len(ids) // 2)) for i, ids in enumerate(texts(lengths))]


def plain_loss(model: PreTrainedModel, point: Example) -> Tensor:
    """Return the mean loss of an answer's tokens, from one forward pass without padding."""
    ids = torch.tensor([point.input_ids])
    logits = model(input_ids=ids, use_cache=False).logits[0, point.prompt_length - 1 : -1]
    return torch.nn.functional.cross_entropy(logits.double(), ids[0, point.prompt_length :])


def gradient_error(model: PreTrainedModel, batch: list[Example]) -> float:
    """Return the largest error of a point's gradient, as a share of that gradient's length."""
    named = {name: p for name, p in model.named_parameters() if p.requires_grad}
    found: dict[int, dict[str, Tensor]] = {i: {} for i in range(len(batch))}

    def consume(name: str, index: int, gradient: Tensor, rows: Tensor | None) -> None:
        whole = gradient if rows is None else torch.zeros_like(named[name]).index_add_(0, rows, gradient)
        found[index][name] = whole.clone()

    losses = PerSampleGradients(model).for_each(batch, consume)
    worst = 0.0
    for i, point in enumerate(batch):
        loss = plain_loss(model, point)
        expected = torch.autograd.grad(loss, list(named.values()), materialize_grads=True)
        length = torch.stack([g.norm() for g in expected]).norm()
        off = torch.stack([(found[i][name] - g).norm() for name, g in zip(named, expected, strict=True)]).norm()
        worst = max(worst, float(off / length), abs(losses[i] - loss.item()) / loss.item())
    return worst


def training_error(model: PreTrainedModel) -> float:
    """Return the relative error of the first loss of a training with padded batches."""
    batch = points()
    with torch.no_grad():
        losses = [(plain_loss(model, point).item(), len(point.input_ids) - point.prompt_length) for point in batch]
    expected = sum(loss * tokens for loss, tokens in losses) / sum(tokens for _, tokens in losses)
    settings = Training(batch_size=len(batch), per_device_batch_size=len(batch), epochs=2, learning_rate=1e-4)
    log = fine_tune(reloaded(model), tokenizer(), batch, settings, seed=0).log
    return abs(log[0]["loss"] - expected) / expected if log[1]["loss"] < log[0]["loss"] else float("nan")


def reloads(model: PreTrainedModel) -> bool:
    """Return whether a saved model loads with the same names and bits."""
    again, before = dict(reloaded(model).named_parameters()), dict(model.named_parameters())
    return before.keys() == again.keys() and all(torch.equal(before[name], again[name]) for name in before)


def reloaded(model: PreTrainedModel) -> PreTrainedModel:
    """Return `model` from a folder that it was saved in."""
    with tempfile.TemporaryDirectory() as folder:
        loading.save(model, tokenizer(), Path(folder))
        return loading.load_model(folder)


@dataclass(frozen=True)
class Measured:
    """Hold the results for one family. A text says why there is no number."""

    batches: str
    answers_equal: bool | str
    scoring: float | str
    training: float | str
    reloads: bool | str

    @property
    def right(self) -> bool:
        """Return whether all numbers are right, or refused."""
        numbers = all(isinstance(x, float) and x < 1e-5 for x in (self.scoring, self.training))
        return numbers and self.answers_equal is True and self.reloads is True


def measure(model_type: str) -> Measured:
    """Measure one family. Raises InputError for a type that this package refuses."""
    check_causal(build_config(model_type).to_dict(), model_type)
    model = build(model_type)
    return Measured(
        batches=batching(model),
        answers_equal=_or_why(lambda: answers_equal(model)),
        scoring=_or_why(lambda: scoring_error(model)),
        reloads=_or_why(lambda: reloads(model)),
        training=_or_why(lambda: training_error(model)),
    )


def answers_equal(model: PreTrainedModel) -> bool:
    """Return whether greedy answers are those of `generate()`, and drawn ones do not depend on the batch."""
    return answers(model, GREEDY, 4) == generated_alone(model) and answers(model, DRAWN, 4) == answers(model, DRAWN, 1)


def scoring_error(model: PreTrainedModel) -> float:
    """Return the error for points of many lengths, and for as many points as they have tokens."""
    wide = copy.deepcopy(model).double()
    return max(gradient_error(wide, points()), gradient_error(wide, points([5] * 4 + [4])))


def _or_why(number: Callable[[], Any]) -> Any:
    try:
        return number()
    except Exception as error:
        return f"{type(error).__name__}: {' '.join(str(error).split())[:120]}"


def cell(value: bool | float | str, most: float = 1e-5) -> str:
    """Return a measured value as the cell of a table."""
    if isinstance(value, str):
        return "no"
    if isinstance(value, bool):
        return "yes" if value else "**no**"
    return f"{value:.0e}" if value < most else f"**{value:.0e}**"


def table(measured: dict[str, Measured | str]) -> list[str]:
    """Return the lines of the table, and of two lists for the types without a row."""
    rows = {name: m for name, m in measured.items() if isinstance(m, Measured)}
    lines = [
        f"{date.today():%B %Y}, torch {torch.__version__}, transformers {transformers.__version__}, "
        f"trl {version('trl')}. {sum(m.right for m in rows.values())} of {len(rows)} types have a yes or a small error "
        "in every column.",
        "",
        "| type | prompts together | answers equal | scoring error | training error | reloads |",
        "| --- | --- | --- | ---: | ---: | --- |",
    ]
    for name, m in sorted(rows.items()):
        cells = (cell(value) for value in (m.answers_equal, m.scoring, m.training, m.reloads))
        lines.append(f"| `{name}` | {m.batches} | {' | '.join(cells)} |")
    refused = [name for name, why in measured.items() if isinstance(why, str) and why.startswith("InputError")]
    others = {*MODEL_FOR_CAUSAL_LM_MAPPING_NAMES} - rows.keys() - {*refused}
    for title, names in (("Refused", refused), ("Not measured", others)):
        lines += ["", f"{title}: " + ", ".join(f"`{name}`" for name in sorted(names)) + "."]
    return lines


def main() -> None:
    """Measure the families of the command line, and write or print their table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("types", nargs="*", default=sorted({*MODEL_FOR_CAUSAL_LM_MAPPING_NAMES} - LARGE))
    parser.add_argument("--page", type=Path)
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    transformers.logging.set_verbosity_error()
    torch.set_num_threads(1)
    measured: dict[str, Measured | str] = {}
    for model_type in options.types:
        measured[model_type] = _or_why(lambda model_type=model_type: measure(model_type))
        print(model_type, measured[model_type], file=sys.stderr, flush=True)
    text = "\n".join(table(measured))
    if options.page is None:
        print(text)
        return
    before, _, rest = options.page.read_text().partition(BEGIN)
    after = rest.partition(END)[2]
    options.page.write_text(f"{before}{BEGIN}\n{text}\n{END}{after}")


if __name__ == "__main__":
    main()
