"""Loading and saving causal language models: safetensors only, no remote code unless asked.

A model folder holds the model and its tokenizer; one with an `adapter/` folder beside them is a LoRA model.
"""

from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from montessori.chat import DEFAULT_TEMPLATE
from montessori.config import Lora

ADAPTER = "adapter"


def device() -> torch.device:
    """The GPU that this process was given, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def load_tokenizer(source: str | Path, trust_remote_code: bool = False) -> PreTrainedTokenizerBase:
    """The tokenizer of a folder or hub name, with a padding token and a chat template."""
    name, revision = hub_revision(source)
    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
        name, revision=revision, trust_remote_code=trust_remote_code
    )
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    if tokenizer.chat_template is None:
        tokenizer.chat_template = DEFAULT_TEMPLATE
    return tokenizer


def load_model(
    source: str | Path, dtype: str = "float32", trust_remote_code: bool = False
) -> PreTrainedModel | PeftModel:
    """The model of a folder or hub name on `device()`, in evaluation mode.

    A folder with an adapter gives the PEFT model, its adapter trainable and its base frozen.
    """
    name, revision = hub_revision(source)
    model = AutoModelForCausalLM.from_pretrained(
        name,
        revision=revision,
        dtype=getattr(torch, dtype),
        use_safetensors=True,
        trust_remote_code=trust_remote_code,
    )
    adapter = Path(name) / ADAPTER
    if adapter.is_dir():
        model = PeftModel.from_pretrained(model, str(adapter), is_trainable=True)
    return model.to(device()).eval()


def add_lora(model: PreTrainedModel, lora: Lora) -> PeftModel:
    """`model` with fresh adapters, the only trainable parameters."""
    config = LoraConfig(
        task_type="CAUSAL_LM",
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=lora.target_modules,
    )
    return get_peft_model(model, config)


def save(model: PreTrainedModel | PeftModel, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Write a model folder of plain weights; adapters are merged in first."""
    if isinstance(model, PeftModel):
        model = model.merge_and_unload()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def save_unmerged(
    model: PreTrainedModel | PeftModel, tokenizer: PreTrainedTokenizerBase, folder: Path
) -> None:
    """Write a model folder that keeps adapters apart, so that training state still fits their parameters."""
    if isinstance(model, PeftModel):
        model.save_pretrained(str(folder / ADAPTER))
        model = model.unload()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def hub_revision(source: str | Path) -> tuple[str, str | None]:
    """`user/name@revision` as its two parts; a folder has no revision."""
    if Path(source).is_dir():
        return str(source), None
    name, _, revision = str(source).partition("@")
    return name, revision or None
