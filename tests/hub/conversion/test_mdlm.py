"""Published MDLM checkpoints: every weight finds its place by name, and nothing beside the weights is run."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from hf_difflm.data import load_tokenizer
from hf_difflm.errors import UserError
from hf_difflm.hub.conversion.any_model import convert
from hf_difflm.models import MaskedDiffusionForMaskedLM

ROOT = Path(__file__).parents[3]
D, C, V, BLOCKS, HEADS, LENGTH = 16, 8, 260, 2, 2, 9
MASK = 259
CONFIG: dict[str, Any] = {
    "architectures": ["MDLM"],
    "auto_map": {"AutoConfig": "configuration_mdlm.MDLMConfig", "AutoModelForMaskedLM": "modeling_mdlm.MDLM"},
    "cond_dim": C,
    "dropout": 0.1,
    "hidden_dim": D,
    "model_length": 32,
    "model_type": "mdlm",
    "n_blocks": BLOCKS,
    "n_heads": HEADS,
    "return_dict": False,
    "time_conditioning": False,
    "torch_dtype": "float32",
    "vocab_size": V,
}


def published_weights() -> dict[str, torch.Tensor]:
    """Random weights under the names and shapes of the published files (kuleshov-group/mdlm, models/dit.py)."""
    shapes: dict[str, tuple[int, ...]] = {
        "vocab_embed.embedding": (V, D),
        "sigma_map.mlp.0.weight": (C, 256),
        "sigma_map.mlp.0.bias": (C,),
        "sigma_map.mlp.2.weight": (C, C),
        "sigma_map.mlp.2.bias": (C,),
        "output_layer.norm_final.weight": (D,),
        "output_layer.linear.weight": (V, D),
        "output_layer.linear.bias": (V,),
        "output_layer.adaLN_modulation.weight": (2 * D, C),
        "output_layer.adaLN_modulation.bias": (2 * D,),
    }
    for i in range(BLOCKS):
        shapes |= {
            f"blocks.{i}.norm1.weight": (D,),
            f"blocks.{i}.attn_qkv.weight": (3 * D, D),
            f"blocks.{i}.attn_out.weight": (D, D),
            f"blocks.{i}.norm2.weight": (D,),
            f"blocks.{i}.mlp.0.weight": (4 * D, D),
            f"blocks.{i}.mlp.0.bias": (4 * D,),
            f"blocks.{i}.mlp.2.weight": (D, 4 * D),
            f"blocks.{i}.mlp.2.bias": (D,),
            f"blocks.{i}.adaLN_modulation.weight": (6 * D, C),
            f"blocks.{i}.adaLN_modulation.bias": (6 * D,),
        }
    generator = torch.Generator().manual_seed(0)
    weights = {f"backbone.{name}": 0.3 * torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    frequencies = 1.0 / 10000.0 ** (torch.arange(0, D // HEADS, 2) / (D // HEADS))
    return weights | {"backbone.rotary_emb.inv_freq": frequencies}


def stored(folder: Path, weights: dict[str, torch.Tensor] | None = None, **config: Any) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({**CONFIG, **config}))
    save_file(published_weights() if weights is None else weights, folder / "model.safetensors")
    # Must never be run.
    (folder / "configuration_mdlm.py").write_text("raise SystemExit('code of the repository was run')\n")
    load_tokenizer("bytes").save_pretrained(folder)
    return folder


def equations(w: dict[str, torch.Tensor], ids: torch.Tensor) -> torch.Tensor:
    """(L, V) logits of one sequence from weights under the *published* names: MDLM's network with sigma = 0, as matrices."""
    w = {name.removeprefix("backbone."): value.double() for name, value in w.items()}
    k = D // HEADS

    def norm(x: torch.Tensor, name: str, shift: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
        x = (x - x.mean(-1, keepdim=True)) / (x.var(-1, keepdim=True, unbiased=False) + 1e-5).sqrt()
        return x * w[name] * (1 + scale) + shift

    waves = torch.cat([torch.ones(128), torch.zeros(128)]).double()  # cos 0, sin 0
    inner = w["sigma_map.mlp.0.weight"] @ waves + w["sigma_map.mlp.0.bias"]
    c = w["sigma_map.mlp.2.weight"] @ (inner * inner.sigmoid()) + w["sigma_map.mlp.2.bias"]
    c = c * c.sigmoid()

    angle = torch.arange(len(ids)).double()[:, None] * w["rotary_emb.inv_freq"]
    turn = torch.polar(torch.ones_like(angle), angle)  # e^{i position frequency}

    def rotate(x: torch.Tensor) -> torch.Tensor:
        z = torch.complex(x[:, : k // 2], x[:, k // 2 :]) * turn
        return torch.cat([z.real, z.imag], dim=-1)

    x = w["vocab_embed.embedding"][ids]
    for i in range(BLOCKS):
        at = f"blocks.{i}."
        modulation = w[f"{at}adaLN_modulation.weight"] @ c + w[f"{at}adaLN_modulation.bias"]
        shift1, scale1, gate1, shift2, scale2, gate2 = modulation.split(D)
        q, key, v = (norm(x, f"{at}norm1.weight", shift1, scale1) @ w[f"{at}attn_qkv.weight"].T).split(D, dim=-1)
        heads = []
        for h in range(HEADS):
            part = slice(h * k, (h + 1) * k)
            attention = (rotate(q[:, part]) @ rotate(key[:, part]).T / k**0.5).softmax(-1)
            heads.append(attention @ v[:, part])
        x = x + gate1 * (torch.cat(heads, -1) @ w[f"{at}attn_out.weight"].T)
        inner = norm(x, f"{at}norm2.weight", shift2, scale2) @ w[f"{at}mlp.0.weight"].T + w[f"{at}mlp.0.bias"]
        inner = 0.5 * inner * (1 + torch.tanh((2 / torch.pi) ** 0.5 * (inner + 0.044715 * inner**3)))
        x = x + gate2 * (inner @ w[f"{at}mlp.2.weight"].T + w[f"{at}mlp.2.bias"])
    shift, scale = (w["output_layer.adaLN_modulation.weight"] @ c + w["output_layer.adaLN_modulation.bias"]).split(D)
    x = norm(x, "output_layer.norm_final.weight", shift, scale)
    return x @ w["output_layer.linear.weight"].T + w["output_layer.linear.bias"]


def test_a_published_checkpoint_gives_the_logits_of_its_equations(tmp_path):
    made = convert(str(stored(tmp_path / "published")), tmp_path / "made")
    model = MaskedDiffusionForMaskedLM.from_pretrained(made.folder).eval()
    assert (made.kind, made.model_type, made.mask_token_id, made.shift_logits) == (
        "MDLM checkpoint",
        "dit",
        MASK,
        False,
    )
    ids = torch.randint(0, 256, (LENGTH,), generator=torch.Generator().manual_seed(1))
    ids[[0, 3, 4, 8]] = MASK
    expected = equations(published_weights(), ids)
    logits = model(ids[None]).logits[0]
    hidden = ids == MASK
    torch.testing.assert_close(logits[hidden][:, :MASK].double(), expected[hidden][:, :MASK], rtol=1e-4, atol=1e-4)
    labels = torch.full_like(ids, 65)
    nll = F.cross_entropy(expected[hidden][:, :MASK], labels[hidden])
    loss = model(ids[None], labels=labels.where(hidden, -100)[None]).loss
    assert float(loss.detach()) == pytest.approx(float(nll), rel=1e-5)


def test_every_stored_number_is_there_once(tmp_path):
    model = MaskedDiffusionForMaskedLM.from_pretrained(
        convert(str(stored(tmp_path / "published")), tmp_path / "made").folder
    )
    ours = sorted(float(value.double().sum()) for value in model.state_dict().values())
    theirs = [value for name, value in published_weights().items() if "inv_freq" not in name]
    assert ours == sorted(float(value.double().sum()) for value in theirs)
    config = model.config
    assert (config.tie_word_embeddings, config.backbone_config.dropout, config.max_position_embeddings) == (
        False,
        0.1,
        32,
    )
    assert config.converted_from["model_type"] == "mdlm"


def test_weights_in_several_files_and_in_half_precision(tmp_path):
    folder = stored(tmp_path / "published")
    (folder / "model.safetensors").unlink()
    weights = {name: value.bfloat16() for name, value in published_weights().items()}
    names = sorted(weights)
    places = {name: f"model-0000{1 + i % 2}-of-00002.safetensors" for i, name in enumerate(names)}
    for file in set(places.values()):
        save_file({name: weights[name] for name in names if places[name] == file}, folder / file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))
    model = MaskedDiffusionForMaskedLM.from_pretrained(convert(str(folder), tmp_path / "made").folder)
    assert model.dtype == torch.bfloat16
    assert torch.equal(model.backbone.vocab_embed.weight, weights["backbone.vocab_embed.embedding"])


def without(name: str) -> dict[str, torch.Tensor]:
    return {key: value for key, value in published_weights().items() if key != name}


@pytest.mark.parametrize(
    ("weights", "config", "said"),
    [
        (None, {"time_conditioning": True}, "time_conditioning"),
        (None, {"vocab_size": 300}, "260 tokens with the mask, but .* has 300"),
        (None, {"n_heads": 3}, "make no network"),
        (None, {"n_blocks": 3}, "lacks the weights backbone.blocks.2"),
        (None, {"n_blocks": 1}, "no place for the weights backbone.blocks.1"),
        (None, {"hidden_dim": 32}, "do not fit"),
        (without("backbone.blocks.1.norm2.weight"), {}, "lacks the weights backbone.blocks.1.norm2.weight"),
    ],
)
def test_what_does_not_fit_is_refused(weights, config, said, tmp_path):
    with pytest.raises(UserError, match=said) as caught:
        convert(str(stored(tmp_path / "published", weights, **config)), tmp_path / "made")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "made").exists()


def test_pickled_weights_are_refused(tmp_path):
    folder = stored(tmp_path / "published")
    (folder / "model.safetensors").unlink()
    torch.save(published_weights(), folder / "pytorch_model.bin")
    with pytest.raises(UserError, match="pickle"):
        convert(str(folder), tmp_path / "made")


def test_without_a_tokenizer_one_must_be_named(tmp_path):
    folder = stored(tmp_path / "published")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).unlink()
    with pytest.raises(UserError, match="--tokenizer"):
        convert(str(folder), tmp_path / "made")
    assert convert(str(folder), tmp_path / "made", tokenizer="bytes").mask_token_id == MASK


@pytest.mark.slow
def test_unconverted_it_is_a_sentence_that_names_the_command(tmp_path):
    folder = stored(tmp_path / "published")
    command = [sys.executable, str(ROOT / "cli.py"), "generate", str(folder), "--use-cpu"]  # where nobody converts
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert "is a published MDLM checkpoint" in done.stderr
    assert "(`hf-difflm convert`)" in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.slow
def test_from_the_hub_neither_code_nor_pickles_are_downloaded(loopback_hub, tmp_path):
    folder = stored(tmp_path / "published")
    (folder / "pytorch_model.bin").write_bytes(b"never read")
    commit = loopback_hub.put_folder("kuleshov-group/tiny", folder)
    home = tmp_path / "home"
    home.mkdir()
    program = "from hf_difflm.commands import app; app()"
    command = [sys.executable, "-c", program, "convert", "kuleshov-group/tiny", "--output-dir", str(tmp_path / "made")]
    environment = loopback_hub.environment(home) | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, cwd=home, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    model = MaskedDiffusionForMaskedLM.from_pretrained(tmp_path / "made")
    assert torch.equal(model.backbone.vocab_embed.weight, published_weights()["backbone.vocab_embed.embedding"])
    assert model.config.converted_from == {
        "source": "kuleshov-group/tiny",
        "kind": "MDLM checkpoint",
        "model_type": "mdlm",
        "commit": commit,
    }
    fetched = [request for request in loopback_hub.requests if "/resolve/" in request]
    assert fetched
    assert not [request for request in fetched if request.endswith((".py", ".bin"))]
