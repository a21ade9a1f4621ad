"""Peak FLOP/s of devices: dense matrix products with float32 accumulation, from the vendors' data sheets.

Vendors like to quote numbers "with sparsity", which are twice these, and for consumer cards those with float16
accumulation, which are twice these too. None of that helps here: training multiplies dense matrices.
"""

from __future__ import annotations

import re

_T = 1e12
# Name in the device's own name -> peaks by type; the first match wins, so the more special names come first.
# "half" is bfloat16 and float16; where a device has no bfloat16 units, "float16".
_PEAKS: list[tuple[str, dict[str, float]]] = [
    # NVIDIA Blackwell architecture brief: HGX B200, 4.5 PFLOPS sparse.
    (r"GB200", {"half": 2500 * _T, "tf32": 1250 * _T, "float32": 80 * _T}),
    (r"B200", {"half": 2250 * _T, "tf32": 1100 * _T, "float32": 75 * _T}),
    # NVIDIA H200 data sheet: 1,979 sparse (SXM), 1,671 sparse (NVL); the same chip as H100.
    (r"H200 NVL", {"half": 835.5 * _T, "tf32": 417.5 * _T, "float32": 60 * _T}),
    (r"H200|GH200", {"half": 989 * _T, "tf32": 494.7 * _T, "float32": 66.9 * _T}),
    # NVIDIA H100 data sheet and Hopper architecture paper, table 2: dense 989 (SXM), 756 (PCIe), 835.5 (NVL).
    (r"H100 PCIe", {"half": 756 * _T, "tf32": 378 * _T, "float32": 51.2 * _T}),
    (r"H100 NVL", {"half": 835.5 * _T, "tf32": 417.5 * _T, "float32": 60 * _T}),
    (r"H100", {"half": 989 * _T, "tf32": 494.7 * _T, "float32": 66.9 * _T}),
    # NVIDIA A100 data sheet: 312 dense, 624 sparse.
    (r"A100", {"half": 312 * _T, "tf32": 156 * _T, "float32": 19.5 * _T}),
    # NVIDIA A30, A40, A10 data sheets; A10G: AWS G5, whose tensor cores run slower than those of the A10.
    (r"A30", {"half": 165 * _T, "tf32": 82 * _T, "float32": 10.3 * _T}),
    (r"A40", {"half": 149.7 * _T, "tf32": 74.8 * _T, "float32": 37.4 * _T}),
    (r"A10G", {"half": 70 * _T, "tf32": 35 * _T, "float32": 31.5 * _T}),
    (r"A10", {"half": 125 * _T, "tf32": 62.5 * _T, "float32": 31.2 * _T}),
    # NVIDIA L40S, L40, L4 data sheets: 733, 362, 242 are sparse.
    (r"L40S", {"half": 362 * _T, "tf32": 183 * _T, "float32": 91.6 * _T}),
    (r"L40", {"half": 181 * _T, "tf32": 90.5 * _T, "float32": 90.5 * _T}),
    (r"L4", {"half": 121 * _T, "tf32": 60 * _T, "float32": 30.3 * _T}),
    # NVIDIA Ada and Ampere GA102 architecture papers, appendix A: FP16 tensor with FP32 accumulate, dense.
    (r"RTX 4090", {"half": 165 * _T, "tf32": 82.6 * _T, "float32": 82.6 * _T}),
    (r"RTX 3090(?! Ti)", {"half": 71 * _T, "tf32": 35.6 * _T, "float32": 35.6 * _T}),
    # NVIDIA V100 (SXM2 125, PCIe 112) and T4 data sheets: no bfloat16, no TF32.
    (r"V100-PCIE", {"float16": 112 * _T, "float32": 14 * _T}),
    (r"V100", {"float16": 125 * _T, "float32": 15.7 * _T}),
    (r"T4", {"float16": 65 * _T, "float32": 8.1 * _T}),
    # AMD Instinct MI300X data sheet: 1,307 dense, 2,615 sparse.
    (r"MI300X", {"half": 1307 * _T, "tf32": 653.7 * _T, "float32": 163.4 * _T}),
]


def peak_flops(device_name: str | None, dtype: str | None) -> float | None:
    """Return the dense peak of one device in FLOP/s; None for a device or a type that is not in the table.

    Args:
        device_name: as the driver says it, e.g. ``NVIDIA A100-SXM4-80GB``. A slice of a device (MIG) is none in the table.
        dtype: what the matrix products compute in: ``bfloat16``, ``float16``, ``float32`` or ``tf32``.
    """
    if not device_name or not dtype or re.search(r"\bMIG\b", device_name):
        return None
    for name, peaks in _PEAKS:
        if re.search(rf"(?<![A-Za-z0-9])(?:{name})(?![A-Za-z0-9])", device_name, re.IGNORECASE):
            half = peaks.get("half") if dtype in ("bfloat16", "float16") else None
            return peaks.get(dtype, half)
    return None
