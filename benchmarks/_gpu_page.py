"""The part of docs/performance.md that tells what a GPU did, from the results of ``gpu.sh``; nothing of those not there."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

BEGIN, END = "<!-- gpu.sh: begin -->\n", "<!-- gpu.sh: end -->\n"


def with_gpu_part(page: str, results: Path) -> str:
    """The page with what stands between its two marks made anew.

    Raises:
        ValueError: the marks are not there.
    """
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"the page has no lines {BEGIN.strip()!r} and {END.strip()!r}")
    return before + begin + gpu_part(results) + end + after


def gpu_part(results: Path) -> str:
    """Tables under a heading; empty where ``gpu.sh`` has left nothing."""
    read = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(results.glob("gpu_*.json"))}
    tables = [part for part in (_training(read), _sampling(read), _attention(read), *_profiles(read)) if part]
    if not tables and "gpu_check" not in read:
        return ""
    cards = sorted({result["card"] for result in read.values()})
    lines = [
        f"### Measured on {', '.join(cards)}",
        "",
        "By `bash benchmarks/gpu.sh`; claims, and how many tokens a sequence has, in [benchmarks](../benchmarks/README.md).",
        "",
        *_checks(read),
    ]
    return "\n".join([*lines, *("\n".join(table) + "\n" for table in tables)])


def _checks(read: dict[str, Any]) -> Iterator[str]:
    claims = read.get("gpu_check", {}).get("claims", [])
    if claims:
        broken = [claim["what"] for claim in claims if not claim["holds"]]
        yield f"Of {len(claims)} checks of the GPU against the CPU {len(claims) - len(broken)} hold" + (
            f"; not: {'; '.join(broken)}." if broken else "."
        )
        yield ""


def _table(head: Iterable[str], rows: list[list[str]]) -> list[str]:
    head = list(head)
    return [_line(head), _line(["---"] + ["--:"] * (len(head) - 1)), *map(_line, rows)] if rows else []


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _rows(read: dict[str, Any], name: str) -> list[dict[str, Any]]:
    found = [row for part, result in read.items() if part.startswith(name) for row in result["rows"]]
    return [row for row in found if "error" not in row]


def _training(read: dict[str, Any]) -> list[str]:
    head = ("training", "compiled", "micro-batch", "tokens/s", "ms a step", "MFU", "of a plain product", "peak memory")
    return _table(
        head,
        [
            [
                f"{row['size']}, {row['side']}",
                "yes" if row["compile"] else "no",
                str(row["micro_batch"]),
                f"{row['tokens_per_sec']:,.0f}",
                f"{row['ms_per_step']:.1f}",
                _percent(row["mfu_percent"]),
                _percent(row["percent_of_product"]),
                _gib(row["peak_memory"]),
            ]
            for row in _rows(read, "gpu_train")
        ],
    )


def _sampling(read: dict[str, Any]) -> list[str]:
    rows = [
        [
            f"{row['size']}, {side}, {row['texts']} texts of {row['new_tokens']}",
            f"{row['tokens_per_sec'][side]:,.0f}",
            f"{row['mean_forwards_a_text'][side]:,.0f}" if side in row["mean_forwards_a_text"] else "",
            _gib(row["peak_memory"][side]),
        ]
        for row in _rows(read, "gpu_sample")
        for side in row["tokens_per_sec"]
    ]
    return _table(("sampling", "tokens/s", "forwards a text", "peak memory"), rows)


def _attention(read: dict[str, Any]) -> list[str]:
    rows = [
        [
            f"{side}, {row['mask']}",
            f"{ms:.3f}",
            f"{row['flops_per_sec'][side] / 1e12:.0f}",
            _gib(row["peak_memory"][side]),
        ]
        for row in _rows(read, "gpu_attention")
        for side, ms in row["median_ms"].items()
    ]
    return _table(("attention, forward and backward", "ms", "TFLOP/s", "peak memory"), rows)


def _profiles(read: dict[str, Any]) -> Iterator[list[str]]:
    for row in _rows(read, "gpu_profile"):
        kind = "compiled" if row["compile"] else "eager"
        busy = (
            ""
            if row["device_busy_percent"] is None
            else f"; the device is busy {row['device_busy_percent']:.0f} % of it"
        )
        title = f"one step, {row['size']}, {kind}: {row['ms_per_step']:.1f} ms{busy}"
        parts = [[name, f"{ms:.2f}"] for name, ms in row["parts_ms_per_step"].items()]
        kernels = [[f"kernels: {name}", f"{ms:.2f}"] for name, ms in row["kernels_ms_per_step"].items()]
        yield _table((title, "ms"), [*parts, *kernels])


def _percent(value: float | None) -> str:
    return "" if value is None else f"{value:.1f} %"


def _gib(value: int | None) -> str:
    return "" if value is None else f"{value / 2**30:.2f} GiB"
