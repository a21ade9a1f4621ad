"""Runs two or more sides in turn in one process and compares medians: wall-clock is noisy, ratios within a run are not."""

from __future__ import annotations

import json
import platform
import shlex
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from _claims import Claim

RESULTS = Path(__file__).parent / "results"


def alternate(sides: dict[str, Callable[[], None]], pairs: int, warmup: int = 2) -> dict[str, list[float]]:
    """Call the sides A B A B ... and return the seconds of each call, without the warm-up rounds."""
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(warmup + pairs):
        for name, side in sides.items():
            _wait()
            start = time.perf_counter()
            side()
            _wait()
            if turn >= warmup:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def ratio(seconds: dict[str, list[float]], numerator: str, denominator: str) -> float:
    """Median over the pairs of the ratio within each pair: drift of the machine cancels."""
    return statistics.median(a / b for a, b in zip(seconds[numerator], seconds[denominator], strict=True))


def milliseconds(seconds: dict[str, list[float]]) -> dict[str, float]:
    """Median of each side in milliseconds."""
    return {name: round(1e3 * statistics.median(values), 2) for name, values in seconds.items()}


def about(name: str) -> dict[str, Any]:
    """Which benchmark, how it was called and on what: what every result begins with."""
    return {
        "benchmark": name,
        "command": shlex.join(["python", f"benchmarks/{name}.py", *sys.argv[1:]]),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else platform.machine() + " CPU",
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }


def write(name: str, result: dict, claims: Sequence[Claim] = (), size: str = "") -> None:
    """Print the result and keep it under ``benchmarks/results/``, with what it was measured on and what it claims.

    Results of several sizes lie in files of their own.
    """
    result = {
        **about(name),
        **({"claims": [claim.to_json() for claim in claims]} if claims else {}),
        **result,
    }
    text = json.dumps(result, indent=2)
    print(text)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}{size and f'_{size}'}.json").write_text(text + "\n")


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
