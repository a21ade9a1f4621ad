"""Each parameter of a model of any family lies in exactly one group, and in its layer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import pytest
import torch
import transformers as hf
from torch import nn

from hf_difflm import MaskedDiffusionConfig, MaskedDiffusionForMaskedLM
from hf_difflm.callbacks.measuring.parameter_groups import GROUPS, NormSums, layers_of, parameter_groups, unwrapped

SIZES = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
COMMON = {"vocab_size": 64, "max_position_embeddings": 32, **SIZES}
SPECIAL = dict.fromkeys(("pad_token_id", "cls_token_id", "sep_token_id", "bos_token_id", "eos_token_id"), 0)


def causal(config_class: type, **settings: object) -> Callable[[], nn.Module]:
    return lambda: hf.AutoModelForCausalLM.from_config(config_class(**{**COMMON, **settings}))


def denoiser(config_class: type, **settings: object) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        config = MaskedDiffusionConfig(backbone_config=config_class(**{**COMMON, **settings}))
        return MaskedDiffusionForMaskedLM(config)

    return make


FAMILIES: dict[str, Callable[[], nn.Module]] = {
    "llama": causal(hf.LlamaConfig),
    "llama-tied": causal(hf.LlamaConfig, tie_word_embeddings=True),
    "qwen3": causal(hf.Qwen3Config, num_key_value_heads=2, head_dim=8),
    "gpt2": lambda: hf.GPT2LMHeadModel(hf.GPT2Config(vocab_size=64, n_embd=16, n_layer=2, n_head=2, n_positions=32)),
    "gpt-neox": causal(hf.GPTNeoXConfig),
    "opt": causal(hf.OPTConfig, ffn_dim=32, word_embed_proj_dim=8),
    "mixtral": causal(hf.MixtralConfig, num_key_value_heads=2, num_local_experts=2),
    "qwen3-moe": causal(hf.Qwen3MoeConfig, num_key_value_heads=2, num_experts=4, moe_intermediate_size=8),
    "mamba": causal(hf.MambaConfig),
    "bare-llama": lambda: hf.LlamaModel(hf.LlamaConfig(**COMMON)),
    "bert-classifier": lambda: hf.BertForSequenceClassification(hf.BertConfig(**COMMON)),
    "bert": lambda: hf.BertForMaskedLM(hf.BertConfig(**COMMON)),
    "roberta-classifier": lambda: hf.RobertaForSequenceClassification(hf.RobertaConfig(**COMMON)),
    "distilbert-classifier": lambda: hf.DistilBertForSequenceClassification(
        hf.DistilBertConfig(vocab_size=64, dim=16, hidden_dim=32, n_layers=2, n_heads=2)
    ),
    "modernbert": lambda: hf.ModernBertForMaskedLM(hf.ModernBertConfig(**COMMON, **SPECIAL)),
    "t5": lambda: hf.T5ForConditionalGeneration(
        hf.T5Config(vocab_size=64, d_model=16, d_ff=32, num_layers=2, num_heads=2, d_kv=8)
    ),
    "denoiser": denoiser(hf.LlamaConfig),
    "bert-denoiser": denoiser(hf.BertConfig),
    "modernbert-denoiser": denoiser(hf.ModernBertConfig, **SPECIAL),
}
# Written by hand: a part of the name of one parameter of each group. Norms go by their class, wherever they stand.
EXPECTED = {
    "llama": {"embed_tokens": "embeddings", "q_proj": "attention", "down_proj": "mlp", "lm_head": "head"},
    "llama-tied": {"embed_tokens": "embeddings", "o_proj": "attention", "gate_proj": "mlp"},
    "qwen3": {
        "embed_tokens": "embeddings",
        "k_norm": "norms",
        "v_proj": "attention",
        "up_proj": "mlp",
        "lm_head": "head",
    },
    "gpt2": {
        "wte": "embeddings",
        "wpe": "embeddings",
        "attn.c_proj": "attention",
        "mlp.c_proj": "mlp",
        "ln_f": "norms",
    },
    "gpt-neox": {"embed_in": "embeddings", "attention.dense": "attention", "mlp.dense": "mlp", "lm_head": "head"},
    "opt": {"embed_": "embeddings", "project_": "embeddings", "out_proj": "attention", "fc1": "mlp", "fc2": "mlp"},
    "mixtral": {"experts": "mlp", "mlp.gate": "mlp", "self_attn": "attention", "lm_head": "head"},
    "qwen3-moe": {"experts": "mlp", "mlp.gate": "mlp", "q_norm": "norms", "lm_head": "head"},
    "mamba": {"embeddings": "embeddings", "mixer": "attention", "norm": "norms"},
    "bare-llama": {"embed_tokens": "embeddings", "self_attn": "attention", "mlp": "mlp", "norm": "norms"},
    "bert-classifier": {
        "word_embeddings": "embeddings",
        "attention.output.dense": "attention",
        "intermediate.dense": "mlp",
        "pooler": "head",
        "classifier": "head",
        "LayerNorm": "norms",
    },
    "bert": {"word_embeddings": "embeddings", "transform.dense": "head", "predictions.bias": "head"},
    "roberta-classifier": {"embeddings.w": "embeddings", "attention.self": "attention", "classifier": "head"},
    "distilbert-classifier": {"ffn": "mlp", "q_lin": "attention", "pre_classifier": "head", "layer_norm": "norms"},
    "modernbert": {"tok_embeddings": "embeddings", "Wqkv": "attention", "Wi": "mlp", "head.dense": "head"},
    "t5": {"shared": "embeddings", "Attention.": "attention", "DenseReluDense": "mlp", "norm": "norms"},
    "denoiser": {"embed_tokens": "embeddings", "self_attn": "attention", "mlp": "mlp", "norm": "norms"},
    "bert-denoiser": {
        "word_embeddings": "embeddings",
        "head_transform.dense": "head",
        "lm_head": "head",
    },
    "modernbert-denoiser": {"tok_embeddings": "embeddings", "attn": "attention", "head_transform.dense": "head"},
}


@pytest.mark.parametrize("family", FAMILIES)
def test_every_parameter_lies_in_one_group_and_nothing_of_a_layer_is_left_over(family):
    model = FAMILIES[family]()
    grouped = parameter_groups(model)
    assert [id(item.parameter) for item in grouped] == [id(parameter) for parameter in model.parameters()]
    assert {item.group for item in grouped} <= set(GROUPS) - {"other"}
    for part, group in EXPECTED[family].items():
        # A bias of T5's attention and the like are named after their place; norms are norms everywhere.
        found = [item for item in grouped if part in item.name]
        assert found, part
        assert {item.group for item in found if "norm" not in item.name.lower() or group == "norms"} == {group}, part


@pytest.mark.parametrize("family", FAMILIES)
def test_each_parameter_of_a_layer_has_the_number_of_that_layer(family):
    model = FAMILIES[family]()
    layers = layers_of(model)
    assert len(layers) == (4 if family == "t5" else 2)
    place = {id(parameter): number for number, layer in enumerate(layers) for parameter in layer.parameters()}
    assert {item.name: item.layer for item in parameter_groups(model)} == {
        name: place.get(id(parameter)) for name, parameter in model.named_parameters()
    }


@pytest.mark.parametrize("family", ["llama-tied", "gpt2", "bert", "opt"])
def test_a_head_tied_to_the_embeddings_counts_as_embeddings_once(family):
    model = FAMILIES[family]()
    table = model.get_output_embeddings().weight
    assert table is model.get_input_embeddings().weight
    assert [item.group for item in parameter_groups(model) if item.parameter is table] == ["embeddings"]


def test_adapters_belong_to_what_they_adapt():
    peft = pytest.importorskip("peft")
    targets = ["q_proj", "down_proj", "embed_tokens", "lm_head"]
    model = peft.get_peft_model(FAMILIES["llama"](), peft.LoraConfig(r=2, target_modules=targets))
    adapters = [item for item in parameter_groups(model) if "lora" in item.name]
    expected = {"q_proj": "attention", "down_proj": "mlp", "embed_tokens": "embeddings", "lm_head": "head"}
    for item in adapters:
        assert item.group == next(group for target, group in expected.items() if target in item.name), item.name
        assert item.layer == (int(item.name.split("layers.")[1][0]) if "layers." in item.name else None)
    assert Counter(item.group for item in adapters) == {"attention": 4, "mlp": 4, "embeddings": 2, "head": 2}
    assert "other" not in {item.group for item in parameter_groups(model)}


def test_adapters_of_any_library_belong_to_the_module_they_lie_in():
    model = FAMILIES["llama"]()
    for layer in model.model.layers:
        layer.self_attn.q_proj.adapter = nn.Sequential(nn.Linear(16, 2), nn.Linear(2, 16))
        layer.mlp.up_proj.lora_A = nn.ModuleDict({"default": nn.Linear(16, 2)})
    found = {item.name: item for item in parameter_groups(model)}
    assert found["model.layers.1.self_attn.q_proj.adapter.0.weight"].labels == ["global", "attention", "layer_01"]
    assert found["model.layers.0.mlp.up_proj.lora_A.default.bias"].labels == ["global", "mlp", "layer_00"]


def test_wrappers_are_seen_through():
    model = FAMILIES["llama"]()
    names = [item.name for item in parameter_groups(model)]
    assert [item.name for item in parameter_groups(torch.nn.DataParallel(model))] == names
    assert [item.name for item in parameter_groups(torch.compile(model))] == names
    assert unwrapped(torch.compile(model)) is model


def test_a_model_that_is_no_transformer_has_groups_too():
    model = nn.Sequential(nn.Embedding(4, 3), nn.Linear(3, 3), nn.LayerNorm(3))
    assert [item.group for item in parameter_groups(model)] == ["embeddings", "other", "other", "norms", "norms"]
    assert layers_of(model) == []


def test_norms_are_summed_by_label_with_what_is_unknown_left_out():
    model = FAMILIES["llama"]()
    grouped = [item for item in parameter_groups(model) if "proj" in item.name or "head" in item.name]
    norms = [None if "layers.1" in item.name else 2.0 for item in grouped]
    assert NormSums(grouped).of(norms) == pytest.approx(
        {"global": 2 * 8**0.5, "attention": 4.0, "mlp": 2 * 3**0.5, "head": 2.0, "layer_00": 2 * 7**0.5}
    )
    assert list(NormSums(grouped).of(norms)) == ["global", "attention", "mlp", "head", "layer_00"]
