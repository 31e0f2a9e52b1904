"""Tokenizers of the kinds that real models have, trained on a few texts."""

import json
import re
from functools import cache

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

TEXTS = [
    "Name a colour of the rainbow, and say why you like it. Red.",
    "Explain the difference between a car and a truck. A truck carries goods.",
    "def add(a, b):\n    return a + b\n\nprint(add(1, 2))\n",
    "user assistant system human model tool You are a helpful assistant. Hello world! 1 2 3",
]
KINDS = ("prepend", "metaspace", "byte-level", "wordpiece")
SPECIAL = ["<unk>", "<s>", "</s>"]
MARK = re.compile(r"<[|｜/]?[\w｜|▁ ]+?[|｜]?>|\[/?INST\]")  # texts of a template that look like special tokens
BYTES = [f"<0x{n:02X}>" for n in range(256)]


def tokenizer_of(kind: str, template: str) -> PreTrainedTokenizerBase:
    """Return a tokenizer of one of `KINDS` with a chat template, whose marks are tokens of their own."""
    built = Tokenizer.from_str(_trained(kind))
    built.add_special_tokens(sorted({*MARK.findall(template)} - {*SPECIAL}))
    names = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "</s>"}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=built, **names)
    tokenizer.chat_template = template
    return tokenizer


@cache
def _trained(kind: str) -> str:
    sentencepiece = kind in ("prepend", "metaspace")
    built = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=sentencepiece, fuse_unk=True))
    train, alphabet = trainers.BpeTrainer, []
    if sentencepiece:
        fallback = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
        built.decoder = decoders.Sequence(fallback)
    if kind == "prepend":  # as Llama 2 and Mistral
        built.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    elif kind == "metaspace":  # as Gemma
        built.pre_tokenizer = pre_tokenizers.Metaspace("▁", prepend_scheme="first")
    elif kind == "byte-level":  # as GPT-2, Llama 3 and Qwen
        built.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        built.decoder = decoders.ByteLevel()
        built.post_processor = processors.ByteLevel(trim_offsets=True)
        alphabet = pre_tokenizers.ByteLevel.alphabet()
    else:  # as BERT
        built, train = Tokenizer(models.WordPiece(unk_token="<unk>")), trainers.WordPieceTrainer
        built.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        built.decoder = decoders.WordPiece()
    special = [*SPECIAL, *(BYTES if sentencepiece else [])]
    built.train_from_iterator(
        TEXTS, train(vocab_size=900, special_tokens=special, initial_alphabet=alphabet, show_progress=False)
    )
    state = json.loads(built.to_str())
    state["added_tokens"] = [token for token in state["added_tokens"] if token["content"] not in BYTES]
    return json.dumps(state)
