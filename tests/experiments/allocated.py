"""What a training really allocates, as PyTorch's profiler sees it; and a network and rows to try it on."""

from __future__ import annotations

import gc
import json
from typing import Any

import numpy as np
from torch.profiler import ProfilerActivity, profile

DEEP = {"block_size": 128, "hidden_size": 96, "num_hidden_layers": 8, "num_attention_heads": 4}


def allocated_at_most(run: Any, trace: Any) -> int:
    """The most bytes that PyTorch's allocator had given out at once while ``run`` ran, as the profiler saw it."""
    gc.collect()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        kept = run()
    profiler.export_chrome_trace(str(trace))
    del kept
    events = [e for e in json.loads(trace.read_text())["traceEvents"] if e.get("name") == "[memory]"]
    live: dict[int, int] = {}
    now = most = 0
    for event in sorted(events, key=lambda e: e["args"]["Ev Idx"]):
        address, size = event["args"]["Addr"], event["args"]["Bytes"]
        if size > 0:
            live[address] = size
            now += size
        else:
            now -= live.pop(address, 0)  # what was there before the run is none of its
        most = max(most, now)
    return most


def rows(count: int, length: int) -> list[dict[str, Any]]:
    generator = np.random.default_rng(0)
    return [{"input_ids": [256, *generator.integers(0, 256, length - 1).tolist()]} for _ in range(count)]
