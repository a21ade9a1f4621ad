"""Released diffusion language models: what is made of them computes what their authors' own code does.

The models are tiny and random, made by that code (``tests/fixtures/released/make.py``), and so are the numbers beside them.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

from hf_difflm.errors import UserError
from hf_difflm.hub.conversion.any_model import convert
from hf_difflm.hub.conversion.released.backwards import give_back
from hf_difflm.hub.conversion.released.formats import FORMATS
from hf_difflm.models import MaskedDiffusionForMaskedLM
from hf_difflm.models.untrusted import CONVERTED

FIXTURES = Path(__file__).parents[2] / "fixtures" / "released"
WITH_TOKENIZER = ("llada", "dream", "sdar", "open-dllm")
NAMED = ("mdlm",)  # its tokenizer is named
IDS_ONLY = ("a2d-llama", "a2d-qwen2", "a2d-qwen3", "llada-moe")
# What no file of theirs says.
SAID: dict[str, dict[str, Any]] = {name: {"no_tokenizer": True, "mask_token_id": 63} for name in IDS_ONLY}
SAID["mdlm"] = {"tokenizer": "bytes"}
SAID["open-dllm"] = {"released_as": "open-dllm"}
SHIFTED = ("dream", "open-dllm")
TITLE = {"open-dllm": "Open-dLLM", "llada": "LLaDA", "dream": "Dream", "sdar": "SDAR", "llada-moe": "LLaDA-MoE"}
TOLERANCE = 1e-5
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


def expected(name: str) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    folder = FIXTURES / name
    return load_file(folder / "expected.safetensors"), json.loads((folder / "expected.json").read_text())


def load(made: dict[str, Any], name: str, **options: Any) -> MaskedDiffusionForMaskedLM:
    return MaskedDiffusionForMaskedLM.from_pretrained(made[name].folder, **options).eval()


def difference(
    model: MaskedDiffusionForMaskedLM,
    ids: torch.Tensor,
    logits: torch.Tensor,
    attention_mask: torch.Tensor | None = None,
) -> float:
    """Of the logits at masks, but for that of the mask token, which has probability 0 here."""
    mask = model.config.mask_token_id
    hidden, keep = ids == mask, torch.arange(model.config.vocab_size) != mask
    assert hidden.any()
    with torch.no_grad():
        found = model(ids, attention_mask=attention_mask).logits
    assert found[hidden][:, mask].isneginf().all()
    return float((found[hidden][:, keep].float() - logits[hidden][:, keep].float()).abs().max())


def changed(name: str, folder: Path, **values: Any) -> Path:
    """A copy of a fixture with other values in its ``config.json``; None leaves a key out."""
    shutil.copytree(FIXTURES / name, folder)
    config = json.loads((folder / "config.json").read_text()) | values
    (folder / "config.json").write_text(json.dumps({key: value for key, value in config.items() if value != "gone"}))
    return folder


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


KEYS = {
    "llada": (
        "d_model", "n_heads", "n_kv_heads", "n_layers", "mlp_hidden_size", "multi_query_attention", "rope", "rope_theta",
        "rope_full_precision", "rms_norm_eps", "layer_norm_type", "activation_type", "block_type", "block_group_size",
        "weight_tying", "scale_logits", "input_emb_norm", "embedding_size", "max_sequence_length", "include_bias",
    ),
    "dream": (
        "hidden_size", "rope_theta", "rope_scaling", "rms_norm_eps", "num_key_value_heads", "tie_word_embeddings",
        "use_sliding_window", "hidden_act", "max_position_embeddings",
    ),
    "sdar": ("head_dim", "rope_theta", "attention_bias", "tie_word_embeddings"),
    "llada-moe": ("rope_theta", "qk_layernorm", "num_experts_per_tok", "expert_intermediate_size", "moe_layer_freq"),
}  # fmt: skip


@pytest.mark.parametrize(("name", "key"), [(name, key) for name, keys in KEYS.items() for key in keys])
def test_a_missing_key_is_a_sentence_and_never_a_default(name, key, tmp_path):
    folder = changed(name, tmp_path / "changed", **{key: "gone"})
    with pytest.raises(UserError, match=f"has no '{key}'") as caught:
        convert(str(folder), tmp_path / "made", **SAID.get(name, {}))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize(
    ("name", "values", "said"),
    [
        ("llada", {"block_type": "sequential"}, "block_type 'sequential', which has to be 'llama'"),
        ("llada", {"activation_type": "swiglu"}, "activation_type"),
        ("llada", {"layer_norm_type": "default"}, "layer_norm_type"),
        ("llada", {"alibi": True}, "alibi True, which has to be False"),
        ("llada", {"include_qkv_bias": True}, "include_qkv_bias"),
        ("llada", {"rope": False}, "rope False"),
        ("llada", {"multi_query_attention": False}, "contradict each other"),
        ("llada", {"n_layers": 3}, "lacks the weights model.transformer.blocks.2"),
        ("llada", {"n_layers": 1}, "no place for the weights model.transformer.blocks.1"),
        ("llada", {"weight_tying": True}, "no place for the weights model.transformer.ff_out.weight"),
        ("llada", {"embedding_size": None}, "as 264 x 24, which do not make the 260 x 24"),
        ("llada", {"mask_token_id": 300}, "mask_token_id 300 is outside"),
        ("llada", {"mask_token_id": "gone"}, "--mask-token-id"),
        ("llada", {"mask_token_id": 262}, "the mask is token 262, which tokenizer .* does not have"),
        ("llada", {"mask_token_id": 65}, "ordinary token"),
        ("llada", {"mask_token_id": 257}, "eos_token"),
        ("llada", {"n_heads": 0}, "make no network"),
        ("llada", {"rope_theta": "500000"}, "rope_theta '500000', which has to be a positive number"),
        ("llada", {"quantization_config": {"bits": 4}}, "quantised"),
        ("llada", {"architectures": ["LlamaForCausalLM"]}, "which are not of one model"),
        ("llada", {"model_type": "sdar"}, "which are not of one model"),
        ("dream", {"use_sliding_window": True}, "use_sliding_window"),
        (
            "dream",
            {"model_type": "llada", "architectures": ["LLaDAModelLM"]},
            "says that it is a LLaDA, but none of its",
        ),
        ("sdar", {"block_size": "gone"}, "--diffusion-block-size"),
        ("sdar", {"block_size": 0}, "diffusion_block_size must be a positive integer"),
        ("llada-moe", {"moe_router_enable_expert_bias": True}, "moe_router_enable_expert_bias"),
        ("llada-moe", {"clip_qkv": 8.0}, "clip_qkv"),
        ("llada-moe", {"moe_router_score_function": "sigmoid"}, "moe_router_score_function"),
    ],
)
def test_what_no_network_here_computes_is_refused(name, values, said, tmp_path):
    folder = changed(name, tmp_path / "changed", **values)
    with pytest.raises(UserError, match=said) as caught:
        convert(str(folder), tmp_path / "made", **SAID.get(name, {}))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "made").exists()


def test_kindred_weights_under_the_same_type_are_refused(tmp_path):
    """Dream is also the type of block models of Qwen3, and SDAR of a mixture of experts."""
    folder = changed("dream", tmp_path / "changed")
    weights = load_file(folder / "model.safetensors") | {"model.layers.0.self_attn.q_norm.weight": torch.ones(8)}
    save_file(weights, folder / "model.safetensors")
    with pytest.raises(UserError, match=r"a Dream, which has no weights model\.layers\.0\.self_attn\.q_norm\.weight"):
        convert(str(folder), tmp_path / "made")


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"model_type": "llada2_moe", "architectures": ["LLaDA2MoeModelLM"]}, "LLaDA2, whose experts"),
        ({"model_type": "llada2_moe_veomni"}, "LLaDA2, whose experts"),
        ({"model_type": "nemotron_labs_diffusion"}, "Nemotron-Labs-Diffusion, which reads committed text causally"),
        ({"model_type": "duo", "architectures": ["DUO"]}, "Duo, which replaces tokens"),
        ({"model_type": "bd3lm", "architectures": ["BD3LM"]}, "BD3-LM, whose diffusion transformer"),
        ({"model_type": "diffusion_gemma"}, "DiffusionGemma, which replaces tokens"),
        ({"model_type": "x", "architectures": ["LLaDA2MoeModelLM"]}, "LLaDA2, whose experts"),
    ],
)
def test_models_that_are_something_else_are_refused_by_name_and_reason(config, said, tmp_path):
    folder = tmp_path / "released"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config | {"auto_map": {"AutoModel": "modeling.Model"}}))
    save_file({"model.word_embeddings.weight": torch.ones(4, 2)}, folder / "model.safetensors")
    with pytest.raises(UserError, match=said) as caught:
        convert(str(folder), tmp_path / "made")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("llada", {"mask_token": "[MASK]"}, "has a mask already; leave out --mask-token"),
        ("llada", {"mask_token_id": 3}, "has mask_token_id 259, but --mask-token-id is 3"),
        ("llada", {"shift": True}, "at its own position; leave out"),
        ("dream", {"shift": False}, "from the position before it; leave out"),
        ("llada", {"diffusion_block_size": 4}, "no diffusion blocks"),
        ("sdar", {"diffusion_block_size": 8}, "has block_size 4, but --diffusion-block-size is 8"),
        ("llada", {"no_tokenizer": True, "tokenizer": "bytes"}, "leave one of them out"),
        ("llada", {"tokenizer": "bytes"}, None),
        ("a2d-qwen3", {"mask_token_id": 63}, "has no tokenizer"),
        ("a2d-qwen3", {"no_tokenizer": True}, "--mask-token-id"),
    ],
)
def test_options_that_contradict_the_folder_are_refused(name, options, said, tmp_path):
    if said is None:  # bytes have the mask at 259, too
        assert convert(str(FIXTURES / name), tmp_path / "made", **options).mask_token == "[MASK]"
        return
    with pytest.raises(UserError, match=said):
        convert(str(FIXTURES / name), tmp_path / "made", **options)
    assert not (tmp_path / "made").exists()


UNCHECKED = {
    "Dream in blocks": ("sdar", {"model_type": "Dream", "architectures": ["DreamForCausalLM"]}, {}),
    "Fast-dLLM v2": (
        "dream",
        {
            "model_type": "Fast_dLLM_Qwen",
            "architectures": ["Fast_dLLM_QwenForCausalLM"],
            "bd_size": 4,
            "mask_token_id": "gone",
        },
        {"mask_token_id": 263},
    ),
}


@pytest.mark.parametrize("title", UNCHECKED)
def test_models_that_no_code_of_the_authors_was_run_for_say_so_wherever_they_go(title, tmp_path):
    """Here against the stock network under a mask of blocks of 4; whether that is theirs is what was not checked."""
    name, values, said = UNCHECKED[title]
    folder = changed(name, tmp_path / "changed", **values)
    made = convert(str(folder), tmp_path / "made", **said)
    assert made.kind == f"{title}, not checked against the authors' code"
    model = MaskedDiffusionForMaskedLM.from_pretrained(made.folder).eval()
    assert model.config.converted_from["kind"] == made.kind
    assert (made.diffusion_block_size, made.shift_logits) == (4, title == "Fast-dLLM v2")
    ids = expected(name)[0]["text"].flatten()[None, :8].clone()
    ids[0, [4, 6, 7]] = made.mask_token_id
    stock = AutoModelForCausalLM.from_config(model.config.backbone_config).eval()
    assert not stock.load_state_dict(load_file(folder / "model.safetensors")).missing_keys
    block = torch.arange(8) // 4
    with torch.no_grad():
        logits = stock(ids, attention_mask=(block[:, None] >= block[None])[None, None]).logits
    if made.shift_logits:
        logits = torch.cat([logits[:, :1], logits[:, :-1]], dim=1)
    assert difference(model, ids, logits) < TOLERANCE


def test_the_mask_that_a_releases_configuration_leaves_out_is_named(tmp_path):
    for name, values, mask in (("llada-moe", {}, 156895), ("dream", UNCHECKED["Fast-dLLM v2"][1], 151665)):
        with pytest.raises(UserError, match=f"--mask-token-id what it was trained with .the releases: {mask}"):
            convert(str(changed(name, tmp_path / name, **values)), tmp_path / "made", no_tokenizer=True)


def test_every_format_is_known_to_the_commands_that_take_none_of_them():
    assert {
        kind: one.title
        for one in FORMATS
        for kind in one.model_types
        if one.title not in ("Dream in blocks", "Open-dLLM")
    } == {kind: title for kind, title in CONVERTED.items() if kind != "mdlm"}


def test_without_as_a_folder_of_open_dllm_is_a_causal_lm_and_a_warning_says_what_that_does(tmp_path, caplog):
    """Its mask would begin anew, as the mean token."""
    made = convert(str(FIXTURES / "open-dllm"), tmp_path / "made")
    assert made.kind == "causal LM"
    assert "--as open-dllm" in caplog.text
    theirs = load_file(FIXTURES / "open-dllm" / "model.safetensors")["model.embed_tokens.weight"]
    found = MaskedDiffusionForMaskedLM.from_pretrained(made.folder).get_input_embeddings().weight
    assert torch.equal(found[:256], theirs[:256])
    assert not torch.equal(found[made.mask_token_id], theirs[made.mask_token_id])


@pytest.mark.parametrize(
    ("name", "asked", "said"),
    [
        ("llada", "open-dllm", "no Open-dLLM has; leave out --as"),
        ("open-dllm", "dream", "--as must be open-dllm, got 'dream'"),
    ],
)
def test_as_is_for_what_no_folder_can_say(name, asked, said, tmp_path):
    with pytest.raises(UserError, match=said):
        convert(str(FIXTURES / name), tmp_path / "made", released_as=asked)


def test_the_mask_of_an_a2d_model_is_that_of_its_tokenizer(tmp_path):
    folder = changed("a2d-qwen3", tmp_path / "changed")
    backend = Tokenizer(models.BPE(vocab={chr(ord("0") + i): i for i in range(60)}, merges=[]))
    backend.add_special_tokens(["<|end|>", "<|begin|>", "<|pad|>", "<|mask|>"])
    PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<|begin|>", eos_token="<|end|>", pad_token="<|pad|>", mask_token="<|mask|>"
    ).save_pretrained(folder)
    made = convert(str(folder), tmp_path / "made")
    assert (made.mask_token, made.mask_token_id) == ("<|mask|>", 63)
    tensors, _ = expected("a2d-qwen3")
    assert difference(load({"a2d-qwen3": made}, "a2d-qwen3"), tensors["ids"], tensors["logits"]) < TOLERANCE


def test_a_text_ends_where_the_generation_config_of_the_release_says(tmp_path):
    folder = changed("sdar", tmp_path / "changed")
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [257, 256], "temperature": 0.6}))
    model = MaskedDiffusionForMaskedLM.from_pretrained(convert(str(folder), tmp_path / "made").folder)
    assert model.generation_config.eos_token_id == [257, 256]
    assert model.config.eos_token_id == 256
    give_back(str(tmp_path / "made"), tmp_path / "back", "sdar")
    assert json.loads((tmp_path / "back" / "generation_config.json").read_text())["eos_token_id"] == [257, 256]
    for broken, said in (
        ('{"eos_token_id": "x"}', "generation_config.json of .* has eos_token_id 'x'"),
        ("{", "generation_config.json of"),
    ):
        (folder / "generation_config.json").write_text(broken)
        with pytest.raises(UserError, match=said):
            convert(str(folder), tmp_path / "broken")


def test_an_a2d_model_may_shift_and_have_blocks_as_its_owner_says(tmp_path):
    made = convert(
        str(FIXTURES / "a2d-qwen3"), tmp_path / "made", shift=True, diffusion_block_size=8, **SAID["a2d-qwen3"]
    )
    assert (made.shift_logits, made.diffusion_block_size) == (True, 8)


def test_the_code_beside_the_weights_is_never_run(tmp_path):
    folder = changed(
        "llada", tmp_path / "changed", auto_map={"AutoConfig": "configuration_llada.LLaDAConfig", "AutoModel": "m.M"}
    )
    (folder / "configuration_llada.py").write_text("raise SystemExit('code of the repository was run')\n")
    assert convert(str(folder), tmp_path / "made").kind == "LLaDA"
    assert not list((tmp_path / "made").glob("*.py"))


@pytest.mark.slow
def test_from_the_hub_neither_code_nor_pickles_are_downloaded(loopback_hub, tmp_path):
    folder = changed("dream", tmp_path / "changed", auto_map={"AutoModel": "modeling_dream.DreamModel"})
    for name in ("modeling_dream.py", "tokenization_dream.py"):
        (folder / name).write_text("raise SystemExit('code of the repository was run')\n")
    (folder / "pytorch_model.bin").write_bytes(b"never read")
    commit = loopback_hub.put_folder("Dream-org/tiny", folder)
    home = tmp_path / "home"
    home.mkdir()
    program = "from hf_difflm.commands import app; app()"
    command = [sys.executable, "-c", program, "convert", "Dream-org/tiny", "--output-dir", str(tmp_path / "made")]
    environment = loopback_hub.environment(home) | {"PYTHONPATH": str(FIXTURES.parents[2])}
    done = subprocess.run(command, env=environment, cwd=home, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    model = MaskedDiffusionForMaskedLM.from_pretrained(tmp_path / "made").eval()
    tensors, _ = expected("dream")
    assert difference(model, tensors["ids"], tensors["logits"]) < TOLERANCE
    assert model.config.converted_from["commit"] == commit
    fetched = [request for request in loopback_hub.requests if "/resolve/" in request]
    assert fetched
    assert not [request for request in fetched if request.endswith((".py", ".bin"))]
