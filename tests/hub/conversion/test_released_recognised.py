"""Released models are known by their folders, read key by key, or refused in a sentence."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch
from released_models import (
    FIXTURES,
    SAID,
    TOLERANCE,
    changed,
    difference,
    expected,
)
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from hf_difflm.errors import UserError
from hf_difflm.hub.conversion.any_model import convert
from hf_difflm.hub.conversion.released.backwards import give_back
from hf_difflm.hub.conversion.released.formats import FORMATS
from hf_difflm.models import MaskedDiffusionForMaskedLM
from hf_difflm.models.untrusted import CONVERTED

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
        ({"model_type": "mmada", "architectures": ["MMadaModelLM"]}, "MMaDA, whose vocabulary holds tokens of images"),
        (
            {"model_type": "unheard_of", "architectures": ["UnheardOfLM"]},
            r"is a UnheardOfLM \('unheard_of'\) and needs",
        ),
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
        if one.title != "Dream in blocks" and one.asked_as is None
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
        ("open-dllm", "dream", "--as must be open-dllm, diffullama, got 'dream'"),
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
    assert (
        difference(MaskedDiffusionForMaskedLM.from_pretrained(made.folder).eval(), tensors["ids"], tensors["logits"])
        < TOLERANCE
    )


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
