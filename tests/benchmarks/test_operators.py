"""An operator of a profile belongs to the part of the step that its name and shapes say."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

from _operators import KINDS, kind_of

HEAD, LAYERS, CROSS_ENTROPY, ATTENTION, OPTIMIZER, GRADIENTS, REST = KINDS
V = 50_258


@pytest.mark.parametrize(
    ("name", "shapes", "kind"),
    [
        ("aten::mm", [[64, 256], [256, V]], HEAD),
        ("aten::addmm_", [[V, 256], [V, 64], [64, 256]], HEAD),
        ("aten::mm", [[2048, 256], [256, 704]], LAYERS),
        ("aten::exp_", [[64, V]], CROSS_ENTROPY),
        ("aten::_log_softmax", [[64, V], [], []], CROSS_ENTROPY),
        ("aten::nll_loss_forward", [[64, 258], [64]], CROSS_ENTROPY),
        ("aten::_scaled_dot_product_flash_attention_for_cpu_backward", [[8, 4, 256, 64]], ATTENTION),
        ("aten::_fused_adamw_", [[], []], OPTIMIZER),
        ("aten::_foreach_lerp_", [[], []], OPTIMIZER),
        ("aten::linalg_vector_norm", [[V, 256]], GRADIENTS),
        ("aten::mul", [[V, 256], []], GRADIENTS),
        ("aten::silu", [[8, 256, 704]], REST),
        ("aten::rms_norm", [[8, 256, 256]], REST),
    ],
)
def test_kinds(name, shapes, kind):
    assert kind_of(name, shapes, V) == kind
