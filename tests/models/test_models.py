import json
import shutil
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file

from montessori.errors import InputError
from montessori.models import folder as checks
from montessori.models import loading
from montessori.settings.models import Lora

IDS = torch.tensor([[1, 50, 60, 70, 80]])


@pytest.fixture
def folder(tiny_llama, tiny_tokenizer, tmp_path):
    loading.save(tiny_llama(), tiny_tokenizer, tmp_path / "model")
    return tmp_path / "model"


def with_lora(tiny_llama):
    """A LoRA model whose adapters are not zero."""
    model = loading.add_lora(tiny_llama(), Lora(rank=2), seed=0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.copy_(torch.linspace(-0.5, 0.5, parameter.numel()).view_as(parameter))
    return model.eval()


def files(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_a_saved_model_loads_as_it_was(folder, tiny_llama, tiny_tokenizer):
    checks.check_model_folder(folder)
    model, tokenizer = loading.load_model(folder), loading.load_tokenizer(folder)
    assert torch.equal(model(input_ids=IDS).logits, tiny_llama()(input_ids=IDS).logits)
    assert not model.training
    assert tokenizer("a task")["input_ids"] == tiny_tokenizer("a task")["input_ids"]
    assert tokenizer.chat_template == tiny_tokenizer.chat_template


def test_what_is_saved_does_not_depend_on_where_it_was_loaded_from(folder, tmp_path):
    written = []
    for name in ("here", "there"):
        shutil.copytree(folder, tmp_path / name)
        model = loading.add_lora(loading.load_model(tmp_path / name), Lora(rank=2), seed=0)
        loading.save_unmerged(model, loading.load_tokenizer(tmp_path / name), tmp_path / f"{name}-again")
        written.append(files(tmp_path / f"{name}-again"))
    assert written[0] == written[1]


def test_save_merges_adapters_into_the_same_function(tiny_llama, tiny_tokenizer, tmp_path):
    model = with_lora(tiny_llama)
    expected = model(input_ids=IDS).logits
    loading.save(model, tiny_tokenizer, tmp_path)
    loaded = loading.load_model(tmp_path)
    assert (expected - tiny_llama()(input_ids=IDS).logits).abs().max() > 0.01
    torch.testing.assert_close(loaded(input_ids=IDS).logits, expected)
    assert not any("lora" in name for name, _ in loaded.named_parameters())


def test_save_unmerged_keeps_adapters_and_their_names(tiny_llama, tiny_tokenizer, tmp_path):
    model = with_lora(tiny_llama)
    expected = model(input_ids=IDS).logits
    trainable = {name: p.shape for name, p in model.named_parameters() if p.requires_grad}
    loading.save_unmerged(model, tiny_tokenizer, tmp_path)
    loaded = loading.load_model(tmp_path)
    assert torch.equal(loaded(input_ids=IDS).logits, expected)
    assert {name: p.shape for name, p in loaded.named_parameters() if p.requires_grad} == trainable


def test_the_adapter_file_lists_its_targets_in_a_fixed_order(tiny_llama, tiny_tokenizer, tmp_path):
    loading.save_unmerged(with_lora(tiny_llama), tiny_tokenizer, tmp_path)
    targets = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())["target_modules"]
    assert len(targets) > 6
    assert targets == sorted(targets)


def test_adapters_are_drawn_from_the_seed_alone(tiny_llama):
    def weights(seed):
        model = loading.add_lora(tiny_llama(), Lora(rank=2), seed)
        return torch.cat([p.flatten() for n, p in model.named_parameters() if "lora_A" in n])

    before = torch.get_rng_state()
    first = weights(0)
    torch.rand(3)
    assert torch.equal(first, weights(0))
    assert not torch.equal(first, weights(1))
    torch.set_rng_state(before)
    weights(0)
    assert torch.equal(torch.get_rng_state(), before)


def test_unknown_adapter_targets_are_wrong_input(tiny_llama):
    with pytest.raises(InputError, match=r"lora.target_modules = \['nope'\]"):
        loading.add_lora(tiny_llama(), Lora(target_modules=["nope"]), seed=0)


def test_pickled_weights_are_refused(folder):
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save(weights, folder / "pytorch_model.bin")
    for look in (checks.check_model_folder, loading.load_model):
        with pytest.raises(InputError, match=r"model: only pickled weights \(pytorch_model.bin\).*safetensors"):
            look(folder)


def test_a_folder_without_weights_is_refused(folder):
    (folder / "model.safetensors").unlink()
    with pytest.raises(InputError, match=r"no weights; model\.safetensors"):
        checks.check_model_folder(folder)


def test_a_folder_without_a_configuration_is_refused(folder):
    (folder / "config.json").unlink()
    with pytest.raises(InputError, match=r"no config\.json"):
        checks.check_model_folder(folder)


def test_an_adapter_alone_is_refused_with_what_to_do(tiny_llama, tiny_tokenizer, tmp_path):
    loading.save_unmerged(with_lora(tiny_llama), tiny_tokenizer, tmp_path)
    with pytest.raises(InputError, match="LoRA adapter alone: merge it"):
        checks.check_model_folder(tmp_path / "adapter")


def test_a_folder_without_a_tokenizer_is_refused(folder):
    (folder / "tokenizer.json").unlink()
    for look in (checks.check_model_folder, loading.load_tokenizer):
        with pytest.raises(InputError, match="no tokenizer"):
            look(folder)


def test_a_missing_folder_is_refused(tmp_path):
    for look in (checks.check_model_folder, loading.load_model):
        with pytest.raises(InputError, match="nothing: no such model folder"):
            look(tmp_path / "nothing")


def test_a_missing_shard_is_named(folder):
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}
    (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")
    (folder / checks.INDEX).write_text(json.dumps(index))
    with pytest.raises(InputError, match=r"names model-00002-of-00002\.safetensors, which is not there"):
        checks.check_model_folder(folder)


def test_a_missing_weight_is_named_and_not_made_up(folder):
    weights = load_file(folder / "model.safetensors")
    del weights["model.layers.0.mlp.up_proj.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InputError, match=r"no weights of model\.layers\.0\.mlp\.up_proj\.weight"):
        loading.load_model(folder)


def test_a_cut_off_file_is_wrong_input(folder):
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(InputError, match=r"model\.safetensors: not a whole safetensors file"):
        loading.load_model(folder)


def test_remote_code_runs_only_when_asked(folder):
    config = json.loads((folder / "config.json").read_text())
    config |= {
        "model_type": "custom",
        "auto_map": {"AutoConfig": "code.Config", "AutoModelForCausalLM": "code.Model"},
    }
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "code.py").write_text(f"open({str(folder / 'ran')!r}, 'w')\n")
    with pytest.raises(InputError, match="set trust_remote_code to run it"):
        loading.load_model(folder)
    assert not (folder / "ran").exists()


def test_a_tokenizer_that_cannot_end_a_text_is_refused(folder):
    config = json.loads((folder / "tokenizer_config.json").read_text())
    del config["eos_token"]
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match="no eos_token"):
        loading.load_tokenizer(folder)


def test_the_check_of_a_folder_imports_nothing_heavy():
    code = "import sys, montessori.models.folder; assert not {'torch', 'transformers', 'numpy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_nothing_is_printed(folder, tiny_llama, tiny_tokenizer, tmp_path, capfd):
    loading.save(loading.load_model(folder), tiny_tokenizer, tmp_path / "again")
    captured = capfd.readouterr()
    assert captured.out + captured.err == ""
