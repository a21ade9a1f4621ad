"""Histograms count every finite value once, in the right bin, in whatever portions they come."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from statistics_witness import counted_by_numpy

from hf_difflm.callbacks.measuring import histograms
from hf_difflm.callbacks.measuring.device_fetch import DeviceFetch
from hf_difflm.callbacks.measuring.histograms import Histogram, keeper, unpacked

# Of any size, but for what is no part of a bin that float32 can tell from 0.
sized = st.floats(2.0**-60, 2.0**60, width=32) | st.floats(-(2.0**60), -(2.0**-60), width=32)
values = st.lists(sized | st.sampled_from([0.0, -0.0, torch.inf, -torch.inf, torch.nan]), max_size=30)

looking = pytest.mark.parametrize("may_wait", [True, False], ids=["looking", "blindly"])


@looking
@settings(deadline=None)
@given(st.lists(values, min_size=1, max_size=4))
def test_every_finite_value_is_in_its_bin_in_whatever_portions_it_came(may_wait, portions):
    histogram = Histogram(torch.device("cpu"), may_wait)
    for portion in portions:
        histogram.add(torch.tensor(portion, dtype=torch.float32))
    found = unpacked(histogram.pack().tolist())
    numbers = np.array([x for portion in portions for x in portion], dtype=np.float32)
    numbers = numbers[np.isfinite(numbers)]
    if not len(numbers):
        assert found is None
        return
    assert found["low"] <= numbers.min()
    assert numbers.max() <= found["high"]
    assert found["counts"] == counted_by_numpy(found, numbers)
    assert sum(found["counts"]) == len(numbers)


@looking
@settings(deadline=None)
@given(st.lists(st.floats(-1e3, 1e3, width=32), min_size=2, max_size=30))
def test_the_range_is_not_much_wider_than_the_values(may_wait, numbers):
    histogram = Histogram(torch.device("cpu"), may_wait)
    histogram.add(torch.tensor(numbers, dtype=torch.float32))
    found = unpacked(histogram.pack().tolist())
    spread, size = max(numbers) - min(numbers), max(map(abs, numbers))
    assert found["high"] - found["low"] <= max(2.2 * spread, 0.003 * size, 1e-9)


@looking
def test_the_greatest_numbers_have_bins_too(may_wait):
    histogram = Histogram(torch.device("cpu"), may_wait)
    most = torch.finfo(torch.float32).max
    for portion in ([1e-30, -1.0], [most], [-most, 0.5 * most]):
        histogram.add(torch.tensor(portion))
    found = unpacked(histogram.pack().tolist())
    assert found["counts"] == counted_by_numpy(found, np.array([1e-30, -1.0, most, -most, 0.5 * most], np.float32))


@looking
def test_only_what_counts_is_counted(may_wait):
    histogram = Histogram(torch.device("cpu"), may_wait)
    values_BLD = torch.arange(24.0).view(2, 3, 4)
    counted_BL1 = torch.tensor([[1, 1, 0], [1, 0, 0]]).bool().unsqueeze(-1)
    histogram.add(values_BLD, counted_BL1)
    found = unpacked(histogram.pack().tolist())
    kept = values_BLD[counted_BL1.expand_as(values_BLD)].numpy()
    assert sum(found["counts"]) == 12
    assert found["counts"] == counted_by_numpy(found, kept)


@looking
def test_long_tensors_are_counted_in_portions(may_wait, monkeypatch):
    monkeypatch.setattr(histograms, "_PORTION", 100)
    numbers = torch.randn(31, 33, generator=torch.Generator().manual_seed(0))
    histogram = Histogram(torch.device("cpu"), may_wait)
    histogram.add(numbers, (torch.arange(33) % 2 == 0))
    found = unpacked(histogram.pack().tolist())
    assert found["counts"] == counted_by_numpy(found, numbers[:, ::2].flatten().numpy())


@looking
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64, torch.float32])
def test_all_types_of_numbers_can_be_counted(may_wait, dtype):
    numbers = torch.linspace(-2, 3, 101).to(dtype)
    histogram = Histogram(torch.device("cpu"), may_wait)
    histogram.add(numbers)
    found = unpacked(histogram.pack().tolist())
    assert found["counts"] == counted_by_numpy(found, numbers.float().numpy())


@looking
def test_several_tensors_are_counted_together_in_portions(monkeypatch, may_wait):
    monkeypatch.setattr(histograms, "_PORTION", 100)
    generator = torch.Generator().manual_seed(0)
    tensors = [torch.randn(size, generator=generator) for size in (7, 90, 5, 240, 1)] + [torch.zeros(0)]
    histogram = Histogram(torch.device("cpu"), may_wait)
    histogram.add_all(iter(tensors))
    found = unpacked(histogram.pack().tolist())
    assert found["counts"] == counted_by_numpy(found, torch.cat(tensors).numpy())


def test_a_fetch_hands_each_vector_to_who_wanted_it_in_order():
    fetch, heard = DeviceFetch(), []
    fetch.add(torch.tensor([1.0, 2.0]), lambda numbers: heard.append(("a", numbers)))
    fetch.add(torch.tensor([2**40 + 1]), lambda numbers: heard.append(("b", numbers)))
    fetch.run()
    fetch.run()
    assert heard == [("a", [1.0, 2.0]), ("b", [2.0**40 + 1])]


@looking
def test_a_histogram_of_nothing_is_left_out(may_wait):
    kept: dict = {}
    empty, one = Histogram(torch.device("cpu"), may_wait), Histogram(torch.device("cpu"), may_wait)
    empty.add(torch.tensor([torch.nan, torch.inf]))
    one.add(torch.tensor([0.0]))
    keeper(kept, "empty")(empty.pack().tolist())
    keeper(kept, "one")(one.pack().tolist())
    assert list(kept) == ["one"]
