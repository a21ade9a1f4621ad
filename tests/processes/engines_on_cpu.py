"""FSDP2 and DeepSpeed on CPU processes: accelerate knows both on GPUs only, so for the tests it must be told.

What is patched is how the engine is chosen; all that runs afterwards is accelerate's, torch's and DeepSpeed's own.
"""

from __future__ import annotations

import importlib
import os
from typing import Any

from accelerate.state import AcceleratorState, PartialState
from accelerate.utils import DistributedType

from hf_difflm.training.launch.processes import ENGINES_ON_CPU


def allow_fsdp() -> None:
    """``AcceleratorState`` makes FSDP of several GPUs alone; here it takes CPU processes for them."""
    ENGINES_ON_CPU.add("fsdp2")
    original = AcceleratorState.__init__

    def init(self: AcceleratorState, *args: Any, **kwargs: Any) -> None:
        if PartialState._shared_state.get("distributed_type") == DistributedType.MULTI_CPU:
            PartialState._shared_state["distributed_type"] = DistributedType.MULTI_GPU
        original(self, *args, **kwargs)

    AcceleratorState.__init__ = init


def allow_deepspeed() -> None:
    """``PartialState`` counts processes only where it has found a backend: here it is gloo, on the CPU."""
    ENGINES_ON_CPU.update({"zero1", "zero2", "zero3"})
    os.environ["DS_ACCELERATOR"] = "cpu"
    os.environ["ACCELERATE_TORCH_DEVICE"] = "cpu"

    # A faster all-reduce within one machine, whose C++ would take a minute to build; gloo does it without.
    importlib.import_module("deepspeed.comm.torch").build_shm_op = lambda: None

    def prepare_backend(self: PartialState, *args: Any, **kwargs: Any) -> tuple[str, DistributedType]:
        return "gloo", DistributedType.MULTI_GPU

    PartialState._prepare_backend = prepare_backend
