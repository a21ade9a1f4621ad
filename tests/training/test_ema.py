"""The moving average: its formula, its swap, its file."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from safetensors import safe_open
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from hf_difflm.training.ema import EMA_FILE, ExponentialMovingAverage


def follow(decay: float, steps: int, dtype: torch.dtype = torch.float32):
    """A layer that takes random steps, its average, and the average by the formula in float64."""
    torch.manual_seed(0)
    layer = nn.Linear(3, 2).to(dtype)
    average = ExponentialMovingAverage(layer, decay)
    expected = layer.weight.detach().double().clone()
    for n in range(1, steps + 1):
        with torch.no_grad():
            layer.weight.add_(torch.randn(2, 3, dtype=dtype))
        average.update()
        d = min(decay, (1 + n) / (10 + n))
        expected = d * expected + (1 - d) * layer.weight.detach().double()
    return layer, average, expected


@pytest.mark.parametrize(("decay", "steps"), [(0.0, 3), (0.9, 5), (0.9, 100), (0.999, 200)])
def test_it_is_the_exponential_average_with_a_warm_up(decay, steps):
    layer, average, expected = follow(decay, steps)
    with average.swapped_in():
        torch.testing.assert_close(layer.weight.detach().double(), expected, rtol=1e-5, atol=1e-6)


def test_the_weights_come_back_bit_for_bit_even_after_an_error():
    layer, average, _ = follow(0.9, 5)
    before = layer.weight.detach().clone()

    def fail_inside() -> None:
        with average.swapped_in():
            assert not torch.equal(layer.weight, before)
            raise RuntimeError("within")

    with pytest.raises(RuntimeError, match="within"):
        fail_inside()
    assert torch.equal(layer.weight, before)


def test_bfloat16_weights_have_a_float32_average():
    """At a decay of 0.999 the steps of the average are below the resolution of bfloat16."""
    _, average, expected = follow(0.999, 300, torch.bfloat16)
    torch.testing.assert_close(average._shadow[0].double(), expected, rtol=1e-4, atol=1e-4)


def test_frozen_weights_are_not_averaged_and_tied_ones_are_once(tiny_denoiser, tmp_path):
    model = tiny_denoiser()
    model.backbone.norm.weight.requires_grad_(False)
    ExponentialMovingAverage(model, 0.9).save(tmp_path)
    with safe_open(tmp_path / EMA_FILE, "pt") as file:
        names = set(file.keys())
    expected = {name for name, p in model.named_parameters() if p.requires_grad}
    assert names == expected
    assert not {"lm_head.weight", "backbone.norm.weight"} & names


def test_saved_and_loaded_it_goes_on_as_before(tmp_path):
    layer, average, _ = follow(0.99, 7)
    average.save(tmp_path)
    twin = ExponentialMovingAverage(layer, 0.99)
    twin.load(tmp_path, updates=7)
    for average_of in (average, twin):
        average_of.update()
    assert all(torch.equal(a, b) for a, b in zip(average._shadow, twin._shadow, strict=True))


def test_a_checkpoint_without_an_average_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError):
        ExponentialMovingAverage(nn.Linear(2, 2), 0.9).load(tmp_path, updates=1)


def test_an_update_is_one_operation_over_all_weights(tiny_denoiser):
    class Watch(TorchDispatchMode):
        def __init__(self) -> None:
            super().__init__()
            self.calls: Counter[str] = Counter()

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            self.calls[function.overloadpacket.__name__] += 1
            return function(*args, **(kwargs or {}))

    average = ExponentialMovingAverage(tiny_denoiser(), 0.9)
    with Watch() as watch:
        average.update()
    assert watch.calls.pop("_foreach_lerp_") == 1
    assert set(watch.calls) <= {"detach", "alias"}  # views, which compute nothing
