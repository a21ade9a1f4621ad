"""Which weights Muon trains is decided by module and identity: dense layers and stacks, no embedding, no head."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from transformers import (
    BertConfig,
    BertForMaskedLM,
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
)

from hf_difflm.models import MaskedDiffusionConfig, MaskedDiffusionForMaskedLM
from hf_difflm.training.optimization.matrices import hidden_matrices, parted_in_words

SIZES = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}


def names(model: nn.Module) -> tuple[set[str], set[str]]:
    """Names of the matrices and of the others, without layer numbers; each weight is in one of them."""
    matrices, others = ({id(p) for p in part} for part in hidden_matrices(model))
    assert not matrices & others
    assert matrices | others == {id(p) for p in model.parameters() if p.requires_grad}
    plain = [
        (".".join(part for part in name.split(".") if not part.isdigit()), p) for name, p in model.named_parameters()
    ]
    return {n for n, p in plain if id(p) in matrices}, {n for n, p in plain if id(p) in others}


@pytest.mark.parametrize("tied", [True, False])
def test_conv1d_of_gpt2_is_dense_and_the_head_is_none_tied_or_not(tied):
    config = GPT2Config(n_embd=16, n_layer=2, n_head=2, vocab_size=50, n_positions=20, tie_word_embeddings=tied)
    matrices, others = names(GPT2LMHeadModel(config))
    assert matrices == {
        f"transformer.h.{name}.weight" for name in ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")
    }
    heads = {"transformer.wte.weight", "transformer.wpe.weight"} | (set() if tied else {"lm_head.weight"})
    assert {name for name in others if not name.endswith("bias") and ".ln_" not in name} == heads


def test_stacks_of_experts_are_matrices_and_their_router_is_none():
    config = Qwen3MoeConfig(
        vocab_size=50,
        moe_intermediate_size=8,
        num_experts=4,
        num_experts_per_tok=2,
        head_dim=8,
        num_key_value_heads=2,
        **SIZES,
    )
    matrices, others = names(Qwen3MoeForCausalLM(config))
    assert {f"model.layers.mlp.experts.{name}" for name in ("gate_up_proj", "down_proj")} < matrices
    assert {"model.layers.mlp.gate.weight", "model.embed_tokens.weight", "lm_head.weight"} < others


def test_heads_of_other_names_are_found_and_a_dense_layer_of_the_head_is_hidden():
    neox = GPTNeoXForCausalLM(GPTNeoXConfig(vocab_size=50, **SIZES))
    assert (
        next(name for name, p in neox.named_parameters() if p is neox.get_output_embeddings().weight) in names(neox)[1]
    )
    matrices, others = names(BertForMaskedLM(BertConfig(vocab_size=50, max_position_embeddings=20, **SIZES)))
    assert "cls.predictions.transform.dense.weight" in matrices
    assert not {name for name in matrices if "embeddings" in name}
    assert {"bert.embeddings.word_embeddings.weight", "bert.embeddings.position_embeddings.weight"} < others


@pytest.mark.parametrize("kind", ["llama", "bdh", "dit"])
def test_our_denoisers_have_their_head_and_embedding_apart(kind, tiny_denoiser):
    if kind == "llama":
        model = tiny_denoiser()
    else:
        backbone = {
            "model_type": kind,
            "vocab_size": 60,
            "hidden_size": 16,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
        }
        model = MaskedDiffusionForMaskedLM(MaskedDiffusionConfig(backbone_config=backbone))
    matrices, others = ({id(p) for p in part} for part in hidden_matrices(model))
    assert matrices
    assert {id(model.get_input_embeddings().weight), id(model.get_output_embeddings().weight)} <= others
    if kind == "bdh":
        assert any(p.ndim == 3 for p in model.parameters() if id(p) in matrices)


def test_of_a_network_of_ones_own_the_head_is_what_has_a_row_a_token_and_what_is_frozen_is_nobodys():
    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.config = type("Config", (), {"vocab_size": 50})()
            self.embed, self.dense, self.gate = nn.Embedding(50, 8), nn.Linear(8, 8), nn.Linear(8, 1)
            self.kernel, self.frozen, self.out = nn.Conv1d(8, 8, 3), nn.Linear(8, 8), nn.Linear(8, 50, bias=False)
            self.position = nn.Parameter(torch.zeros(1, 20, 8))
            self.frozen.requires_grad_(False)

    matrices, others = names(Own())
    assert matrices == {"dense.weight"}
    assert {"embed.weight", "out.weight", "gate.weight", "kernel.weight", "position"} < others
    assert parted_in_words(Own()) == "Muon trains 1 matrix of 64 weights, AdamW 8 tensors of 1,177 weights"
