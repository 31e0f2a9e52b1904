"""Check a model folder by file names and headers, before any heavy library is imported."""

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from montessori.errors import InputError

TOKENIZERS = ("tokenizer.json", "*.model", "vocab.json", "vocab.txt", "*.tiktoken")
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")
INDEX = "model.safetensors.index.json"
# All files that the libraries read from a model folder. A store or a report in the folder is none of them.
READ = (
    *("config.json", "generation_config.json", "*.safetensors", "*.safetensors.index.json", "*.py"),
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "*.model"),
    *("vocab.json", "vocab.txt", "merges.txt", "*.tiktoken"),
    *("*.jinja", "chat_template.json", "additional_chat_templates/*.jinja"),
    *("adapter/adapter_config.json", "adapter/*.safetensors"),
)


def files_of(folder: Path) -> list[Path]:
    """Return the files of the model and its tokenizer in `folder`, sorted."""
    return sorted({file for pattern in READ for file in folder.glob(pattern) if file.is_file()})


# Model types that read the text after a token too, unless `is_decoder` is set.
ENCODERS = {
    "albert", "bert", "bert-generation", "big_bird", "camembert", "data2vec-text", "deberta", "deberta-v2",
    "distilbert", "electra", "ernie", "mpnet", "megatron-bert", "modernbert", "rembert", "roberta",
    "roberta-prelayernorm", "roc_bert", "roformer", "xlm-roberta", "xlm-roberta-xl", "xmod",
}  # fmt: skip
NEVER_CAUSAL = {"cpmant", "prophetnet", "reformer", "trocr", "xlm", "xlnet"}


def check_model_folder(path: str | Path) -> None:
    """Raise InputError unless the folder at `path` has a configuration, a tokenizer and complete safetensors."""
    folder = Path(path)
    if not folder.is_dir():
        raise InputError(f"{folder}: no such model folder")
    if not (folder / "config.json").is_file():
        hint = "a model saved with save_pretrained has one"
        if (folder / "adapter_config.json").is_file():
            hint = "this is a LoRA adapter alone: merge it into its base model and save that"
        raise InputError(f"{folder}: no config.json; {hint}")
    if not _any(folder, TOKENIZERS):
        raise InputError(
            f"{folder}: no tokenizer (for example tokenizer.json or tokenizer.model); save it beside the model"
        )
    if not _any(folder, ("*.safetensors",)):
        pickled = _any(folder, PICKLES)
        raise InputError(
            f"{folder}: only pickled weights ({pickled}), which can run code; save them as safetensors"
            if pickled
            else f"{folder}: no weights; model.safetensors, or its shards with {INDEX}, is expected"
        )
    missing = _missing_shards(folder)
    if missing:
        raise InputError(f"{folder}: {INDEX} names {missing[0]}, which is not there; copy the folder again")
    for file in folder.glob("adapter/adapter_config.json"):
        _read_json(file)
    check_causal(_read_json(folder / "config.json"), folder)
    for file in sorted((*folder.glob("*.safetensors"), *folder.glob("adapter/*.safetensors"))):
        tensor_shapes(file)


def check_causal(config: dict[str, Any], source: str | Path) -> None:
    """Raise InputError where the configuration is of a model that does not continue a text from left to right."""
    kind = config.get("model_type")
    if config.get("is_encoder_decoder"):
        reason = "has an encoder and a decoder"
    elif kind in NEVER_CAUSAL or (kind in ENCODERS and not config.get("is_decoder")):
        reason = "reads the text on both sides of a token"
    else:
        return
    raise InputError(
        f"{source}: a model of type {kind} {reason}, so it cannot be a student or a teacher; "
        "give a causal language model, such as Llama or Qwen"
    )


def tensor_shapes(file: Path) -> dict[str, list[int]]:
    """Return the shapes of a safetensors file's tensors by name, from its header."""
    try:
        with safe_open(file, "np") as tensors:
            return {name: tensors.get_slice(name).get_shape() for name in tensors.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise InputError(f"{file}: not a whole safetensors file ({error}); copy it again") from None


def _read_json(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{file}: not JSON ({error}); copy it again") from None
    if not isinstance(content, dict):
        raise InputError(f"{file}: not a JSON object; copy it again")
    return content


def _any(folder: Path, patterns: tuple[str, ...]) -> str | None:
    """Return the name of the first matching file, or None."""
    return next((file.name for pattern in patterns for file in sorted(folder.glob(pattern))), None)


def _missing_shards(folder: Path) -> list[str]:
    index = folder / INDEX
    if not index.is_file() or (folder / "model.safetensors").is_file():
        return []
    try:
        shards = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    except (ValueError, KeyError, AttributeError, TypeError):
        raise InputError(f"{index}: not an index of weights; copy the folder again") from None
    return sorted(shard for shard in shards if not (folder / shard).is_file())
