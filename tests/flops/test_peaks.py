"""Peaks are dense, by device and type, and unknown where they are not known."""

from __future__ import annotations

import pytest

from hf_difflm.flops.peaks import peak_flops


@pytest.mark.parametrize(
    ("name", "bfloat16", "float16"),
    [
        ("NVIDIA A100-SXM4-80GB", 312e12, 312e12),
        ("NVIDIA A100-PCIE-40GB", 312e12, 312e12),
        ("NVIDIA H100 80GB HBM3", 989e12, 989e12),
        ("NVIDIA H100 PCIe", 756e12, 756e12),
        ("NVIDIA H200", 989e12, 989e12),
        ("NVIDIA GH200 480GB", 989e12, 989e12),
        ("NVIDIA B200", 2250e12, 2250e12),
        ("NVIDIA L40S", 362e12, 362e12),
        ("NVIDIA L4", 121e12, 121e12),
        ("NVIDIA A10G", 70e12, 70e12),
        ("NVIDIA A10", 125e12, 125e12),
        ("NVIDIA GeForce RTX 4090", 165e12, 165e12),
        ("NVIDIA GeForce RTX 3090", 71e12, 71e12),
        ("Tesla V100-SXM2-32GB", None, 125e12),
        ("Tesla T4", None, 65e12),
        ("AMD Instinct MI300X", 1307e12, 1307e12),
    ],
)
def test_dense_peaks_by_the_name_the_driver_gives(name, bfloat16, float16):
    assert peak_flops(name, "bfloat16") == bfloat16
    assert peak_flops(name, "float16") == float16


def test_float32_is_slower_than_tf32_and_tf32_than_half():
    a100 = "NVIDIA A100-SXM4-80GB"
    assert peak_flops(a100, "float32") < peak_flops(a100, "tf32") < peak_flops(a100, "bfloat16")


@pytest.mark.parametrize(
    "name", ["x86_64", "", None, "NVIDIA A100-SXM4-40GB MIG 1g.5gb", "NVIDIA GeForce GTX 1080", "NVIDIA RTX A1000"]
)
def test_a_device_that_is_not_in_the_table_has_no_peak(name):
    assert peak_flops(name, "bfloat16") is None


def test_a_type_that_is_not_in_the_table_has_no_peak():
    assert peak_flops("NVIDIA H100 80GB HBM3", "float8") is None
    assert peak_flops("Tesla T4", "tf32") is None
    assert peak_flops("NVIDIA H100 80GB HBM3", None) is None
