"""The estimate of a run's memory as a table, and what it is compared with: devices, engines, sizes in GB."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
import yaml

from ...errors import UserError, did_you_mean
from ...training.launch.configs import FOLDER
from .estimate import USABLE, MemoryEstimate
from .sharding import ENGINES

_UNITS = {"": 1e9, "gb": 1e9, "gib": 2**30, "mb": 1e6, "mib": 2**20, "tb": 1e12}
_ROWS = {
    "weights": "weights",
    "gradients": "gradients (at the peak of a step)",
    "optimizer": "optimiser states ({optimizer_name})",
    "average": "moving average of the weights",
    "activations": "activations of a micro-batch ({recomputed})",
    "logits": "logits ({positions})",
    "buffers": "buffers of {engine}",
}


def bytes_of(text: str) -> int:
    """``80GB``, ``80`` (the same), ``24GiB`` or ``512MB`` in bytes.

    Raises:
        UserError: anything else, or nothing.
    """
    found = re.fullmatch(r"\s*([0-9]*\.?[0-9]+)\s*([A-Za-z]*)\s*", text)
    unit = _UNITS.get(found[2].lower()) if found else None
    if found is None or unit is None or float(found[1]) == 0:
        raise UserError(f"device_memory must be a size such as 80GB or 24GiB, got {text!r}")
    return int(float(found[1]) * unit)


def memory_here() -> int | None:
    """Bytes of the GPU of this machine; None where there is none."""
    return torch.cuda.mem_get_info()[1] if torch.cuda.is_available() else None


def of_accelerate_config(name: str) -> tuple[str, int, bool]:
    """Engine, processes and whether it sets half precision, as a configuration of accelerate says.

    Args:
        name: of one that ships with the package, or a YAML file.

    Raises:
        UserError: there is no such configuration, or it is of an engine that cannot be estimated.
    """
    path = FOLDER / f"{name}.yaml"
    if not path.is_file():
        path = Path(name)
    if not path.is_file():
        known = sorted(config.stem for config in FOLDER.glob("*.yaml"))
        hint = did_you_mean(name, known) or f"; give a YAML file, or one of {', '.join(known)}"
        raise UserError(f"there is no accelerate configuration {name!r}{hint}")
    try:
        config: Any = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is no YAML file; write one with `accelerate config`") from error
    if not isinstance(config, dict) or "distributed_type" not in config:
        raise UserError(f"{path} has no distributed_type, so it is no configuration of accelerate")
    kind = str(config["distributed_type"])
    if kind == "DEEPSPEED":
        stage = (config.get("deepspeed_config") or {}).get("zero_stage", 2)
        engine = f"zero{stage}"
    elif kind == "FSDP":
        engine = f"fsdp{(config.get('fsdp_config') or {}).get('fsdp_version', 1)}"
    else:
        engine = "ddp"
    if engine not in ENGINES:
        raise UserError(f"{path} asks for {engine}, which cannot be estimated; use one of {', '.join(ENGINES)}")
    processes = config.get("num_processes", 1)
    if not isinstance(processes, int) or processes < 1:
        raise UserError(f"num_processes in {path} must be a positive integer, got {processes!r}")
    return engine, processes, config.get("mixed_precision") in ("bf16", "fp16")


def table(estimate: MemoryEstimate) -> str:
    """The estimate in lines for the terminal."""
    e = estimate
    engine = f"{e.devices} devices ({e.engine})" if e.devices > 1 else "1 device"
    masked = f"at most {e.labelled:,} of " if e.objective != "ar" else ""
    words = {
        "optimizer_name": e.optimizer_name,
        "recomputed": "recomputed: checkpointing" if e.checkpointing else "kept",
        "positions": f"{masked}{e.micro_batch * e.block_size:,} positions x {e.vocabulary:,} tokens",
        "engine": e.engine,
    }
    precision = "half precision" if e.half else "float32"
    trained = f" ({e.trained:,} trained)" if e.trained < e.parameters else ""
    lines = [
        f"{e.objective}: {e.parameters:,} parameters{trained}, {e.vocabulary:,} tokens in the vocabulary, blocks of "
        f"{e.block_size:,} tokens, {precision}" + (f"; reads {e.reads}" if e.reads else ""),
        f"{engine}: micro-batch {e.micro_batch}, accumulation {e.accumulation}, global_batch_size {e.global_batch_size}",
        "",
    ]
    rows = [(label.format(**words), getattr(e, name)) for name, label in _ROWS.items()]
    rows = [(label, size) for label, size in rows if size]
    rows += [("a training step", e.training), ("an evaluation", e.evaluation)]
    rows += [("writing best/, adapters merged", e.merging)] if e.merging else []
    rows.append(("needed on each device", e.total))
    width = max(len(label) for label, _ in rows)
    lines += [f"{label:<{width}}  {_in_words(size):>9}" for label, size in rows]
    other = "without" if e.checkpointing else "with"
    lines += ["", f"{other} --activation-checkpointing: {_in_words(e.other_checkpointing)}"]
    lines += [f"assumed: {sentence}" for sentence in e.assumed]
    lines.append(_verdict(e))
    lines.append(
        "an estimate of what eager PyTorch allocates, within 15 % on one device; sharding engines by their formulas"
    )
    return "\n".join(lines)


def _in_words(size: int) -> str:
    return f"{size / 1e9:.2f} GB" if size >= 1e8 else f"{size / 1e6:.2f} MB"


def _verdict(e: MemoryEstimate) -> str:
    if e.device_memory is None:
        return "no GPU here to compare with: give --device-memory, e.g. 80GB"
    device = f"{_in_words(e.device_memory)} ({100 * USABLE:.0f} % of it planned with)"
    verdict = "fits" if e.fits else "does not fit"
    if not e.largest_micro_batch:
        if e.evaluation > USABLE * e.device_memory:
            return f"{verdict} into {device}: not even an evaluation does; lower --per-device-eval-batch-size"
        if e.merging > USABLE * e.device_memory:
            return f"{verdict} into {device}: merging the adapters for best/ does not; give --no-lora-merge"
        remedies = [] if e.checkpointing else ["try --activation-checkpointing"]
        if e.trained == e.parameters:  # adapters do not train sharded
            remedies.append("use --engine fsdp2")
        remedy = ", or ".join(remedies) or "take shorter blocks"
        return f"{verdict} into {device}: no micro-batch does; {remedy}, or a smaller network"
    return (
        f"{verdict} into {device}; the largest micro-batch that fits: --per-device-train-batch-size "
        f"{e.largest_micro_batch}, with an accumulation of {e.largest_accumulation}"
    )
