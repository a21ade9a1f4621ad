"""FLOPs are those of a count by hand, and those that PyTorch counts when the model really runs."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoConfig, AutoModelForCausalLM

from hf_difflm.flops.network import FAMILIES, Architecture, mfu, training_flops
from hf_difflm.models import MaskedDiffusionConfig, MaskedDiffusionForMaskedLM

B, L, V = 2, 24, 97
SIZES = {
    "vocab_size": V,
    "hidden_size": 64,
    "intermediate_size": 160,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


def config_of(family: str, **changes):
    known = AutoConfig.for_model(family)
    sizes = {name: value for name, value in (SIZES | changes).items() if hasattr(known, name)}
    if "num_key_value_heads" in vars(known):
        sizes.setdefault("num_key_value_heads", 2)
    if "head_dim" in vars(known):
        sizes.setdefault("head_dim", 16)
    config = AutoConfig.for_model(family, **sizes)
    config._attn_implementation = "eager"  # whose products are all counted, forward and backward, for the full square
    return config


def counted(run) -> int:
    with FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops()


def ids() -> torch.Tensor:
    return torch.randint(5, V, (B, L), generator=torch.Generator().manual_seed(0))


def full_square(architecture: Architecture) -> Architecture:
    """What eager attention computes: all pairs, whatever the mask leaves of them."""
    return Architecture(**{**vars(architecture), "causal": False, "windows": (None,) * len(architecture.windows)})


def test_llama_by_hand():
    architecture = Architecture.from_config(config_of("llama").to_dict())
    layer = 2 * L * (64 * 64 + 2 * 64 * 32 + 64 * 64) + 2 * L * 3 * 64 * 160
    causal = layer + 2 * 2 * 64 * (L * (L + 1) // 2)
    assert architecture.forward_flops(L, L - 1) == 3 * causal + 2 * (L - 1) * 64 * V
    assert training_flops(architecture, {L: B}, B * (L - 1)) == 3 * B * architecture.forward_flops(L, L - 1)


def test_a_denoiser_by_hand_has_the_full_square_and_the_head_at_labelled_positions():
    config = MaskedDiffusionConfig(backbone_config=config_of("gpt2", n_embd=64, n_layer=3, n_head=4, n_inner=160))
    architecture = Architecture.from_config(config.to_dict())
    layer = 2 * L * 4 * 64 * 64 + 2 * L * 2 * 64 * 160 + 2 * 2 * 64 * L * L
    assert architecture.forward_flops(L, 7) == 3 * layer + 2 * 7 * 64 * V


@pytest.mark.parametrize("family", sorted(FAMILIES.keys() - {"bert", "modernbert"}))
def test_every_known_family_of_causal_lms_needs_what_pytorch_counts(family):
    config = config_of(family, n_embd=64, n_layer=3, n_head=4, n_inner=160)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    architecture = Architecture.from_config(config.to_dict())
    assert architecture.causal
    found = counted(lambda: model(input_ids=ids(), use_cache=False).logits.sum().backward())
    # A little more is counted: the angles of rotary positions are products too.
    assert found == pytest.approx(training_flops(full_square(architecture), {L: B}, B * L), rel=2e-3)
    # And attention is what the causal mask halves.
    saved = full_square(architecture).forward_flops(L, 0) - architecture.forward_flops(L, 0)
    assert saved == 3 * 4 * architecture.heads * architecture.head_dim * (L * (L - 1) // 2)


@pytest.mark.parametrize("family", ["llama", "gpt2", "qwen3", "modernbert", "bert"])
@pytest.mark.parametrize("tied", [True, False])
def test_a_denoiser_needs_what_pytorch_counts_tied_or_not(family, tied):
    changes = {"n_embd": 64, "n_layer": 3, "n_head": 4, "n_inner": 160}
    backbone = config_of(family, **changes)
    config = MaskedDiffusionConfig(backbone_config=backbone, mask_token_id=4, tie_word_embeddings=tied)
    config._attn_implementation = "eager"
    model = MaskedDiffusionForMaskedLM(config)
    architecture = Architecture.from_config(config.to_dict())
    assert not architecture.causal
    labels = ids().masked_fill(torch.arange(L) % 3 != 0, -100)
    corrupted = ids().masked_fill(labels != -100, 4)
    found = counted(lambda: model(input_ids=corrupted, labels=labels).loss.backward())
    expected = training_flops(full_square(architecture), {L: B}, int((labels != -100).sum()))
    assert found == pytest.approx(expected, rel=5e-3)


def test_activation_checkpointing_is_no_work_of_the_model():
    config = config_of("llama")
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").train()
    model.gradient_checkpointing_enable({"use_reentrant": False})
    found = counted(lambda: model(input_ids=ids(), use_cache=False).logits.sum().backward())
    assert found > 1.15 * training_flops(full_square(Architecture.from_config(config.to_dict())), {L: B}, B * L)


@given(
    length=st.integers(0, 12),
    window=st.none() | st.integers(0, 14),
    causal=st.booleans(),
)
def test_attended_pairs_are_those_of_the_mask_drawn_out(length, window, causal):
    architecture = Architecture(1, 1, 1, 1, 0, False, 0, (window,), causal)
    pairs = sum(
        (window is None or abs(query - key) <= window) and (key <= query or not causal)
        for query in range(length)
        for key in range(length)
    )
    assert architecture.forward_flops(length, 0) == 2 * 4 * length + 4 * pairs


def test_windows_follow_the_masks_of_transformers():
    mistral = config_of("mistral", sliding_window=5).to_dict()
    assert Architecture.from_config(mistral).windows == (4,) * 3  # itself and four before
    gemma = config_of("gemma2", sliding_window=5, layer_types=["sliding_attention", "full_attention", "full_attention"])
    assert Architecture.from_config(gemma.to_dict()).windows == (4, None, None)
    kinds = ["full_attention", "sliding_attention", "full_attention"]
    bert = config_of("modernbert", local_attention=8, layer_types=kinds)
    assert Architecture.from_config(bert.to_dict()).windows == (None, 4, None)
    assert Architecture.from_config(config_of("qwen2").to_dict()).windows == (None,) * 3


def test_a_layer_that_is_shared_counts_each_time():
    once = Architecture(8, 2, 2, 4, 16, True, 0, (None,))
    thrice = Architecture(8, 2, 2, 4, 16, True, 0, (None,) * 3)
    assert thrice.forward_flops(10, 0) == 3 * once.forward_flops(10, 0)


def test_an_unknown_family_has_no_flops():
    assert Architecture.from_config({"model_type": "mixtral", "hidden_size": 8}) is None
    assert Architecture.from_config({}) is None


def test_any_order_masking_needs_the_head_at_half_of_the_tokens_on_average():
    architecture = Architecture.from_config(config_of("llama").to_dict())
    expected = sum(architecture.forward_flops(L, k) for k in range(1, L + 1)) / L
    assert architecture.forward_flops(L, (L + 1) / 2) == pytest.approx(expected)


def test_mfu_is_per_cent_of_all_devices_and_null_where_something_is_unknown():
    assert mfu(312e12, 2.0, 1, 312e12) == pytest.approx(50.0)
    assert mfu(312e12, 1.0, 4, 312e12) == pytest.approx(25.0)
    assert mfu(None, 1.0, 1, 1e12) is None
    assert mfu(1e12, 1.0, 1, None) is None


@pytest.mark.parametrize("block", [1, 5, 8, L, L + 3])
def test_block_diffusion_by_hand(block):
    plain = config_of("llama")
    config = MaskedDiffusionConfig(backbone_config=plain, mask_token_id=V - 1, diffusion_block_size=block)
    architecture = Architecture.from_config(config.to_dict())
    seen = sum(min((i // block + 1) * block, L) for i in range(L))  # in the clean pass, and in the noisy one
    keys_and_values = 2 * L * 2 * 64 * 32
    layer = 2 * L * (64 * 64 + 2 * 64 * 32 + 64 * 64) + 2 * L * 3 * 64 * 160 + 2 * 2 * 64 * seen
    assert architecture.forward_flops(L, 7) == (3 + 2) * layer + keys_and_values + 2 * 7 * 64 * V
    # Complementary pairs read the clean text once.
    assert architecture.forward_flops(L, 7, reads=2) == (6 + 2) * layer + keys_and_values + 2 * 7 * 64 * V
