"""FLOPs of BDH are those that PyTorch counts, less the pairs of positions that nobody sees."""

from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from hf_difflm.flops.bdh import BdhArchitecture
from hf_difflm.flops.network import Architecture, training_flops
from hf_difflm.models import MaskedDiffusionConfig, MaskedDiffusionForMaskedLM
from hf_difflm.models.masked_diffusion.bdh_backbone import BdhForCausalLM
from hf_difflm.models.masked_diffusion.bdh_configuration import BdhConfig

L, D, H, N, V, LAYERS = 24, 16, 2, 96, 97, 3
CONFIG = {
    "vocab_size": V,
    "hidden_size": D,
    "num_attention_heads": H,
    "intermediate_size": N,
    "num_hidden_layers": LAYERS,
}


@pytest.mark.parametrize("causal", [True, False])
def test_flops_are_those_that_pytorch_counts(causal: bool):
    backbone = BdhConfig(**CONFIG)
    model = (
        BdhForCausalLM(backbone)
        if causal
        else MaskedDiffusionForMaskedLM(MaskedDiffusionConfig(backbone_config=backbone))
    )
    found = Architecture.from_config(model.config.to_dict())
    assert isinstance(found, BdhArchitecture)
    assert found.causal == causal
    tokens = torch.randint(V - 1, (1, L))
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model.eval()(tokens)
    unseen = L * (L + 1) // 2 if causal else L  # of the L x L pairs that are multiplied
    assert found.forward_flops(L, L) == counter.get_total_flops() - LAYERS * 2 * (N + H * D) * unseen
    assert training_flops(found, {L: 2}, 5) == 3 * (2 * found.forward_flops(L, 0) + 5 * 2 * D * V)


def test_the_default_width_is_that_of_the_configuration():
    assert BdhArchitecture.from_config(BdhConfig().to_dict()).neurons == BdhConfig().neurons
