"""The memory that ``doctor --recipe`` foretells against what a training takes on the card (``max_memory_allocated``).

Both are counted from the empty card to the end of three steps. On a CPU the estimate stands alone:
``tests`` hold it there against the allocator. Claim: within 15 %.
"""

from __future__ import annotations

import argparse
import gc
import tempfile
from typing import Any

import torch
from _card import asked_device, describe, forget, peak_memory
from _claims import Claim
from _kept import Kept, add_arguments
from gpu_train import SIZES, TOY, VOCABULARY, Tokens
from transformers import PrinterCallback

from hf_difflm import DiffusionTrainer, DiffusionTrainingArguments
from hf_difflm.data import load_tokenizer
from hf_difflm.experiments.building import build_model
from hf_difflm.experiments.memory.estimate import estimate_memory
from hf_difflm.experiments.recipe_settings import load_settings

STEPS = 3
CASES: dict[str, dict[str, Any]] = {
    "mdlm, bf16": {"bf16": True},
    "mdlm, bf16, average": {"bf16": True, "ema_decay": 0.999},
    "mdlm, bf16, checkpointing": {"bf16": True, "gradient_checkpointing": True},
    "mdlm, float32": {},
    "ar, bf16": {"objective": "ar", "bf16": True},
}


def measure(size: str, case: str, given: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    """Estimate, train, compare."""
    width, layers, heads, rows = (TOY if given.toy else SIZES)[size]
    rows = max(1, rows // 4)
    length = 32 if given.toy else 1024
    settings = load_settings(
        None,
        {
            "block_size": length,
            "hidden_size": width,
            "num_hidden_layers": layers,
            "num_attention_heads": heads,
            "backbone_config": {"vocab_size": 512 if given.toy else VOCABULARY},
            "per_device_train_batch_size": rows,
            "max_steps": STEPS,
            "eval_strategy": "no",
            "save_strategy": "no",
            "save_log_to_json": False,
            "disable_tqdm": True,
            "use_cpu": device.type == "cpu",
            **CASES[case],
        },
    )
    estimate = estimate_memory(settings)
    tokenizer = load_tokenizer("bytes")
    data = Tokens(rows * (STEPS + 1), length, tokenizer)
    gc.collect()
    forget(device)
    with tempfile.TemporaryDirectory() as folder:
        arguments = DiffusionTrainingArguments(output_dir=folder, **settings.training)
        trainer = DiffusionTrainer(build_model(settings, tokenizer), arguments, data, None, tokenizer)
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    taken = peak_memory(device)
    del trainer
    gc.collect()
    parts = ("weights", "gradients", "optimizer", "average", "activations", "logits", "buffers")
    return {
        "micro_batch": rows,
        "length": length,
        "estimate": estimate.training,
        "parts": {part: getattr(estimate, part) for part in parts},
        "measured": taken,
        "estimate_over_measured": None if taken is None else estimate.training / taken,
    }


def claims(result: dict[str, Any]) -> list[Claim]:
    """How far off the estimate is, where the card told."""
    mib = 2**20
    return [
        Claim(
            what=f"memory that doctor foretells, {row['size']}, {row['case']}, {row['micro_batch']} x {row['length']} tokens",
            sides={"estimate": row["estimate"] / mib, "measured": row["measured"] / mib},
            unit="MiB",
            measure="|estimate / measured - 1|",
            value=abs(row["estimate_over_measured"] - 1),
            asked="<= 0.15",
        )
        for row in result["rows"]
        if row.get("estimate_over_measured") is not None
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    add_arguments(parser)
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    given = parser.parse_args()
    device = asked_device(parser, given)
    kept = Kept("gpu_memory", given, describe(device), claims)
    size = "toy" if given.toy else "124M"
    for case in given.cases:
        kept.measure({"size": size, "case": case}, lambda case=case: measure(size, case, given, device))
    return kept.finish()


if __name__ == "__main__":
    raise SystemExit(main())
