"""Convert a checkpoint of llama2.c (github.com/karpathy/llama2.c) to a model folder, for small trained models.

    .venv/bin/python benchmarks/llama2c.py CHECKPOINT OUT [--context 4096]

CHECKPOINT is a folder with the weights, such as `stories260K.bin`, and the tokenizer, `tok512.bin`. A `--context` above
the model's training length worsens its answers. It is for benchmarks that need room and no good answers.
"""

import argparse
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, normalizers, processors
from tokenizers.models import BPE
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from montessori.models import loading

SINGLE = 259  # pieces that are no merges: three special ones, and the bytes


def main() -> None:
    """Write the folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--context", type=int, help="tokens; default: as the checkpoint says")
    options = parser.parse_args()
    (pieces,) = options.checkpoint.glob("tok*.bin")
    (weights,) = (path for path in options.checkpoint.glob("*.bin") if path != pieces)
    model = read_model(weights)
    model.config.max_position_embeddings = options.context or model.config.max_position_embeddings
    loading.save(model, read_tokenizer(pieces), options.out)


def read_model(path: Path) -> LlamaForCausalLM:
    """Read the weights: seven sizes, then float32 numbers, one tensor with all layers after the other."""
    raw = path.read_bytes()
    sizes = torch.frombuffer(bytearray(raw[:28]), dtype=torch.int32).tolist()
    hidden, between, layers, heads, shared, vocabulary, context = sizes
    numbers = torch.frombuffer(bytearray(raw[28:]), dtype=torch.float32)
    width = hidden // heads * shared  # of keys and values

    def take(*shape: int) -> torch.Tensor:
        nonlocal numbers
        count = int(torch.Size(shape).numel())
        tensor, numbers = numbers[:count].view(shape), numbers[count:]
        return tensor

    def rotated(weight: torch.Tensor, count: int) -> torch.Tensor:
        """Reorder channels from neighbouring pairs to pairs of halves, as transformers expects them."""
        return weight.view(layers, count, -1, 2, hidden).transpose(2, 3).reshape(weight.shape)

    embedding, attention_norm = take(vocabulary, hidden), take(layers, hidden)
    stacked = {
        "input_layernorm": attention_norm,
        "self_attn.q_proj": rotated(take(layers, hidden, hidden), heads),
        "self_attn.k_proj": rotated(take(layers, width, hidden), shared),
        "self_attn.v_proj": take(layers, width, hidden),
        "self_attn.o_proj": take(layers, hidden, hidden),
        "post_attention_layernorm": take(layers, hidden),
        "mlp.gate_proj": take(layers, between, hidden),
        "mlp.down_proj": take(layers, hidden, between),
        "mlp.up_proj": take(layers, between, hidden),
    }
    state = {f"model.layers.{n}.{name}.weight": t[n] for name, t in stacked.items() for n in range(layers)}
    state |= {"model.embed_tokens.weight": embedding, "model.norm.weight": take(hidden), "lm_head.weight": embedding}
    shape = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=hidden,
        intermediate_size=between,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=shared,
        max_position_embeddings=context,
        rms_norm_eps=1e-5,
        tie_word_embeddings=True,
    )
    model = LlamaForCausalLM(shape)
    model.load_state_dict(state)
    return model.eval()


def read_tokenizer(path: Path) -> PreTrainedTokenizerBase:
    """Read the tokenizer: a BPE with pieces in the order of their merges, and bytes where it has no piece."""
    raw, at, pieces = path.read_bytes(), 4, []
    while at < len(raw):
        size = int.from_bytes(raw[at + 4 : at + 8], "little")
        pieces.append(raw[at + 8 : at + 8 + size].decode())
        at += 8 + size
    pieces[:3] = ["<unk>", "<s>", "</s>"]
    names = [piece if number < SINGLE else piece.replace(" ", "▁") for number, piece in enumerate(pieces)]
    ranks = {piece: number for number, piece in enumerate(names)}
    merges = [
        (piece[:cut], piece[cut:])
        for piece in names[SINGLE:]
        for cut in range(1, len(piece))
        if piece[:cut] in ranks and piece[cut:] in ranks
    ]
    tokenizer = Tokenizer(BPE(ranks, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    tokenizer.decoder = decoders.Sequence(steps)
    tokenizer.post_processor = processors.TemplateProcessing("<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


if __name__ == "__main__":
    main()
