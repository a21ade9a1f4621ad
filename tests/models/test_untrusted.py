"""Model folders that somebody else made: what could run code or lead to other files is refused in one sentence."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import pytest
import torch

from hf_difflm.errors import UserError
from hf_difflm.models import MaskedDiffusionForMaskedLM
from hf_difflm.models.loading import load_config, load_model
from hf_difflm.models.untrusted import refuse_names, refuse_unsafe


class Bomb:
    """Unpickled, it leaves a file behind: what a malicious weights file would do."""

    def __init__(self, proof: Path) -> None:
        self.proof = proof

    def __reduce__(self):
        return (Path.touch, (self.proof,))


@pytest.fixture
def folder(tmp_path, tiny_denoiser, tokenizer):
    """A good model folder with its tokenizer."""
    path = tmp_path / "model"
    tiny_denoiser().save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


def change(path: Path, **values) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def refused(folder: Path) -> str:
    with pytest.raises(UserError) as error:
        load_model(folder, "somebody/model")
    assert "\n" not in str(error.value)
    assert "somebody/model" in str(error.value)
    return str(error.value)


def test_a_good_folder_loads_and_code_of_a_known_model_is_ignored(folder, tiny_denoiser):
    change(folder / "config.json", auto_map={"AutoConfig": "evil.Config", "AutoModelForMaskedLM": "evil.Model"})
    (folder / "evil.py").write_text(f"open({str(folder / 'proof')!r}, 'w')")
    model = load_model(folder, "somebody/model")
    assert type(model) is MaskedDiffusionForMaskedLM
    assert not (folder / "proof").exists()
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in tiny_denoiser().state_dict().items())


def test_pickled_weights_are_never_opened(folder):
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Bomb(folder / "proof")))
    assert "pickle (pytorch_model.bin)" in refused(folder)
    assert not (folder / "proof").exists()
    (folder / "pytorch_model.bin").rename(folder / "weights.pt")
    assert "pickle (weights.pt)" in refused(folder)


def test_a_pickle_beside_safetensors_is_left_alone(folder):
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Bomb(folder / "proof")))
    load_model(folder, "somebody/model")
    assert not (folder / "proof").exists()


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"model_type": "foreign", "auto_map": {"AutoConfig": "evil.Config"}}, "needs code of its own"),
        ({"model_type": "foreign", "auto_map": {"AutoConfig": "other/repo--evil.Config"}}, "needs code of its own"),
        ({"backbone_config": {"model_type": "llama", "auto_map": {"AutoModel": "evil.M"}}}, "needs code of its own"),
        ({"model_type": "foreign"}, "model type 'foreign'"),
        ({"model_type": ["llama"]}, "model type"),
        ({"attn_implementation": "evil/kernel"}, "kernel 'evil/kernel'"),
        ({"_attn_implementation": "evil/kernel@main"}, "kernel 'evil/kernel@main'"),
        ({"_attn_implementation_internal": "evil/kernel"}, "kernel 'evil/kernel'"),
        ({"backbone_config": {"model_type": "llama", "attn_implementation": "evil/kernel"}}, "kernel 'evil/kernel'"),
        ({"experts_implementation": {"": "evil/kernel"}}, "kernel"),
        ({"transformers_weights": "../other/model.safetensors"}, "'../other/model.safetensors'"),
        ({"format_version": 1000}, "format version 1000"),
    ],
    ids=lambda value: "" if isinstance(value, str) else json.dumps(value)[:50],
)
def test_code_and_kernels_in_the_configuration_are_refused(folder, values, said):
    change(folder / "config.json", **values)
    assert said in refused(folder)


@pytest.mark.parametrize(
    "file",
    ["../secret.safetensors", "/etc/secret.safetensors", "..\\x.safetensors", "sub/x.safetensors", "x.bin", "", 7],
)
def test_an_index_of_weights_names_files_of_its_own_folder(folder, file):
    (folder / "model.safetensors").rename(folder.parent / "secret.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"lm_head.weight": file}}))
    assert f"names the file {str(file)!r}" in refused(folder)


@pytest.mark.parametrize("content", ["{", "[]", '{"weight_map": []}', '{"weight_map": {"a": "model-9.safetensors"}}'])
def test_a_damaged_index_is_a_sentence(folder, content):
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(content)
    refused(folder)


def test_weights_in_several_files_load(folder, tiny_denoiser):
    (folder / "model.safetensors").unlink()
    tiny_denoiser().save_pretrained(folder, max_shard_size="8KB")
    assert len(list(folder.glob("model-*.safetensors"))) > 1
    load_model(folder, "somebody/model")


@pytest.mark.parametrize(
    ("key", "file"),
    [
        ("vocab_file", "../../secret.txt"),
        ("tokenizer_file", "sub/../../secret.json"),
        ("merges", "..\\secret"),
        ("fast_tokenizer_files", ["tokenizer.json", "../tokenizer.5.0.json"]),
    ],
)
def test_a_tokenizer_names_no_file_outside(folder, key, file):
    change(folder / "tokenizer_config.json", **{key: file})
    assert f"{key} in its tokenizer_config.json names" in refused(folder)


def test_an_absolute_file_of_a_tokenizer_counts_only_where_it_is_there(folder, tmp_path):
    change(folder / "tokenizer_config.json", special_tokens_map_file="/somewhere/else/special_tokens_map.json")
    load_config(folder, "somebody/model")  # what a cache on another machine left behind
    (tmp_path / "secret").write_text("s")
    change(folder / "tokenizer_config.json", vocab_file=str(tmp_path / "secret"))
    assert "vocab_file" in refused(folder)


@pytest.mark.parametrize("content", ["", "{", "[]", "\udcff", "[" * 100_000])
def test_a_configuration_that_is_none_is_a_sentence(folder, content):
    (folder / "config.json").write_bytes(content.encode("utf-8", "surrogateescape"))
    assert "config.json" in refused(folder)


def test_a_folder_without_configuration_or_weights_is_no_model(folder):
    (folder / "model.safetensors").unlink()
    assert "holds no weights" in refused(folder)
    (folder / "config.json").unlink()
    assert "holds no config.json" in refused(folder)


@pytest.mark.parametrize("name", ["../evil.json", "/etc/passwd", "a/../../b", "a\\..\\b", "a\0b"])
def test_names_that_lead_out_of_a_repository_are_refused(name):
    with pytest.raises(UserError, match="leads out of its folder"):
        refuse_names(["config.json", "deep/er/b.json", name], "somebody/model")


def test_names_below_a_folder_are_fine(folder):
    refuse_names(["config.json", "deep/er/..b.json"], "somebody/model")
    refuse_unsafe(folder, "somebody/model")
