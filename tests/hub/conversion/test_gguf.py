"""A GGUF file holds every number and what llama.cpp would else take for granted; read back by the package gguf."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from hf_difflm.errors import UserError
from hf_difflm.hub.conversion.any_model import convert
from hf_difflm.hub.conversion.released.backwards import give_back
from hf_difflm.hub.conversion.released.gguf import _neighbours
from hf_difflm.models import MaskedDiffusionConfig, MaskedDiffusionForMaskedLM

FIXTURES = Path(__file__).parents[2] / "fixtures" / "released"
HEADS = {"attn_q": 3, "attn_k": 1}


def read(folder: Path) -> Any:
    return pytest.importorskip("gguf", reason="gguf is not installed (pip install gguf)").GGUFReader(
        folder / "model.gguf"
    )


def values(reader: Any) -> dict[str, Any]:
    return {name: field.contents() for name, field in reader.fields.items()}


def halves(rows: np.ndarray, heads: int) -> np.ndarray:
    """Row 2 i + j of a head back to row j of its half i: the inverse, written out row by row."""
    width = len(rows) // heads
    found = np.empty_like(rows)
    for head in range(heads):
        for i in range(width // 2):
            for j in range(2):
                found[head * width + j * width // 2 + i] = rows[head * width + 2 * i + j]
    return found


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", ["llada", "dream"])
def test_every_number_comes_back_from_the_file(name, dtype, tmp_path):
    pytest.importorskip("gguf", reason="gguf is not installed (pip install gguf)")
    folder = convert(str(FIXTURES / name), tmp_path / "made").folder
    weights = {key: value.to(dtype) for key, value in load_file(folder / "model.safetensors").items()}
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    give_back(str(folder), tmp_path / "back", "gguf")
    reader = read(tmp_path / "back")
    found = {tensor.name: tensor for tensor in reader.tensors}
    parts = {"input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm"}
    parts |= {f"self_attn.{a}_proj": f"attn_{b}" for a, b in (("q", "q"), ("k", "k"), ("v", "v"), ("o", "output"))}
    parts |= {f"mlp.{a}_proj": f"ffn_{a}" for a in ("gate", "up", "down")}
    names = {"backbone.embed_tokens.weight": "token_embd.weight", "lm_head.weight": "output.weight"}
    names["backbone.norm.weight"] = "output_norm.weight"
    for key in weights:
        if key.startswith("backbone.layers."):
            _, _, layer, part = key.split(".", 3)
            part, end = part.rsplit(".", 1)
            names[key] = f"blk.{layer}.{parts[part]}.{end}"
    assert found.keys() == {names[key] for key in weights}
    for key, weight in weights.items():
        tensor = found[names[key]]
        kind = {torch.float32: "F32", torch.bfloat16: "BF16"}[torch.float32 if weight.dim() == 1 else dtype]
        assert (tensor.tensor_type.name, tuple(reversed(tensor.shape.tolist()))) == (kind, tuple(weight.shape))
        data = torch.from_numpy(np.array(tensor.data))
        data = data.view(torch.bfloat16) if kind == "BF16" else data
        data = data.reshape(weight.shape)
        part = names[key].split(".")[-2]
        if name == "llada" and part in HEADS:
            assert not torch.equal(data, weight)
            data = torch.from_numpy(halves(data.float().numpy(), HEADS[part]))
        assert torch.equal(data.float(), weight.float()), key


@pytest.mark.parametrize("name", ["llada", "dream"])
def test_direction_shift_mask_and_sizes_are_written(name, tmp_path):
    pytest.importorskip("gguf", reason="gguf is not installed (pip install gguf)")
    folder = convert(str(FIXTURES / name), tmp_path / "made").folder
    give_back(str(folder), tmp_path / "back", "gguf")
    found = values(read(tmp_path / "back"))
    config = MaskedDiffusionConfig.from_pretrained(folder)
    assert found["general.architecture"] == name
    assert (found[f"{name}.attention.causal"], found["diffusion.shift_logits"]) == (False, name == "dream")
    assert found["tokenizer.ggml.mask_token_id"] == config.mask_token_id
    assert found["tokenizer.ggml.tokens"][config.mask_token_id] == {"llada": "<|mdm_mask|>", "dream": "<|mask|>"}[name]
    assert found["tokenizer.ggml.token_type"][config.mask_token_id] == 3  # control
    assert len(found["tokenizer.ggml.tokens"]) == config.vocab_size
    assert found["tokenizer.ggml.tokens"][-1].startswith("[PAD")
    assert found["tokenizer.ggml.pre"] == {"llada": "gpt-2", "dream": "qwen2"}[name]
    assert found[f"{name}.rope.freq_base"] == config.backbone_config.rope_parameters["rope_theta"]
    assert found[f"{name}.attention.layer_norm_rms_epsilon"] == pytest.approx(config.backbone_config.rms_norm_eps)
    sizes = (
        "block_count",
        "embedding_length",
        "attention.head_count",
        "attention.head_count_kv",
        "feed_forward_length",
    )
    assert [found[f"{name}.{size}"] for size in sizes] == [2, 24, 3, 1, 32]


def test_rows_that_rotate_together_stand_side_by_side():
    """Interleaved rotation of the rows of the file is the rotation of halves of ours."""
    generator = torch.Generator().manual_seed(0)
    heads, width = 3, 8
    weight, x = torch.randn(heads * width, 5, generator=generator), torch.randn(5, generator=generator)
    angle = torch.rand(width // 2, generator=generator)
    ours = (weight @ x).view(heads, 2, width // 2)
    turned = torch.polar(torch.ones_like(angle), angle) * torch.complex(ours[:, 0], ours[:, 1])
    theirs = torch.from_numpy(_neighbours(weight.numpy(), heads).copy()) @ x
    beside = torch.view_as_complex(theirs.view(heads, width // 2, 2)) * torch.polar(torch.ones_like(angle), angle)
    torch.testing.assert_close(beside, turned)


def test_without_a_tokenizer_the_file_has_no_words(tmp_path):
    pytest.importorskip("gguf", reason="gguf is not installed (pip install gguf)")
    folder = convert(str(FIXTURES / "llada"), tmp_path / "made").folder
    give_back(str(folder), tmp_path / "back", "gguf", no_tokenizer=True)
    found = values(read(tmp_path / "back"))
    assert found["tokenizer.ggml.model"] == "no_vocab"
    assert found["tokenizer.ggml.mask_token_id"] == 259
    assert "tokenizer.ggml.tokens" not in found


@pytest.mark.parametrize(
    ("backbone", "fields", "said"),
    [
        ("qwen3", {}, "is a qwen3, but GGUF files are written of llama and qwen2"),
        ("llama", {"attention_bias": True}, "attention_bias True"),
        ("llama", {"head_dim": 16}, "head_dim 16"),
        ("llama", {"diffusion_block_size": 4}, "diffusion_block_size 4"),
        ("llama", {"head_bias": True}, "head_bias True"),
        ("llama", {"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4}}, "rope_parameters"),
    ],
)
def test_what_llama_cpp_has_no_key_for_is_refused(backbone, fields, said, tmp_path):
    sizes = {
        "vocab_size": 20,
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
    }
    inner = {key: fields[key] for key in ("attention_bias", "head_dim", "rope_parameters") if key in fields}
    outer = {key: value for key, value in fields.items() if key not in inner}
    config = MaskedDiffusionConfig(
        backbone_config={"model_type": backbone, **sizes, **inner}, mask_token_id=19, **outer
    )
    MaskedDiffusionForMaskedLM(config).save_pretrained(tmp_path / "ours")
    with pytest.raises(UserError, match=said) as caught:
        give_back(str(tmp_path / "ours"), tmp_path / "back", "gguf")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "back").exists()
