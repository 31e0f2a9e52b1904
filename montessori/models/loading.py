"""Load and save causal language models: safetensors only, and no remote code unless requested.

A model folder holds the model and its tokenizer. With an `adapter/` folder it is a LoRA model. A saved folder depends
on the weights alone, not on the folder that they were loaded from.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch
from huggingface_hub.errors import LocalEntryNotFoundError
from peft import LoraConfig, PeftConfig, PeftModel, get_peft_model
from safetensors import SafetensorError
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging

from montessori.data.template import DEFAULT_TEMPLATE, VARIABLES, pin_clock
from montessori.errors import InputError, StageError
from montessori.models.families import positions
from montessori.models.folder import check_causal, check_model_folder
from montessori.settings.models import Chat, Lora

ADAPTER = "adapter"

M = TypeVar("M", bound=nn.Module)


def device() -> torch.device:
    """Return this process's GPU, or the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


@contextmanager
def torch_seed(seed: int) -> Iterator[None]:
    """Draw torch's random numbers from `seed` inside the block, and restore the old random state after it."""
    gpus = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    with torch.random.fork_rng(devices=gpus):
        torch.manual_seed(seed)
        yield


def load_tokenizer(
    source: str | Path, trust_remote_code: bool = False, chat: Chat | None = None
) -> PreTrainedTokenizerBase:
    """Load the tokenizer of a folder or hub name, with a padding token and a chat template.

    The template of `chat`, its variables and its date are saved with the tokenizer. Raises InputError when there is no
    tokenizer, or when it has no end-of-text token.
    """
    name, revision = hub_revision(source)
    with _describe_errors("tokenizer", source):
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
            name, revision=revision, trust_remote_code=trust_remote_code
        )
    if tokenizer.eos_token is None:
        raise InputError(f"{source}: the tokenizer has no eos_token, so that no answer would ever end")
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    chat = chat or Chat()
    if chat.variables:
        tokenizer.init_kwargs[VARIABLES] = chat.variables
    tokenizer.chat_template = chat.template or tokenizer.chat_template or DEFAULT_TEMPLATE
    try:
        if isinstance(tokenizer.chat_template, str):
            tokenizer.chat_template = pin_clock(tokenizer.chat_template, chat.date)
        else:  # several templates by name
            templates = tokenizer.chat_template.items()
            tokenizer.chat_template = {name: pin_clock(text, chat.date) for name, text in templates}
    except InputError as error:
        raise InputError(f"{source}: {error}") from None
    return tokenizer


def context_of(source: str | Path, trust_remote_code: bool = False) -> int | None:
    """Return the longest sequence of a model in tokens, by its configuration, or None where it sets no limit."""
    name, revision = hub_revision(source)
    with _describe_errors("configuration", source):
        config = AutoConfig.from_pretrained(name, revision=revision, trust_remote_code=trust_remote_code)
    return positions(config)


def load_model(
    source: str | Path, dtype: str = "float32", trust_remote_code: bool = False, device_name: str | None = None
) -> PreTrainedModel | PeftModel:
    """Load the model of a folder or hub name onto `device_name` (default: `device()`), in evaluation mode.

    A folder with an adapter gives the PEFT model, with a trainable adapter and a frozen base. Raises InputError when it
    cannot be loaded from safetensors, or when a weight is missing.
    """
    name, revision = hub_revision(source)
    with _describe_errors("model", source):
        config = _config(source, trust_remote_code)
        model, loading_info = AutoModelForCausalLM.from_pretrained(
            name,
            revision=revision,
            config=config,
            dtype=getattr(torch, dtype),
            use_safetensors=True,
            trust_remote_code=trust_remote_code,
            output_loading_info=True,
        )
        if loading_info["missing_keys"]:  # transformers would initialize them at random
            raise InputError(f"{source}: no weights of {min(loading_info['missing_keys'])}; copy the model again")
        if model.base_model is model and hasattr(model, "model"):  # Llama-4's text model: TRL asks for its layers
            model.base_model_prefix = "model"
        with torch.device("meta"):
            designed = AutoModelForCausalLM.from_config(config, trust_remote_code=trust_remote_code)
        _freeze_what_no_text_trains(model, designed)
        adapter = Path(name) / ADAPTER
        if adapter.is_dir():
            model = PeftModel.from_pretrained(model, str(adapter), is_trainable=True, use_safetensors=True)
    return model.to(device_name or device()).eval()


def skeleton(
    source: str | Path, dtype: str = "float32", trust_remote_code: bool = False
) -> PreTrainedModel | PeftModel:
    """Return the model that `load_model` would load, with tensors that have shapes and no storage."""
    name, _ = hub_revision(source)
    with _describe_errors("model", source), torch.device("meta"):
        config = _config(source, trust_remote_code)
        model = AutoModelForCausalLM.from_config(
            config, dtype=getattr(torch, dtype), trust_remote_code=trust_remote_code
        )
        _freeze_what_no_text_trains(model, model)
        adapter = Path(name) / ADAPTER
        if adapter.is_dir():
            lora = PeftConfig.from_pretrained(str(adapter))
            lora.inference_mode, lora.base_model_name_or_path = False, None
            model = get_peft_model(model, lora)
    return without_storage(model).eval()


def _config(source: str | Path, trust_remote_code: bool) -> Any:
    """Return the configuration of a causal language model, without the loss that balances experts.

    That loss would be added to the training loss, which influence does not know. Raises InputError for other models.
    """
    name, revision = hub_revision(source)
    config = AutoConfig.from_pretrained(name, revision=revision, trust_remote_code=trust_remote_code)
    check_causal(config.to_dict(), source)
    text = config.get_text_config(decoder=True)
    for switch, off in (("output_router_logits", False), ("router_aux_loss_coef", 0.0)):
        if hasattr(text, switch):
            setattr(text, switch, off)
    caps = (getattr(text, name, None) for name in ("logits_soft_cap", "output_logit_soft_cap"))
    if cap := next(filter(None, caps), None):  # TRL computes the logits itself, and knows the cap by this name
        text.final_logit_softcapping = cap
    if not hasattr(config, "use_cache"):  # a tower for pictures moves it into text_config
        config.use_cache = getattr(text, "use_cache", False)
    return config


def _freeze_what_no_text_trains(model: PreTrainedModel, designed: PreTrainedModel) -> None:
    """Freeze the parameters that text alone cannot train.

    These are the towers for pictures and sound, and parameters frozen by design. `designed` is the model as its
    code builds it. Loading makes every parameter trainable.
    """
    trained = {name for name, p in designed.named_parameters() if p.requires_grad}
    parts = [model]
    if model.config.get_text_config(decoder=True) is not model.config:
        parts = [part for part in (model.get_decoder(), model.get_output_embeddings()) if part is not None]
    reads_text = {id(p) for part in parts for p in part.parameters()}
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in trained and id(parameter) in reads_text)


def without_storage(model: M) -> M:
    """Replace the tensors of `model` by tensors that compute shapes alone, as if on the CPU. Ties stay tied."""
    fake_tensors: dict[int, Any] = {}
    with FakeTensorMode(allow_non_fake_inputs=True):
        for p in model.parameters():
            fake_tensors[id(p)] = nn.Parameter(torch.empty(p.shape, dtype=p.dtype), p.requires_grad)
        for buffer in model.buffers():
            fake_tensors[id(buffer)] = torch.empty(buffer.shape, dtype=buffer.dtype)
    for module in model.modules():
        for tensors in (module._parameters, module._buffers):
            tensors |= {name: fake_tensors[id(t)] for name, t in tensors.items() if t is not None}
    return model


def add_lora(model: PreTrainedModel, lora: Lora, seed: int) -> PeftModel:
    """Return `model` with new adapters initialized from `seed`: the only trainable weights, without effect yet.

    A frozen layer, such as one that reads pictures, gets no adapter.
    """
    frozen = [n for n, m in model.named_modules() if isinstance(m, nn.Linear) and not m.weight.requires_grad]
    config = LoraConfig(
        task_type="CAUSAL_LM",
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=lora.target_modules,
        exclude_modules=frozen or None,
    )
    try:
        with torch_seed(seed):
            return get_peft_model(model, config)
    except ValueError as error:
        raise InputError(f"lora.target_modules = {lora.target_modules!r}: {error}") from None


def save(model: PreTrainedModel | PeftModel, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Write a model folder of plain weights.

    Adapters are merged first, and a PEFT model loses them. To continue with the model, load the folder.
    """
    if isinstance(model, PeftModel):
        model = model.merge_and_unload()
    _save(model, tokenizer, folder)


def save_unmerged(model: PreTrainedModel | PeftModel, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Write a model folder with separate adapters, so that training state still fits their parameters.

    A PEFT model loses its adapters. To continue with the model, load the folder.
    """
    if isinstance(model, PeftModel):
        for config in model.peft_config.values():
            config.base_model_name_or_path = ""  # the base is in the same folder; PEFT would fill in None
            if isinstance(config.target_modules, set):
                config.target_modules = sorted(config.target_modules)  # a set has no fixed order
        model.save_pretrained(str(folder / ADAPTER))
        (folder / ADAPTER / "README.md").unlink(missing_ok=True)
        model = model.unload()
    _save(model, tokenizer, folder)


def _save(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    with _no_progress_bars():
        model.save_pretrained(folder)
    for argument in ("is_local", "local_files_only"):  # they depend on the source of the tokenizer
        tokenizer.init_kwargs.pop(argument, None)
    tokenizer.save_pretrained(folder)


def hub_revision(source: str | Path) -> tuple[str, str | None]:
    """Split `user/name@revision` into its two parts. A folder has no revision."""
    if Path(source).is_dir():
        return str(source), None
    name, _, revision = str(source).partition("@")
    return name, revision or None


@contextmanager
def _describe_errors(what: str, source: str | Path) -> Iterator[None]:
    """Describe the problem with `source` in one sentence when the libraries cannot load it."""
    if Path(source).is_dir() or str(source).startswith(("/", "./", "../", "~")):
        check_model_folder(source)
    try:
        with _no_progress_bars():
            yield
    except (OSError, ValueError, ImportError, LookupError, TypeError, AttributeError, SafetensorError) as error:
        if isinstance(error.__cause__, LocalEntryNotFoundError):
            raise StageError(f"{source}: the model hub cannot be reached, and there is no local copy") from error
        reason = " ".join(str(error).split())
        hint = "; set trust_remote_code to run it" if "trust_remote_code" in reason else ""
        raise InputError(f"{source}: no {what} can be loaded from it ({reason[:300]}){hint}") from error


@contextmanager
def _no_progress_bars() -> Iterator[None]:
    """Turn off progress bars of transformers inside the block."""
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()
