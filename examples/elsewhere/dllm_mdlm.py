"""The callbacks in dLLM's MDLMTrainer (transformers 4.57): ``PYTHONPATH=path/to/dllm python dllm_mdlm.py --steps 100``."""

from __future__ import annotations

import argparse
import importlib.util
import sys
from types import ModuleType
from typing import Any

from tiny import llama, rows, watching
from transformers import DefaultDataCollator, set_seed

from hf_difflm.data import load_tokenizer


def trainer_alone() -> Any:
    """dLLM's trainer without its pipelines, which want vLLM, lm-eval and checkpoints: packages without their ``__init__``."""
    (folder,) = importlib.util.find_spec("dllm").submodule_search_locations
    for name in ("", ".core", ".utils"):
        package = sys.modules[f"dllm{name}"] = ModuleType(f"dllm{name}")
        package.__path__ = [folder + name.replace(".", "/")]
    return importlib.import_module("dllm.core.trainers.mdlm")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--output", default="runs/dllm")
    given = parser.parse_args()
    set_seed(42)
    dllm = trainer_alone()
    tokenizer = load_tokenizer("bytes")
    args = dllm.MDLMConfig(
        output_dir=given.output,
        max_steps=given.steps,
        logging_steps=2,
        learning_rate=3e-3,
        per_device_train_batch_size=8,
        bf16=False,
        eval_strategy="no",
        save_strategy="no",
        report_to="none",
    )
    dllm.MDLMTrainer(
        args=args,
        model=llama(tokenizer),
        train_dataset=rows(tokenizer),
        processing_class=tokenizer,
        data_collator=DefaultDataCollator(),
        callbacks=watching(),
    ).train()


if __name__ == "__main__":
    main()
