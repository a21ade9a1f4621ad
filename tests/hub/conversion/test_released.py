"""Released diffusion language models: what is made of them computes what their authors' own code does.

The models are tiny and random, made by that code (``tests/fixtures/released/make.py``), and so are the numbers beside them.
"""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from released_models import (
    FIXTURES,
    IDS_ONLY,
    NAMED,
    SAID,
    SHIFTED,
    TITLE,
    TOLERANCE,
    WITH_TOKENIZER,
    changed,
    difference,
    expected,
)
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer

from hf_difflm.hub.conversion.any_model import convert
from hf_difflm.models import MaskedDiffusionForMaskedLM

every = pytest.mark.parametrize("name", [*WITH_TOKENIZER, *IDS_ONLY])
every_one = pytest.mark.parametrize("name", [*WITH_TOKENIZER, *NAMED, *IDS_ONLY])


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What ``convert`` says of each fixture; the folders are there."""
    place = tmp_path_factory.mktemp("released")
    return {
        name: convert(str(FIXTURES / name), place / name, **SAID.get(name, {}))
        for name in (*WITH_TOKENIZER, *NAMED, *IDS_ONLY)
    }


def load(made: dict[str, Any], name: str, **options: Any) -> MaskedDiffusionForMaskedLM:
    return MaskedDiffusionForMaskedLM.from_pretrained(made[name].folder, **options).eval()


@every_one
def test_the_logits_are_those_of_the_authors_code(name, made):
    tensors, _ = expected(name)
    model = load(made, name)
    assert difference(model, tensors["ids"], tensors["logits"]) < TOLERANCE
    if "middle" in tensors:  # masks in a whole block that begins at one
        assert difference(model, tensors["middle"], tensors["middle_logits"]) < TOLERANCE
    if "padded" in tensors:
        found = difference(model, tensors["padded"], tensors["padded_logits"], tensors["padded_attention"])
        assert found < 2 * TOLERANCE


@every_one
def test_the_bound_on_given_masks_is_that_of_the_authors_logits(name, made):
    """L / x times the nll of the x masks; theirs with the mask token at probability 0, as it is here."""
    tensors, facts = expected(name)
    noisy = tensors["noisy"]
    text = tensors["text"].reshape(-1)[: noisy.shape[1]].expand_as(noisy)
    counts = torch.tensor(facts["bound"]["counts"])
    model = load(made, name)
    weights = (noisy.shape[1] / counts / len(noisy))[:, None]
    more = {"clean_ids": text} if model.config.diffusion_block_size else {}
    labels = text.where(noisy == model.config.mask_token_id, -100)
    loss = float(model(noisy, labels=labels, loss_weights=weights, **more).loss.detach())
    theirs = {
        kind: sum(noisy.shape[1] / count * nll for count, nll in zip(facts["bound"]["counts"], found, strict=True))
        / len(noisy)
        for kind, found in facts["bound"]["nll"].items()
    }
    assert loss == pytest.approx(theirs["banned"], rel=TOLERANCE)
    assert loss < theirs["raw"]  # their own number spends probability on the mask token


def test_lladas_own_likelihood_differs_by_the_mask_tokens_probability_alone(made):
    """On the masks that ``get_log_likelihood`` drew: its number, from our network with the mask token's logit put back."""
    tensors, facts = expected("llada")
    official, noisy = facts["get_log_likelihood"], tensors["likelihood_noisy"]
    model = load(made, "llada")
    hidden = noisy == model.config.mask_token_id
    text = tensors["text"][0].expand_as(noisy)
    with torch.no_grad():
        logits = model.lm_head(model.backbone(noisy).last_hidden_state)
        banned = model(noisy).logits
    answer = noisy.shape[1] - official["prompt_length"]
    weights = (answer / hidden.sum(1, keepdim=True)).expand_as(noisy)[hidden]
    nll = F.cross_entropy(logits[hidden], text[hidden], reduction="none")
    assert -float((nll * weights).sum() / len(noisy)) == pytest.approx(official["value"], rel=TOLERANCE)
    ours = F.cross_entropy(banned[hidden], text[hidden], reduction="none")
    spent = -torch.log1p(-logits[hidden].softmax(-1)[:, model.config.mask_token_id])
    torch.testing.assert_close(ours + spent, nll, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("llada", {"rope_theta": 10000.0}),
        ("llada", {"rms_norm_eps": 1e-6}),
        ("llada-moe", {"rope_theta": 10000.0}),
        ("llada-moe", {"num_experts_per_tok": 1}),
        ("dream", {"rope_theta": 10000.0}),
        ("dream", {"rms_norm_eps": 1e-5}),
        ("sdar", {"rope_theta": 10000.0}),
        ("sdar", {"rms_norm_eps": 1e-5}),
        ("sdar", {"block_size": 2}),
        ("a2d-llama", {"rope_scaling": None}),
        ("a2d-qwen3", {"rms_norm_eps": 1e-5}),
    ],
)
def test_another_value_in_the_configuration_is_another_model(name, values, tmp_path):
    """Else these comparisons could not see it."""
    tensors, _ = expected(name)
    folder = changed(name, tmp_path / "changed", **values)
    model = load({name: convert(str(folder), tmp_path / "made", **SAID.get(name, {}))}, name)
    ids, logits = (
        (tensors["middle"], tensors["middle_logits"]) if name == "sdar" else (tensors["ids"], tensors["logits"])
    )
    if "block_size" in values:
        ids = ids[:, :6]  # masks in one of its blocks only
        logits = logits[:, :6]
    assert difference(model, ids, logits) > 10 * TOLERANCE


def test_another_order_of_names_or_another_shift_is_another_model(made, tmp_path):
    tensors, _ = expected("llada")
    folder = changed("llada", tmp_path / "changed")
    weights = load_file(folder / "model.safetensors")
    for layer in ("model.transformer.blocks.0.", "model.transformer.blocks.1."):
        weights[f"{layer}ff_proj.weight"], weights[f"{layer}up_proj.weight"] = (
            weights[f"{layer}up_proj.weight"],
            weights[f"{layer}ff_proj.weight"],
        )
    save_file(weights, folder / "model.safetensors")
    model = load({"llada": convert(str(folder), tmp_path / "made")}, "llada")
    assert difference(model, tensors["ids"], tensors["logits"]) > 0.1
    tensors, _ = expected("dream")
    model = load(made, "dream")
    assert (model.config.shift_logits, load(made, "llada").config.shift_logits) == (True, False)
    model.config.shift_logits = False
    assert difference(model, tensors["ids"], tensors["logits"]) > 0.1


def test_lladas_rotation_stays_in_float32_in_half_precision(made):
    tensors, _ = expected("llada")
    model = load(made, "llada", dtype=torch.bfloat16)
    apart = difference(model, tensors["ids"], tensors["logits_bf16"])
    config = model.config
    config.rotate_in_float32 = False
    stock = MaskedDiffusionForMaskedLM.from_pretrained(made["llada"].folder, config=config, dtype=torch.bfloat16).eval()
    assert apart < 0.2 * difference(stock, tensors["ids"], tensors["logits_bf16"])


@pytest.mark.parametrize("name", WITH_TOKENIZER)
def test_the_tokenizer_is_theirs_and_hides_with_the_models_own_mask(name, made):
    _, facts = expected(name)
    words = AutoTokenizer.from_pretrained(made[name].folder)
    assert words(facts["text"], add_special_tokens=False)["input_ids"] == facts["text_ids"]
    assert words.mask_token_id == made[name].mask_token_id == load(made, name).config.mask_token_id
    assert (
        words.mask_token
        == {
            "llada": "<|mdm_mask|>",
            "dream": "<|mask|>",
            "sdar": "<MASK>",
            "open-dllm": "<M>",
        }[name]
    )


@every
def test_what_the_format_says_is_in_the_configuration(name, made):
    told, config = made[name], load(made, name).config
    assert told.kind == TITLE.get(name, "A2D") == config.converted_from["kind"]
    assert (told.shift_logits, config.shift_logits) == (name in SHIFTED,) * 2
    assert (told.diffusion_block_size, config.diffusion_block_size) == ((4 if name == "sdar" else None),) * 2
    assert config.rotate_in_float32 is (name == "llada")
    assert config.eos_token_id == json.loads((FIXTURES / name / "config.json").read_text())["eos_token_id"]
    assert told.difference is None
    if name in IDS_ONLY:
        assert not list(told.folder.glob("*token*"))
        assert told.mask_token is None


@every
def test_every_stored_number_is_there(name, made):
    ours = sorted(float(value.double().sum()) for value in load_file(made[name].folder / "model.safetensors").values())
    theirs = sorted(float(value.double().sum()) for value in load_file(FIXTURES / name / "model.safetensors").values())
    if name == "llada-moe":  # the experts of a layer are one tensor
        assert sum(ours) == pytest.approx(sum(theirs))
    else:
        assert ours == theirs
