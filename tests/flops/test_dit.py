"""FLOPs of the diffusion transformer are those that PyTorch counts, less what is computed once for a whole batch."""

from __future__ import annotations

import torch
from torch.utils.flop_counter import FlopCounterMode

from hf_difflm.flops.dit import DiTArchitecture
from hf_difflm.flops.network import Architecture, training_flops
from hf_difflm.models import MaskedDiffusionConfig, MaskedDiffusionForMaskedLM
from hf_difflm.models.masked_diffusion.dit_configuration import DiTConfig

B, L, D, H, V, LAYERS, C, F = 2, 24, 32, 4, 97, 3, 8, 16
CONDITIONING = 2 * (
    F * C + C * C + LAYERS * C * 6 * D + C * 2 * D
)  # one row: dense layers of the noise level, modulations


def made(**sizes) -> MaskedDiffusionForMaskedLM:
    backbone = DiTConfig(
        vocab_size=V,
        hidden_size=D,
        num_hidden_layers=LAYERS,
        num_attention_heads=H,
        conditioning_size=C,
        frequency_embedding_size=F,
        **sizes,
    )
    config = MaskedDiffusionConfig(backbone_config=backbone, mask_token_id=4)
    config._attn_implementation = "eager"  # whose products are all counted
    return MaskedDiffusionForMaskedLM(config)


def counted(run) -> int:
    with FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops()


def test_flops_are_those_that_pytorch_counts_forward_and_backward():
    model = made(intermediate_size=80).train()
    found = Architecture.from_config(model.config.to_dict())
    assert isinstance(found, DiTArchitecture)
    assert not found.causal
    labels = torch.randint(5, V, (B, L)).masked_fill(torch.arange(L) % 3 != 0, -100)
    corrupted = torch.randint(5, V, (B, L)).masked_fill(labels != -100, 4)
    with torch.no_grad():
        forward = counted(lambda: model(input_ids=corrupted, labels=labels))
    labelled = int((labels != -100).sum())
    assert forward - CONDITIONING == B * found.forward_flops(L, 0) + found.forward_flops(0, labelled)
    whole = counted(lambda: model(input_ids=corrupted, labels=labels).loss.backward())
    # The frequencies of the noise level get no gradient.
    assert whole - 3 * CONDITIONING + 2 * F * C == training_flops(found, {L: B}, labelled)


def test_the_default_inner_width_is_four_times_the_width():
    model = made()
    found = Architecture.from_config(model.config.to_dict())
    assert found.feed_forward == model.backbone.blocks[0].mlp[0].out_features


def test_of_the_published_network_less_than_a_ten_thousandth_is_left_out():
    config = DiTConfig()
    width, conditioning = config.hidden_size, config.conditioning_size
    once = 2 * conditioning * (config.frequency_embedding_size + conditioning)
    once += 2 * conditioning * width * (6 * config.num_hidden_layers + 2)
    length = config.max_position_embeddings
    assert once < 1e-4 * DiTArchitecture.from_config(config.to_dict()).forward_flops(length, (length + 1) / 2)
