"""The FLOPs of Newton-Schulz are those of the products that torch runs."""

from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from hf_difflm.flops.newton_schulz import newton_schulz_flops
from hf_difflm.training.optimization.muon import newton_schulz


@pytest.mark.parametrize("shape", [(8, 24), (24, 8), (16, 16), (3, 8, 24), (3, 24, 8)])
@pytest.mark.parametrize("steps", [1, 5])
def test_they_are_those_of_the_products_that_torch_runs(shape, steps):
    with FlopCounterMode(display=False) as counter:
        newton_schulz(torch.ones(shape), steps)
    assert newton_schulz_flops([shape], steps) == counter.get_total_flops()
    assert newton_schulz_flops([shape, (4, 4)], steps) == counter.get_total_flops() + steps * 6 * 4**3
