"""The way back: tensors and configuration are those that came; fixtures/released/make.py lets the authors' code read them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from hf_difflm.errors import UserError
from hf_difflm.hub.conversion.any_model import convert
from hf_difflm.hub.conversion.released.backwards import give_back
from hf_difflm.models import MaskedDiffusionConfig, MaskedDiffusionForMaskedLM

FIXTURES = Path(__file__).parents[2] / "fixtures" / "released"
FORMATS = ("llada", "dream", "sdar")
# What says nothing of the network, or says it of another place; and what the way back writes anew.
ASIDE = {"transformers_version", "init_device", "init_fn", "auto_map", "ep_size", "micro_forward", "skip_checkpoint"}
ASIDE |= {"use_deepep", "max_window_layers", "fuse_cross_entropy", "bos_token_id"}


@pytest.mark.parametrize("name", FORMATS)
def test_tensors_and_configuration_come_back(name, tmp_path):
    convert(str(FIXTURES / name), tmp_path / "made")
    given = give_back(str(tmp_path / "made"), tmp_path / "back", name)
    theirs, back = load_file(FIXTURES / name / "model.safetensors"), load_file(tmp_path / "back" / "model.safetensors")
    assert theirs.keys() == back.keys()
    assert all(torch.equal(theirs[key], back[key]) for key in theirs)
    assert given.parameters == sum(value.numel() for value in theirs.values())
    before, after = (json.loads((place / "config.json").read_text()) for place in (FIXTURES / name, tmp_path / "back"))
    assert (given.model_type, [given.architecture]) == (before["model_type"], before["architectures"])
    if name == "llada":
        assert after["vocab_size"] == after["embedding_size"] == before["embedding_size"]
        before["vocab_size"] = before["embedding_size"]
    assert {key for key, value in before.items() if after.get(key) != value} - ASIDE == set()
    assert (tmp_path / "back" / "tokenizer.json").exists()


@pytest.mark.parametrize("name", FORMATS)
def test_there_and_back_and_there_is_the_same_model(name, tmp_path):
    convert(str(FIXTURES / name), tmp_path / "made")
    give_back(str(tmp_path / "made"), tmp_path / "back", name)
    convert(str(tmp_path / "back"), tmp_path / "again")
    first, second = (MaskedDiffusionConfig.from_pretrained(tmp_path / place).to_dict() for place in ("made", "again"))
    assert {key for key in first if first[key] != second[key]} <= {"converted_from", "vocab_size"}
    weights = [load_file(tmp_path / place / "model.safetensors") for place in ("made", "again")]
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0] | weights[1])


def stored(folder: Path, backbone: str = "llama", **fields: Any) -> Path:
    sizes = {
        "vocab_size": 20,
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
    }
    more = {
        key: fields.pop(key) for key in ("attention_bias", "head_dim", "hidden_act", "rope_parameters") if key in fields
    }
    config = MaskedDiffusionConfig(
        backbone_config={"model_type": backbone, "num_key_value_heads": 1, **sizes, **more},
        **{"mask_token_id": 19, "tie_word_embeddings": True, **fields},
    )
    MaskedDiffusionForMaskedLM(config).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_model_trained_here_goes_there_and_back(dtype, tmp_path):
    """Its head is tied, and is in the file once."""
    folder = stored(tmp_path / "ours")
    weights = {key: value.to(dtype) for key, value in load_file(folder / "model.safetensors").items()}
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    give_back(str(folder), tmp_path / "back", "llada")
    config = json.loads((tmp_path / "back" / "config.json").read_text())
    assert (config["weight_tying"], config["torch_dtype"]) == (True, str(dtype).removeprefix("torch."))
    again = convert(str(tmp_path / "back"), tmp_path / "again", no_tokenizer=True)
    assert again.kind == "LLaDA"
    found = load_file(tmp_path / "again" / "model.safetensors")
    assert found.keys() == weights.keys()
    assert all(torch.equal(found[key], weights[key]) for key in weights)


@pytest.mark.parametrize(
    ("to", "fields", "said"),
    [
        ("llada", {"backbone": "qwen2"}, "the backbone 'qwen2', but a LLaDA has 'llama'"),
        ("llada", {"shift_logits": True}, "shift_logits True, but a LLaDA has False"),
        ("llada", {"diffusion_block_size": 4}, "diffusion_block_size 4"),
        ("llada", {"attention_bias": True}, "attention_bias True"),
        ("llada", {"head_dim": 16}, "heads of the width 16"),
        ("llada", {"hidden_act": "gelu"}, "the activation 'gelu'"),
        ("llada", {"head_bias": True}, "a bias in the head"),
        ("llada", {"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4}}, "rope_scaling"),
        ("dream", {"backbone": "qwen2"}, "shift_logits False, but a Dream has True"),
        ("dream", {"backbone": "llama"}, "the backbone 'llama'"),
        ("sdar", {"backbone": "qwen3"}, "no diffusion blocks"),
        (
            "sdar",
            {"backbone": "qwen3", "diffusion_block_size": 4, "diffusion_block_start": "answer"},
            "diffusion_block_start",
        ),
        ("gguf2", {}, "--to must be one of llada, dream, sdar, gguf"),
    ],
)
def test_what_the_other_format_has_no_words_for_is_refused(to, fields, said, tmp_path):
    folder = stored(tmp_path / "ours", **fields)
    with pytest.raises(UserError, match=said) as caught:
        give_back(str(folder), tmp_path / "back", to)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "back").exists()


def test_only_a_denoiser_goes_back(tmp_path):
    with pytest.raises(UserError, match="no masked diffusion model"):
        give_back(str(FIXTURES / "llada"), tmp_path / "back", "llada")
